"""Completes one run, or several runs as one program."""

import gc
import logging
import math
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

import torch

from src.config.errors import explain
from src.config.paths import LOG
from src.training.evaluation import StackedEvaluation
from src.training.population import Stacked, stack
from src.training.signals import stopping_on_signals
from src.training.trainer import Trainer

log = logging.getLogger(__name__)
Life = Generator[Trainer, None, dict[str, Any]]
"""A run from its folder to its result, which the generator returns. It yields its trainer once that is built, and from
then on whenever an update is due. An exception raised by the update is thrown into it."""
SECONDS_BETWEEN_LINES = 10.0
_speaking: ContextVar[Path | None] = ContextVar("speaking", default=None)


def finish(lives: Mapping[Path, Life]) -> dict[Path, dict[str, Any]]:
    """Complete runs, all at the same time, and return their results by folder.

    The runs have to be alike (see `src.running.groups`). On a GPU, as many as fit are trained at a time. After a
    signal, runs that have not begun have no result, and the results of the others have `stop_requested`.
    """
    results: dict[Path, dict[str, Any]] = {}
    with ExitStack() as stack:
        for life in lives.values():
            stack.callback(life.close)
        if len(lives) > 1:
            stack.enter_context(_with_a_log_each())
        while len(results) < len(lives):
            runs = _Runs(lives, results)
            runs.begin()
            if runs.train():
                return {folder: result | {"stop_requested": True} for folder, result in results.items()}
    return results


class _Runs:
    """Runs in progress.

    Args:
        lives: the runs, by folder.
        results: receives their results, by folder.
    """

    def __init__(self, lives: Mapping[Path, Life], results: dict[Path, dict[str, Any]]):
        self.lives = lives
        self.results = results
        self.going: dict[Path, Trainer] = {}
        self.last_line = time.monotonic()

    def begin(self) -> None:
        """Build the trainers of runs without a result, as many as fit."""
        needed = 0.0
        for folder in [folder for folder in self.lives if folder not in self.results]:
            self.go_on(folder)
            if len(self.lives) > 1 and folder in self.going:
                trainer = self.going[folder]
                trainer.state.rng = torch.get_rng_state()
                needed = needed or bytes_of_one(trainer)
                if len(self.going) * needed >= 0.8 * bytes_left(trainer.device):
                    return

    def go_on(self, folder: Path, error: Exception | None = None) -> None:
        """Let a run do everything before its next update; `error` is the error that its last update raised, if any."""
        speaking = _speaking.set(folder if len(self.lives) > 1 else None)
        try:
            life = self.lives[folder]
            self.going[folder] = next(life) if error is None else life.throw(error)
        except StopIteration as ended:
            self.results[folder] = ended.value
            self.going.pop(folder, None)
        finally:
            _speaking.reset(speaking)

    def train(self) -> bool:
        """Do the updates of all runs until the last run has ended, and return whether a signal was received."""
        with stopping_on_signals(*self.going.values()) as signals:
            for folder in list(self.going):
                self.go_on(folder)
            can_be_stacked = True
            while self.going:
                trainers = list(self.going.values())
                if can_be_stacked and worth_stacking(trainers):
                    can_be_stacked = self._train_stacked(trainers)
                else:
                    self._train_in_turn()
        return bool(signals)

    def _train_in_turn(self) -> None:
        """Update one run after the other, until a run ends."""
        number = len(self.going)
        while len(self.going) == number:
            for folder, trainer in list(self.going.items()):
                try:
                    trainer.do_update()
                except Exception as error:
                    self.go_on(folder, error)
                else:
                    self.go_on(folder)
            if number > 1:
                self._say()

    def _train_stacked(self, trainers: list[Trainer]) -> bool:
        """Update all runs at once, until a run ends; False if that is not possible, for example for lack of memory."""
        folders = list(self.going)
        try:
            with closing(Stacked([trainer.update for trainer in trainers])) as stacked:
                evaluation = StackedEvaluation(stacked)
                for row, trainer in enumerate(trainers):
                    trainer.evaluate_elsewhere = partial(evaluation.of, row)
                while len(self.going) == len(folders):
                    started = time.perf_counter()
                    stacked()
                    trainers[0].wait()
                    share = (time.perf_counter() - started) / len(folders)
                    for folder, trainer in zip(folders, trainers, strict=True):
                        trainer.state.seconds += share
                        self.go_on(folder)
                    self._say()
        except Exception as error:
            log.warning(
                "%d runs cannot be trained as one program, so they take turns: %s", len(folders), explain(error)
            )
            return False
        finally:
            for trainer in trainers:
                trainer.evaluate_elsewhere = None
        return True

    def _say(self) -> None:
        """Log the progress of the runs, every few seconds."""
        now = time.monotonic()
        if now - self.last_line >= SECONDS_BETWEEN_LINES and self.going:
            self.last_line = now
            states = [trainer.state for trainer in self.going.values()]
            rate = sum(state.update for state in states) / sum(state.seconds for state in states)
            log.info("%d runs together, update %d, %.0f updates/s", len(states), states[0].update, rate)


def worth_stacking(trainers: list[Trainer]) -> bool:
    """Whether one program is faster than updates in turn: not for one run, nor on a CPU with a kernel for the model."""
    first = trainers[0]
    return len(trainers) > 1 and not (first.device.type == "cpu" and first.model.core.is_fused)


def bytes_of_one(trainer: Trainer) -> float:
    """The bytes of GPU memory that each run needs when runs are trained together, measured; 0 on a CPU."""
    if trainer.device.type != "cuda":
        return 0.0
    gc.collect()  # runs that have ended, which are in reference cycles
    try:
        for _ in range(2):  # the first time includes workspaces, which all runs share
            before = torch.cuda.memory_allocated(trainer.device)
            torch.cuda.reset_peak_memory_stats(trainer.device)
            with closing(Stacked([trainer.update])) as stacked:
                stacked.gradients(stack(stacked.next_batches()), stacked.recurrent)
    except Exception as error:  # the first update of the run will fail too, and that is recorded
        log.warning("runs are trained one at a time, since the memory of one cannot be measured: %s", explain(error))
        return math.inf
    return torch.cuda.max_memory_allocated(trainer.device) - before


def bytes_left(device: torch.device) -> float:
    """The free bytes of a GPU, including memory that torch has reserved but not allocated; infinity on a CPU."""
    if device.type != "cuda":
        return math.inf
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


class _LogOfEach(logging.Handler):
    """Appends what a run logs to its `train.log`, opening it only for that moment, since there may be many runs."""

    def emit(self, record: logging.LogRecord) -> None:
        folder = _speaking.get()
        if folder is not None:
            with suppress(OSError), open(folder / LOG, "a") as file:  # as on a full disk
                file.write(self.format(record) + "\n")


@contextmanager
def _with_a_log_each() -> Iterator[None]:
    """Send what each run logs to its own `train.log`, and only its warnings to the console."""

    def of_file(record: logging.LogRecord) -> bool:
        return _speaking.get() is None

    def of_console(record: logging.LogRecord) -> bool:
        return _speaking.get() is None or record.levelno >= logging.WARNING

    root, each = logging.getLogger(), _LogOfEach()
    filtered = [
        (handler, of_file if isinstance(handler, logging.FileHandler) else of_console) for handler in root.handlers
    ]
    each.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root.addHandler(each)
    for handler, accepts in filtered:
        handler.addFilter(accepts)
    try:
        yield
    finally:
        root.removeHandler(each)
        for handler, accepts in filtered:
            handler.removeFilter(accepts)
