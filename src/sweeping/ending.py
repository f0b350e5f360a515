"""Ends the command of a sweep with a table, whatever happened. It imports little, since `--help` waits for it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from src.config.errors import in_one_line
from src.sweeping.hydra_sweeper import redirect

end: Callable[[], bool] | None = None
"""Prints the table of the sweep started by this process; returns whether all of its runs finished or diverged."""


@contextmanager
def ending_in_a_table() -> Iterator[None]:
    """Once Hydra has returned or raised, print the table of the sweep, if any, and exit with its status."""
    global end
    end = None
    status: Any = 0
    try:
        with in_one_line():
            yield
    except SystemExit as ended:
        status = ended.code
    finally:
        redirect(None)
    try:
        with in_one_line():
            if end is not None and not end():
                status = status or 1
    except SystemExit as ended:
        status = status or ended.code
    if status:
        sys.exit(status)
