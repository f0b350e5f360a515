"""The findings of a part, written one at a time, so that earlier ones survive whatever happens to the part."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import TypeAdapter, ValidationError

from src.config.errors import explain
from src.utils.jsonl import read_lines

Verdict = Literal["ok", "measured", "missed", "wrong", "failed", "not run"]
GOOD: tuple[Verdict, ...] = ("ok", "measured", "not run")


class Row(NamedTuple):
    """One finding."""

    part: str
    what: str
    found: str
    wanted: str = ""
    verdict: Verdict = "measured"


_ROW = TypeAdapter(Row)


class Rows:
    """Writes findings to a file, and prints them.

    Args:
        part: name of the part whose findings they are.
        path: path of the file.
        judge: whether to judge findings by the speed targets; False on a CPU, to which these do not apply.
    """

    def __init__(self, part: str, path: Path, judge: bool):
        self.part = part
        self.path = path
        self.judge = judge

    def add(self, what: str, found: str, wanted: str = "", verdict: Verdict = "measured") -> None:
        """Write a finding."""
        row = Row(self.part, what, found, wanted, verdict)
        print(f"{verdict:9} {what}: {found}" + (f" (wanted: {wanted})" if wanted else ""), flush=True)
        with open(self.path, "a") as file:
            file.write(json.dumps(row._asdict()) + "\n")

    def target(self, what: str, found: str, wanted: str, reached: bool) -> None:
        """Write whether a speed target is reached."""
        self.add(what, found, wanted, ("ok" if reached else "missed") if self.judge else "measured")

    def right(self, what: str, found: str, wanted: str, is_right: bool) -> None:
        """Write whether a result is correct."""
        self.add(what, found, wanted, "ok" if is_right else "wrong")

    @contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """Write an exception as a finding, and continue."""
        try:
            yield
        except Exception as error:
            self.add(what, " ".join(explain(error).split())[:300], verdict="failed")


def read_rows(path: Path) -> list[Row]:
    """The findings in a file; damaged lines are skipped."""
    found = []
    for line in read_lines(path):
        with suppress(ValidationError):
            found.append(_ROW.validate_python(line))
    return found
