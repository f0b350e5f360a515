"""The tables of the README that follow from the committed results.

Each is between `<!-- table ba2016/table1 -->`, `<!-- claims ba2016/table1 -->`, or `<!-- index -->` for a row per table
and figure, and `<!-- end -->`.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import get_args

import pandas as pd

from src.config.errors import UserError
from src.config.paths import PROJECT, REFERENCE
from src.reproduction.effects import Verdict
from src.reproduction.report import PROVENANCE, markdown
from src.reproduction.reproduce import reproductions
from src.utils.files import write_whole

README = PROJECT / "README.md"
BLOCK = re.compile(r"<!-- (?:(table|claims) (\S+)|index) -->\n.*?<!-- end -->", re.DOTALL)
VERDICTS = get_args(Verdict)
LEFT_OUT = ["source"]
"""Of the columns of a claim."""


def renewed(text: str, reference: Path) -> str:
    """A text with its tables regenerated from the reports in a folder.

    Raises:
        UserError: a table names a report that does not exist.
    """

    def block(match: re.Match[str]) -> str:
        kind, name = match.groups()
        if kind is None:
            return f"<!-- index -->\n{markdown(index(reference)).strip()}\n<!-- end -->"
        try:
            frame = pd.read_csv(reference / name / f"{kind}.csv", dtype=str)
        except FileNotFoundError:
            raise UserError(f"{match[0].splitlines()[0]}: {reference / name} contains no report") from None
        if kind == "claims":
            frame = frame.drop(columns=LEFT_OUT)
        return f"<!-- {kind} {name} -->\n{markdown(frame).strip()}\n<!-- end -->"

    return BLOCK.sub(block, text)


def index(reference: Path) -> pd.DataFrame:
    """A row per table and figure: what it is, how its claims fare, and what its report took."""
    rows = []
    for name, reproduction in reproductions().items():
        row = {"name": f"`{name}`", "what": reproduction.title, "claims": "not run", "runs": "-", "hours": "-"}
        folder = reference / name
        if (folder / "claims.csv").exists():
            found = pd.read_csv(folder / "claims.csv", dtype=str)["verdict"] if reproduction.claims else []
            counts = Counter(found)
            spelled = []
            for verdict in VERDICTS:
                at_edge = counts[f"{verdict}, edge"]
                if count := counts[verdict] + at_edge:
                    spelled.append(f"{count} {verdict}" + f" ({at_edge} at an edge)" * (at_edge > 0))
            made = json.loads((folder / PROVENANCE).read_bytes())
            row["name"] = f"[{name}](outputs/reference/{name}/report.md)"
            row["claims"] = ", ".join(spelled) or "none"
            row |= {"runs": f"{made['runs']:,}", "hours": f"{made['hours']:.1f}"}
        rows.append(row)
    return pd.DataFrame(rows)


def renew() -> None:
    """Regenerate the tables of the README from the committed results."""
    write_whole(README, renewed(README.read_text(), REFERENCE).encode())


def holds() -> bool:
    """Whether the README agrees with the committed results."""
    text = README.read_text()
    return text == renewed(text, REFERENCE)
