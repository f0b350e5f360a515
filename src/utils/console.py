"""Commands: their options, and printing in any encoding, at full width, and to a reader that may go away."""

import argparse
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from rich import get_console

if TYPE_CHECKING:
    from rich.table import Table


class CommandLine(argparse.ArgumentParser):
    """A parser that shows its description as it is written and reports a mistake in one line, with exit status 1."""

    def __init__(self, **settings: Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def error(self, message: str) -> NoReturn:
        """End the process with this message."""
        self.exit(1, f"error: {message} (see --help)\n")


@contextmanager
def printing() -> Iterator[None]:
    """Replace characters that the output cannot show, and end quietly once nobody reads it, as with `| head`."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        get_console().on_broken_pipe()


def print_table(table: "Table") -> None:
    """Print a table as wide as its content, so that nothing is cut off; a narrow terminal wraps its lines."""
    console = get_console()
    table.width = console.measure(table, options=console.options.update(max_width=10_000)).maximum
    console.print(table, crop=False)
