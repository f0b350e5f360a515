"""Progress of a sweep, read from the files of its runs, whichever launcher runs them."""

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich import get_console

from src.config.paths import RESULT
from src.results.result import read_result
from src.results.runs import Run, as_run
from src.utils.files import is_locked


class SweepProgress:
    """Prints a line every so often when runs have ended, and one at the end.

    Args:
        folder: the folder of the sweep.
        seconds_between_lines: minimum time between lines.
        seconds_between_looks: time between reads of the folder.
    """

    def __init__(self, folder: Path, seconds_between_lines: float = 10.0, seconds_between_looks: float = 1.0):
        self.folder = folder
        self.seconds_between_lines = seconds_between_lines
        self.seconds_between_looks = seconds_between_looks
        self.runs: dict[str, Run] = {}
        self.before: dict[str, int] = {}
        self.num_later = 0
        self.num_ended_before = 0
        self.started = self.last_line = time.monotonic()
        self.shown = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def expect(self, kept: Iterable[str], left: Iterable[str], num_later: int = 0) -> None:
        """Add runs: those whose results are kept, those left to launch, and how many more will be added later."""
        num_known = len(self.runs)
        for name in kept:
            self._read(name)
        self.num_ended_before += len(self.runs) - num_known
        self.before |= {name: _written(self.folder / name) for name in left}
        self.num_later = num_later
        if self._thread.ident is None:
            self._thread.start()

    def end(self) -> None:
        """Stop polling and print the final line."""
        if self._thread.is_alive():
            self._ended.set()
            self._thread.join()
            self.look()
            self.say()

    def look(self) -> bool:
        """Read new results; return whether there are any."""
        before = list(self.before.items())  # `expect` may add to it meanwhile
        new = [name for name, written in before if _written(self.folder / name) not in (0, written)]
        for name in new:
            if self._read(name):
                del self.before[name]
        return bool(new)

    def _read(self, name: str) -> bool:
        """Read the result of a run; return whether there is one and the run was not merely interrupted."""
        result = read_result(self.folder / name)
        if result is None or result["status"] == "interrupted":
            return False
        self.runs[name] = as_run(name, result, settings={})
        return True

    def say(self) -> None:
        """Print the line, unless it has not changed."""
        line = self.line()
        if line != self.shown:
            get_console().print(line, markup=False, highlight=False, soft_wrap=True)
        self.shown, self.last_line = line, time.monotonic()

    def line(self) -> str:
        """The numbers of runs done, running, failed and left, the time left, and the best runs so far."""
        runs = list(self.runs.values())
        counts = Counter(run.status for run in runs)
        done = sum(run.ended for run in runs)
        running = sum(is_locked(self.folder / name) for name in list(self.before))
        left = len(self.before) - running + self.num_later
        parts = [f"{done} of {len(self.runs) + len(self.before) + self.num_later} done"]
        if counts["diverged"]:
            parts[0] += f" ({counts['diverged']} diverged)"
        parts += [f"{running} running", f"{counts['failed']} failed", f"{left} left"]
        ended = len(self.runs) - self.num_ended_before
        if ended and running + left:
            parts.append(f"about {_duration((time.monotonic() - self.started) / ended * (left + running))} to go")
        return ", ".join(parts) + "".join(self._best())

    def _best(self) -> Iterator[str]:
        """The best run on each objective."""
        best: dict[str, tuple[float, Run]] = {}
        for run in list(self.runs.values()):
            value, tag = run.validation_objective, run.objective_tag
            if value is not None and (tag not in best or run.objective.improves(value, best[tag][0])):
                best[tag] = value, run
        for tag, (value, run) in best.items():
            yield f"; best {tag} {value:.4g}: {run.name}"

    def _watch(self) -> None:
        news = False
        while not self._ended.wait(self.seconds_between_looks):
            news |= self.look()
            if news and time.monotonic() - self.last_line >= self.seconds_between_lines:
                self.say()
                news = False


def _written(folder: Path) -> int:
    """When a run wrote its result, 0 if it has none."""
    try:
        return (folder / RESULT).stat().st_mtime_ns
    except OSError:
        return 0


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
