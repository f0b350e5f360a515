"""Builds what a configuration names (task, model, optimizer, trainer), and checks that all of it can be built."""

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.config.errors import UserError, explain, line_of
from src.config.schema import Settings, TrainerSettings, check_keys
from src.config.settings import without_hydra
from src.models.base import Core
from src.models.sequence import SequenceModel
from src.running.device import faster_device
from src.running.sizes import check_sizes, integers, made
from src.tasks.base import Task
from src.training.fast_updates import flat_parameters
from src.training.graphs import CudaRecorder
from src.training.profiler import WARMUP
from src.training.run_checkpoints import RunCheckpoints
from src.training.trainer import Trainer


def check(config: DictConfig, to_run: bool = False) -> None:
    """Raise `UserError` if a composed configuration cannot be run: wrong keys, types, values or combinations.

    With `to_run`, also if it cannot be trained on this machine, such as for lack of memory or threads.
    """
    config = without_hydra(config)
    check_keys(config, Settings, "")
    check_device(config.device)
    _check_combination(config, to_run)


def check_device(name: str) -> None:
    """Raise `UserError` if this machine does not have the device."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={name}: PyTorch finds none on this machine; legal: auto, cpu")


def choose_device(config: DictConfig, to_train: bool = True) -> torch.device:
    """The device of a configuration; "auto" selects the one with the faster updates, see `src.running.device`.

    Without `to_train` nothing is measured, and the CPU is chosen if it is not known which one is faster.
    """
    name = config.device
    if name == "auto":
        name = "cpu"
        if torch.cuda.is_available():
            name = faster_device(config, ms_per_update if to_train else None)
    return torch.device(name)


def build_task(config: DictConfig) -> Task:
    """The task of a configuration, with the data of its seed."""
    return instantiate(config.task, config.seed, _convert_="all")


def build_model(config: DictConfig, task: Task) -> SequenceModel:
    """The model of a configuration, with the encoder and the head that the task requires."""

    def make_core(size: int) -> Core:
        return instantiate(config.model, size, _convert_="all")

    return instantiate(config.network, task.input_spec, task.output_spec, make_core, _convert_="all")


def build_trainer(config: DictConfig, folder: Path, fingerprint: str) -> Trainer:
    """The trainer of a configuration, before its first update, with its task and a new model."""
    return build_trainer_on(choose_device(config), config, folder, fingerprint)


def build_trainer_on(device: torch.device, config: DictConfig, folder: Path, fingerprint: str) -> Trainer:
    """The trainer of a configuration on the given device, whatever device the configuration names."""
    settings = TrainerSettings(**OmegaConf.to_container(config.trainer, resolve=True))  # type: ignore[arg-type]
    torch.set_num_threads(settings.threads)
    torch.set_flush_denormal(True)  # gradients that vanish over hundreds of steps make some processors far slower
    if settings.deterministic != torch.are_deterministic_algorithms_enabled():  # setting it takes a second of imports
        torch.use_deterministic_algorithms(settings.deterministic)
    torch.autograd.set_detect_anomaly(settings.detect_anomaly)

    task = build_task(config).to(device)
    torch.manual_seed(config.seed)
    model = build_model(config, task).to(device)
    optimizer = instantiate(config.optimizer, [flat_parameters(model)], _convert_="all")
    scheduler = instantiate(config.scheduler, optimizer, settings.max_updates)
    checkpoints = RunCheckpoints(folder, fingerprint, task.data_digest)
    trainer = Trainer(model, task, optimizer, scheduler, settings, checkpoints)
    if device.type == "cuda" and config.run.cuda_graphs and not settings.detect_anomaly:
        trainer.update.replay_with(CudaRecorder(device))
    return trainer


def ms_per_update(config: DictConfig, device: str) -> float:
    """Milliseconds that an update of a configuration takes on a device, measured with a temporary trainer."""
    with torch.random.fork_rng(devices=[]):
        trainer = build_trainer_on(torch.device(device), config, Path(), "")
        trainer.model.train()
        _seconds(trainer, updates=6, at_most=2.0)  # compiles and records whatever is missing
        count, seconds = _seconds(trainer, updates=2000, at_most=0.4)
        return 1000 * seconds / count


def _seconds(trainer: Trainer, updates: int, at_most: float) -> tuple[int, float]:
    """Perform up to `updates` updates, within about `at_most` seconds; return their number and the seconds taken."""
    synchronize = torch.get_device_module(trainer.device).synchronize
    synchronize()
    started, count, due = time.perf_counter(), 0, 1
    while count < updates and time.perf_counter() - started < at_most:
        while count < min(due, updates):
            trainer.update()
            count += 1
        synchronize()  # only now and then: a GPU finishes an update long after the call
        due *= 2
    return count, time.perf_counter() - started


def _check_combination(config: DictConfig, to_run: bool) -> None:
    """Build what is cheap to build, so that violated rules across settings are reported before the run."""
    with _named("task"):
        task = build_task(config)
    # not on the meta device, whose first random number imports torch's compiler, which takes a second
    with _named("model"), torch.random.fork_rng(devices=[]):
        keys = integers(config, "model", "network")
        if max(task.input_spec.size, task.output_spec.size) > max(keys.values(), default=0):
            keys = integers(config, "task")
        model = made("its weights", 3 if to_run else 1, keys, lambda: build_model(config, task))
        if to_run and config.model.get("kernel") == "fused" and not torch.cuda.is_available():
            _ = model.core.is_fused  # an error if there is no kernel for its step
    with _named("task"):
        if to_run:
            check_sizes(config, task, model)
    with _named("optimizer"):
        optimizer = instantiate(config.optimizer, [torch.nn.Parameter(torch.zeros(()))], _convert_="all")
    with _named("scheduler"):
        instantiate(config.scheduler, optimizer, config.trainer.max_updates)
    most, profiled = config.trainer.max_updates, config.trainer.profile_updates
    if to_run and profiled and WARMUP + profiled > most:
        raise UserError(
            f"trainer.profile_updates={profiled}: with {WARMUP} warm-up updates before them, more than "
            f"trainer.max_updates={most}"
        )


@contextmanager
def _named(node: str) -> Iterator[None]:
    """Name the node of a constructor's ValueError ("task.num_pairs=12: ..."), or the line that raised another error."""
    try:
        yield
    except (InstantiationException, ValueError) as error:
        cause: BaseException | None = error
        while isinstance(cause, InstantiationException):  # a core is built by the constructor of its network
            cause = cause.__cause__
        if isinstance(cause, ValueError):
            raise UserError(f"{node}.{cause}") from None
        if cause is None or isinstance(cause, UserError | OSError):  # their messages say what is wrong
            raise
        place = line_of("".join(traceback.format_exception(cause)))
        raise UserError(f"{node}: {explain(cause)}{f' ({place})' * bool(place)}") from error
