"""One trial of a search: an ordinary run, in whichever process."""

import fcntl
import logging
import math
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import optuna
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial

from src.errors import CONFIGS
from src.experiment import run_in
from src.identity import register_resolvers, run_name
from src.schema import check
from src.selection import objective_name
from src.utils import lifeline

JOURNAL = "optuna.journal"
FOREVER = 1e9
"""Seconds that a trial waits for another one that happens to be the same run."""


def composed(overrides: Sequence[str]) -> DictConfig:
    """The checked configuration of one run."""
    register_resolvers()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", list(overrides))
    check(config)
    return config


class _Lock:
    """The lock of the journal, which the kernel lets go of when a process is killed; Optuna's own would stay."""

    def __init__(self, path: Path):
        self.path = path
        self.file: Any = None

    def acquire(self) -> bool:
        self.file = open(self.path, "a")  # noqa: SIM115 - closed by release
        fcntl.flock(self.file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        self.file.close()


def storage_of(folder: Path) -> JournalStorage:
    """The journal of a folder's searches."""
    lock: Any = _Lock(folder / f".{JOURNAL}.lock")
    return JournalStorage(JournalFileBackend(str(folder / JOURNAL), lock_obj=lock))


def answer(overrides: list[str], watched: tuple[str, int] | None) -> dict[str, Any]:
    """The run of a trial, in whichever process: how it ended."""
    lifeline.follow()
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    given: dict[str, Any] = {"pruned": False, "objective": math.nan, "reason": "", "tag": "", "run": ""}
    try:
        config = composed(overrides)
        folder = Path(config.run.root, config.name, run_name(config))
        (folder / ".hydra").mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, folder / ".hydra" / "config.yaml")
        OmegaConf.save(OmegaConf.create(overrides), folder / ".hydra" / "overrides.yaml")
        watch = Pruning(folder.parent, *watched, config.trainer.max_updates // 5) if watched else None
        with _logged(folder):
            result = run_in(folder, config, FOREVER, watch)
    except KeyboardInterrupt:
        return given | {"status": "interrupted"}
    finally:
        signal.signal(signal.SIGINT, previous)
    tag = objective_name(result)
    given |= {"status": result["status"], "reason": result["reason"], "run": folder.name, "tag": tag}
    given |= {"objective": result.get("metrics", {}).get(tag, math.nan), "pruned": bool(watch and watch.pruned)}
    return given


class Pruning:
    """Stops a run that is worse than the median of the study's trials at the same update."""

    def __init__(self, folder: Path, study: str, trial_id: int, first_update: int):
        pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=first_update)
        self.trial = Trial(optuna.load_study(study_name=study, storage=storage_of(folder), pruner=pruner), trial_id)
        self.pruned = False

    def __call__(self, update: int, objective: float) -> str | None:
        self.trial.report(objective, update)
        if not self.trial.should_prune():
            return None
        self.pruned = True
        return f"pruned at update {update}: worse than the median of the other trials there"


@contextmanager
def _logged(folder: Path) -> Iterator[None]:
    """Log messages go to the run's `train.log`, as under Hydra."""
    root = logging.getLogger()
    level = root.level
    handler = logging.FileHandler(folder / "train.log")
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
def workers(number: int) -> Iterator[Any]:
    """A function that starts a call and returns its future: in other processes, or in this one if one is enough."""
    if number == 1:
        yield _now
        return
    ignoring = (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(number, get_context("spawn"), initializer=signal.signal, initargs=ignoring) as pool:
        yield pool.submit


def _now(function: Any, *arguments: Any) -> Future:
    future: Future = Future()
    future.set_result(function(*arguments))
    return future
