"""Finds the device that trains a model faster, which is measured once for a model and its sizes, and remembered.

The measurements are stored next to the compiled kernels, one file for each combination of what determines the speed:
the settings of model, network and task (of a float only whether it is 0), the optimizer, the batch size, threads,
precision and a few other settings of the trainer, whether CUDA graphs are used, the processor, the card, versions, and
the code of the project that takes part in an update.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Gt
from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from src.config.errors import explain
from src.config.paths import PROJECT
from src.ops.cpu.build import cache_root
from src.running.provenance import processor
from src.utils.files import FolderInUseError, locked, write_whole

log = logging.getLogger(__name__)
DEVICES = ("cpu", "cuda")
LARGEST_FILE = 100_000
"""At most this many bytes of a file are read."""
IN_AN_UPDATE = ("models", "ops", "tasks", "tensors", "training")
"""Packages whose code determines how long an update takes."""
TRAINER = (
    "batch_size", "threads", "precision", "deterministic", "norm_stabilizer", "weight_noise", "detect_anomaly",
)  # fmt: skip
"""Settings of the trainer that also determine it. Runs trained as one program share them, and therefore the device."""
NO_SIZES_OF_AN_UPDATE = ("train_size", "val_size", "test_size")

Milliseconds = Annotated[float, Gt(0)]
Measure = Callable[[DictConfig, str], float]
"""(configuration, device) -> milliseconds per update."""


@with_config(ConfigDict(extra="forbid", allow_inf_nan=False))
class Times(TypedDict):
    """Milliseconds per update on each device."""

    cpu: Milliseconds
    cuda: Milliseconds


_TIMES = TypeAdapter(Times)
_known: dict[str, Mapping[str, float]] = {}
"""The times that this process has measured or read."""


def faster_device(config: DictConfig, measure: Measure | None) -> str:
    """The device with the faster updates for a configuration; measured if it is not known.

    Args:
        config: the configuration of a run.
        measure: how to measure; None to measure nothing, and choose the CPU if nothing is known.
    """
    key = _key(config)
    if key not in _known:
        path = cache_root() / "fastweights_devices" / f"{key}.json"
        times = _read(path)
        if times is None:
            if measure is None:
                return "cpu"
            times = _measured_once(path, config, measure)
        _known[key] = times
        told = [f"{name}: {ms:.2g} ms" if ms < 10 else f"{name}: {ms:.0f} ms" for name, ms in times.items()]
        measured = f" ({', '.join(told)} per update)" if told else ""
        log.info("device=auto selects %s%s", _fastest(times), measured)
    return _fastest(_known[key])


def _fastest(times: Mapping[str, float]) -> str:
    return min(times, key=times.__getitem__, default="cpu")


def _measured_once(path: Path, config: DictConfig, measure: Measure) -> Mapping[str, float]:
    """The times of each device, measured by one process while others wait, and written to the file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent, patience=120):
            times = _read(path) or _measured(config, measure)
            if len(times) == len(DEVICES):
                write_whole(path, json.dumps(times).encode())
            return times
    except (OSError, FolderInUseError) as error:
        log.warning("device=auto: the measured times cannot be stored for later runs: %s", explain(error))
        return _measured(config, measure)


def _measured(config: DictConfig, measure: Measure) -> dict[str, float]:
    """The times of the devices on which an update succeeds."""
    times = {}
    for device in DEVICES:
        try:
            times[device] = measure(config, device)
        except Exception as error:  # such as a full card, or an incompatible driver
            log.warning("device=auto: an update on %s failed: %s", device, explain(error)[:400])
    return times


def _read(path: Path) -> Mapping[str, float] | None:
    """The times in a file; None if it is missing or not valid, since it may come from anyone."""
    try:
        with open(path, "rb") as file:
            times: Any = _TIMES.validate_json(file.read(LARGEST_FILE), strict=True)
            return times
    except (OSError, ValidationError):
        return None


def _key(config: DictConfig) -> str:
    """A hash of everything that determines the speed of updates."""
    settings: Any = OmegaConf.to_container(config, resolve=True)
    decisive = {group: _sizes(settings[group]) for group in ("model", "network", "task")}
    decisive |= {"trainer": _sizes({key: settings["trainer"][key] for key in TRAINER})}
    decisive |= {"cuda_graphs": settings["run"]["cuda_graphs"], "optimizer": settings["optimizer"]["_target_"]}
    decisive |= {"machine": _machine(), "code": _code()}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def _sizes(value: Any) -> Any:
    """Settings without the parts that make no difference to the speed."""
    if isinstance(value, Mapping):
        return {key: _sizes(item) for key, item in value.items() if key not in NO_SIZES_OF_AN_UPDATE}
    return value != 0 if isinstance(value, float) else value


def _machine() -> list[str]:
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = ""
    return [processor(), torch.cuda.get_device_name(), torch.__version__, str(torch.version.cuda), triton]


@cache
def _code() -> str:
    digest = hashlib.sha256()
    for package in IN_AN_UPDATE:
        for path in sorted((PROJECT / "src" / package).rglob("*.*")):
            if path.suffix in (".py", ".cpp", ".h"):
                digest.update(path.read_bytes())
    return digest.hexdigest()
