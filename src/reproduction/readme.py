"""The tables of the README that follow from the committed results.

Each is between `<!-- table ba2016/table1 -->`, or `<!-- claims ba2016/table1 -->`, and `<!-- end -->`.
"""

import re
from pathlib import Path

import pandas as pd

from src.config.errors import UserError
from src.config.paths import PROJECT, REFERENCE
from src.reproduction.report import markdown
from src.utils.files import write_whole

README = PROJECT / "README.md"
BLOCK = re.compile(r"<!-- (table|claims) (\S+) -->\n.*?<!-- end -->", re.DOTALL)
LEFT_OUT = ["source"]
"""Of the columns of a claim."""


def renewed(text: str, reference: Path) -> str:
    """A text with its tables regenerated from the reports in a folder.

    Raises:
        UserError: a table names a report that does not exist.
    """

    def block(match: re.Match[str]) -> str:
        kind, name = match.groups()
        try:
            frame = pd.read_csv(reference / name / f"{kind}.csv", dtype=str)
        except FileNotFoundError:
            raise UserError(f"{match[0].splitlines()[0]}: {reference / name} contains no report") from None
        if kind == "claims":
            frame = frame.drop(columns=LEFT_OUT)
        return f"<!-- {kind} {name} -->\n{markdown(frame).strip()}\n<!-- end -->"

    return BLOCK.sub(block, text)


def renew() -> None:
    """Regenerate the tables of the README from the committed results."""
    write_whole(README, renewed(README.read_text(), REFERENCE).encode())


def holds() -> bool:
    """Whether the README agrees with the committed results."""
    text = README.read_text()
    return text == renewed(text, REFERENCE)
