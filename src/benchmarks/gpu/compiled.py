"""Work on every model, several at a time: their kernels take seconds to compile, which a GPU does not speed up."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import OmegaConf

from src.benchmarks.gpu.rows import Rows
from src.benchmarks.gpu.updates import How, as_trained
from src.benchmarks.updates import MODELS, Sequences

UNITS = 50
AT_ONCE = 6
"""Maximum number of processes; each has a context on the GPU, of half a gigabyte."""


def for_every_model(work: Callable[..., Any], device: str, tiny: bool) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Do some work on every model (two if `tiny`); yield its name and a function that returns its result or raises."""
    files = sorted(MODELS.glob("*.yaml"))[: 2 if tiny else None]
    workers = min(AT_ONCE, os.cpu_count() or 1, len(files))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures: list[Future] = [pool.submit(work, file, device, tiny) for file in files]
        for file, future in zip(files, futures, strict=True):
            yield file.stem, future.result


def every_model(rows: Rows, device: str, tiny: bool) -> None:
    """Perform two updates of every model, which compiles its kernels and caches them on disk for the later parts."""
    for name, result in for_every_model(_two_updates, device, tiny):
        with rows.trying(name):
            rows.add(name, result())


def _two_updates(file: Path, device: str, tiny: bool) -> str:
    started, how = time.perf_counter(), How.of(device, tiny)._replace(graphs=False)
    make = partial(instantiate, OmegaConf.load(file), hidden_size=8 if tiny else UNITS)
    update = as_trained(Sequences(11).to(how.device), make, how)
    update()
    update()
    form = "a kernel" if update.state.model.core.is_fused else "plain PyTorch"
    return f"{form}, ready after {time.perf_counter() - started:.0f} s"
