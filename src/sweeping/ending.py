"""How a command with a sweep ends: with a table, whatever happened. Light to import, since `--help` ends this way, too."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from src.config.errors import in_one_line
from src.sweeping.hydra_sweeper import redirect

if TYPE_CHECKING:
    from src.sweeping.sweep import Sweep

sweep: "Sweep | None" = None
"""The sweep started by this process."""


@contextmanager
def ending_in_a_table() -> Iterator[None]:
    """Once Hydra has returned or raised, print the table of the sweep, if any, and exit with its status."""
    global sweep
    sweep = None
    status: Any = 0
    try:
        with in_one_line():
            yield
    except SystemExit as ended:
        status = ended.code
    finally:
        redirect(None)
    if sweep is not None:
        sweep.progress.end()
        from src.reports.report import end_sweep
        from src.results.result import ENDED

        statuses = end_sweep(sweep.folder, sweep.configurations)
        if not status and not set(ENDED).issuperset(statuses):
            status = 1
    if status:
        sys.exit(status)
