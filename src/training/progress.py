"""Progress of a run on the console: a bar on a terminal, a plain line every few seconds elsewhere."""

import logging
import time
from types import TracebackType

from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from src.utils.lifeline import in_worker

log = logging.getLogger(__name__)


class ConsoleHandler(logging.Handler):
    """Prints log messages above the progress bar, unchanged and unwrapped; warnings and errors start with their level.

    The workers of a sweep share a terminal, so the progress of a run goes only to its `train.log`.
    """

    def __init__(self, stream: None = None):
        super().__init__()

    def emit(self, record: logging.LogRecord) -> None:
        if in_worker() and record.name == __name__:
            return
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        try:
            get_console().print(level + self.format(record), markup=False, highlight=False, soft_wrap=True)
        except BrokenPipeError:
            raise
        except OSError:  # as on a full disk; train.log has the line
            pass


class RunProgress:
    """The progress of one run, updated with losses and evaluations.

    Args:
        max_updates: the last update.
        update: the update to start from.
        seconds_between_lines: minimum time between lines where there is no bar.
        has_bar: whether to show a bar on a terminal, which works for one run at a time.
    """

    def __init__(self, max_updates: int, update: int, seconds_between_lines: float = 10.0, has_bar: bool = True):
        self.max_updates = max_updates
        self.update = update
        self.seconds_between_lines = seconds_between_lines
        self.has_bar = has_bar
        self.evaluation = ""
        self.bar = Progress(
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[loss]}  {task.fields[evaluation]}  {task.fields[speed]:.0f}/s"),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            console=get_console(),
            transient=True,
        )

    def __enter__(self) -> "RunProgress":
        self.started = self.last_line = time.monotonic()
        self.first_update = self.update
        self.interactive = self.has_bar and get_console().is_terminal and not in_worker()
        if self.interactive:
            self.bar.start()
        self.row = self.bar.add_task(
            "", total=self.max_updates, completed=self.update, loss="", evaluation="", speed=0.0
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.interactive:
            self.bar.stop()

    def advance(self, update: int, metrics: dict[str, float]) -> None:
        """Report the current update and the metrics of its batch."""
        self.update = update
        now = time.monotonic()
        speed = (update - self.first_update) / max(now - self.started, 1e-9)
        if self.interactive:
            loss = f"loss {metrics['loss']:.4f}"
            shown = self.evaluation.partition("  ")[0]
            self.bar.update(self.row, completed=update, loss=loss, evaluation=shown, speed=speed)
        elif now - self.last_line >= self.seconds_between_lines:
            self.last_line = now
            left = (self.max_updates - update) / max(speed, 1e-9)
            log.info(
                "update %d/%d  %s  %s  %.0f updates/s  %.0f s left",
                update, self.max_updates, _joined("train", metrics), self.evaluation, speed, left,
            )  # fmt: skip

    def evaluated(self, update: int, metrics: dict[str, float]) -> None:
        """Report the result of an evaluation."""
        self.evaluation = _joined("val", metrics)
        log.info("update %d  %s", update, self.evaluation)


def _joined(split: str, metrics: dict[str, float]) -> str:
    return "  ".join(f"{split}/{name} {value:.4f}" for name, value in metrics.items())
