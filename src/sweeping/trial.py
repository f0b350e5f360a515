"""One trial of a search: an ordinary run, in this process or in a worker."""

import json
import logging
import math
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import takewhile
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import optuna
from omegaconf import DictConfig
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial

from src.config.compose import compose
from src.config.errors import explain
from src.config.fingerprint import decisive_keys, run_name
from src.config.paths import JOURNAL, LOG, folder_of_runs
from src.results.runs import as_run
from src.running.build import check
from src.running.groups import write_config
from src.running.lifecycle import run_in
from src.training.signals import interrupt, passing_on
from src.utils import lifeline
from src.utils.files import Lock, write_whole

log = logging.getLogger(__name__)

NOTHING: dict[str, Any] = {
    "pruned": False, "stop_requested": False, "objective": math.nan, "reason": "", "tag": "", "run": ""
}  # fmt: skip
"""What is known about a trial that has not run."""
FOREVER = 1e9
"""Seconds to wait for another trial that happens to be the same run."""


def composed(overrides: Sequence[str]) -> DictConfig:
    """The checked configuration of one run."""
    config = compose(*overrides)
    check(config, to_run=True)
    return config


def storage_of(folder: Path) -> JournalStorage:
    """The journal of the searches in a folder."""
    lock: Any = Lock(folder / f".{JOURNAL}.lock")  # released when a process is killed, unlike Optuna's own
    return JournalStorage(JournalFileBackend(str(folder / JOURNAL), lock_obj=lock))


def mend(folder: Path) -> None:
    """Cut off the journal at the first line that is not a record, such as half a record left by a full disk."""
    path = folder / JOURNAL
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    records = list(takewhile(_is_record, lines))
    if len(records) < len(lines):
        log.warning(
            "%s is damaged from line %d on; the rest is removed, and its runs are found again",
            path,
            len(records) + 1,
        )
        write_whole(path, b"".join(records))


def _is_record(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def id_of(trial: FrozenTrial | Trial) -> int:
    """Optuna's private id of a trial among all studies of a journal; its public `number` counts within its study."""
    return trial._trial_id


def run_trial(overrides: list[str], study: tuple[str, int] | None) -> dict[str, Any]:
    """Run a trial, in any process, and return how it ended.

    `study` is the name of the study and the id of the trial, if it may be pruned.
    """
    lifeline.follow()
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    given = NOTHING
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # including one already sent to a worker
        config = composed(overrides)
        folder = folder_of_runs(config) / run_name(config)
        write_config(folder, config, overrides)
        pruning = Pruning(folder.parent, *study, config.trainer.max_updates // 5) if study else None
        with _logged(folder):
            result = run_in(folder, config, FOREVER, pruning)
    except KeyboardInterrupt:
        return given | {"status": "interrupted"}
    except OSError as error:  # the folder of the run cannot be written
        return given | {"status": "failed", "reason": explain(error)}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGINT, previous)
    ended = as_run(folder.name, {"metrics": {}, "config": {}} | result, decisive_keys(config))
    given |= {"status": ended.status, "reason": result["reason"], "run": folder.name, "tag": ended.objective_tag}
    given |= {"stop_requested": result.get("stop_requested", False)}
    objective = ended.metrics.get(ended.objective_tag, math.nan)
    return given | {"objective": objective, "pruned": bool(pruning and pruning.pruned)}


class Pruning:
    """Stops a run that is worse than the median of the other trials at the same update."""

    def __init__(self, folder: Path, study: str, trial_id: int, first_update: int):
        pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=first_update)
        self.trial = Trial(optuna.load_study(study_name=study, storage=storage_of(folder), pruner=pruner), trial_id)
        stored = self.trial.study.get_trials(deepcopy=False)[self.trial.number]
        self.reported = set(stored.intermediate_values)
        self.pruned = False

    def __call__(self, update: int, objective: float) -> str | None:
        if update not in self.reported:  # it is if the run was killed after this update and resumes before it
            self.trial.report(objective, update)
        if not self.trial.should_prune():
            return None
        self.pruned = True
        return f"pruned at update {update}: worse than the median of the other trials at that update"


@contextmanager
def _logged(folder: Path) -> Iterator[None]:
    """Write log messages to `train.log`, as under Hydra."""
    root = logging.getLogger()
    level = root.level
    handler = logging.FileHandler(folder / LOG)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()


@contextmanager
def workers(number: int, here: bool) -> Iterator[Any]:
    """Yield a function that starts a call and returns its future: in this process if `here`, else in a process pool.

    Ctrl-C and SIGTERM are passed on to the processes, which respond to them only during a trial.
    """
    if here:
        yield _now
        return
    with (
        passing_on(_interrupt_children),
        ProcessPoolExecutor(number, get_context("spawn"), initializer=os.setpgrp) as pool,
    ):

        def start(*call: Any) -> Future:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # new processes inherit this
            try:
                return pool.submit(*call)
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])

        yield start


def _interrupt_children() -> None:
    interrupt(process.pid for process in active_children() if process.pid is not None)


def _now(function: Any, *arguments: Any) -> Future:
    future: Future = Future()
    future.set_result(function(*arguments))
    return future
