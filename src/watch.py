"""How far a sweep is, from what its runs have written, whichever launcher runs them."""

import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich import get_console

from src.experiment import ENDED, RESULT, read_result
from src.selection import objective_name, validation_objective
from src.utils.files import is_locked


class SweepProgress:
    """A line now and then, when a run has ended, and one at the end.

    Args:
        folder: of the sweep.
        seconds_between_lines: at least.
        seconds_between_looks: at the folder.
    """

    def __init__(self, folder: Path, seconds_between_lines: float = 10.0, seconds_between_looks: float = 1.0):
        self.folder = folder
        self.seconds_between_lines = seconds_between_lines
        self.seconds_between_looks = seconds_between_looks
        self.results: dict[str, Mapping[str, Any]] = {}
        self.before: dict[str, int] = {}
        self.num_later = 0
        self.num_ended_before = 0
        self.started = self.last_line = time.monotonic()
        self.shown = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def expect(self, kept: Mapping[str, Mapping[str, Any]], left: Iterable[str], num_later: int = 0) -> None:
        """Name the runs: results that stay, runs that will be launched, and how many more will be named later."""
        self.results |= kept
        self.num_ended_before += len(kept)
        self.before |= {name: _written(self.folder / name) for name in left}
        self.num_later = num_later
        if not self._thread.is_alive():
            self._thread.start()

    def end(self) -> None:
        """Stop watching and say how far it got."""
        if self._thread.is_alive():
            self._ended.set()
            self._thread.join()
            self.look()
            self.say()

    def look(self) -> bool:
        """Read the results that are new; whether there are any."""
        new = {}
        for name, written in list(self.before.items()):
            if _written(self.folder / name) not in (0, written) and (result := read_result(self.folder / name)):
                new[name] = result
        for name, result in new.items():
            if result["status"] != "interrupted":
                self.results[name] = result
                del self.before[name]
        return bool(new)

    def say(self) -> None:
        """Print the line, unless it is the last one again."""
        line = self.line()
        if line != self.shown:
            get_console().print(line, markup=False, highlight=False, soft_wrap=True)
        self.shown, self.last_line = line, time.monotonic()

    def line(self) -> str:
        """Done, running, failed, left; time left; the best so far."""
        counts: dict[str, int] = {}
        for result in self.results.values():
            counts[result["status"]] = counts.get(result["status"], 0) + 1
        done = sum(counts.get(status, 0) for status in ENDED)
        running = sum(is_locked(self.folder / name) for name in list(self.before))
        left = len(self.before) - running + self.num_later
        parts = [f"{done} of {len(self.results) + len(self.before) + self.num_later} done"]
        if counts.get("diverged"):
            parts[0] += f" ({counts['diverged']} diverged)"
        parts += [f"{running} running", f"{counts.get('failed', 0)} failed", f"{left} left"]
        ended = len(self.results) - self.num_ended_before
        if ended and running + left:
            parts.append(f"about {_duration((time.monotonic() - self.started) / ended * (left + running))} to go")
        return ", ".join(parts) + "".join(self._best())

    def _best(self) -> Iterable[str]:
        """The best run on each metric that runs are selected on."""
        best: dict[str, tuple[float, str]] = {}
        for name, result in self.results.items():
            value = validation_objective(result)
            if value is not None:
                tag = objective_name(result)
                best[tag] = min(best.get(tag, (value, name)), (value, name))
        return [f"; best {tag} {value:.4g}: {name}" for tag, (value, name) in best.items()]

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
