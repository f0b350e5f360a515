"""Tables, in the README and on the page of all results, that are generated from the committed results.

Each begins after `<!-- table ba2016/table1 -->`, `<!-- claims ba2016/table1 -->`, or `<!-- index -->` (one row per
table and figure), and extends to `<!-- end -->`.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pandas as pd

from src.config.errors import UserError
from src.config.paths import PROJECT, REFERENCE
from src.reproduction.effects import Verdict
from src.reproduction.report import PROVENANCE, markdown
from src.reproduction.reproduce import reproductions
from src.utils.files import write_whole

PAGES = (PROJECT / "README.md", REFERENCE / "README.md")
BLOCK = re.compile(r"<!-- (?:(table|claims) (\S+)|index) -->\n.*?<!-- end -->", re.DOTALL)
VERDICTS = get_args(Verdict)
LEFT_OUT = ["source"]
"""Columns of a table of claims that are left out on these pages."""


def renewed(text: str, reference: Path) -> str:
    """A text with its tables regenerated from the reports in a folder.

    Raises:
        UserError: a table names a report that does not exist.
    """

    def block(match: re.Match[str]) -> str:
        kind, name = match.groups()
        if kind is None:
            return f"<!-- index -->\n{counted(reference)}\n\n{markdown(index(reference)).strip()}\n<!-- end -->"
        try:
            frame = pd.read_csv(reference / name / f"{kind}.csv", dtype=str)
        except FileNotFoundError:
            raise UserError(f"{match[0].splitlines()[0]}: {reference / name} contains no report") from None
        if kind == "claims":
            frame = frame.drop(columns=LEFT_OUT)
        return f"<!-- {kind} {name} -->\n{markdown(frame).strip()}\n<!-- end -->"

    return BLOCK.sub(block, text)


def index(reference: Path) -> pd.DataFrame:
    """One row per table and figure: its title, the verdicts on its claims, and the runs and hours behind its report.

    Links are relative to the folder, which contains the page of all results.
    """
    rows = []
    for name, reproduction in reproductions().items():
        row = {"name": f"`{name}`", "what": reproduction.title, "claims": "not run", "runs": "-", "hours": "-"}
        folder = reference / name
        if (folder / "claims.csv").exists():
            counts = Counter(_verdicts(name, reference))
            spelled = []
            for verdict in VERDICTS:
                at_edge = counts[f"{verdict}, edge"]
                if count := counts[verdict] + at_edge:
                    spelled.append(f"{count} {verdict}" + f" ({at_edge} at an edge)" * (at_edge > 0))
            made = json.loads((folder / PROVENANCE).read_bytes())
            row["name"] = f"[{name}]({name}/report.md)"
            row["claims"] = ", ".join(spelled) or "none"
            row |= {"runs": f"{made['runs']:,}", "hours": f"{made['hours']:.1f}"}
        rows.append(row)
    return pd.DataFrame(rows)


def counted(reference: Path) -> str:
    """A sentence that says how many claims there are, by verdict."""
    verdicts = [one.removesuffix(", edge") for name in reproductions() for one in _verdicts(name, reference)]
    counts = Counter(verdicts)
    each = ", ".join(f"{counts[verdict]} are {verdict}" for verdict in VERDICTS if counts[verdict])
    return f"Of {len(verdicts):,} claims, {each}."


def _verdicts(name: str, reference: Path) -> list[str]:
    """The verdicts of a committed report; empty if there is no report or it has no claims."""
    file = reference / name / "claims.csv"
    if not reproductions()[name].claims or not file.exists():
        return []
    return pd.read_csv(file, dtype=str)["verdict"].tolist()


def renew() -> None:
    """Regenerate the tables of the pages from the committed results."""
    for page in PAGES:
        write_whole(page, renewed(page.read_text(), REFERENCE).encode())


def checked_pages() -> Iterator[tuple[str, bool]]:
    """Each page, and whether its tables agree with the committed results."""
    for page in PAGES:
        text = page.read_text()
        yield str(page.relative_to(PROJECT)), text == renewed(text, REFERENCE)
