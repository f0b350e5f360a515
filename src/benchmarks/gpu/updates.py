"""Updates to be timed: of a model as in training, and of torch's own layers."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional

from src.config.compose import compose
from src.config.schema import TrainerSettings
from src.models.base import Core
from src.models.sequence import SequenceModel
from src.specs import Batch
from src.tasks.base import Task
from src.training.fast_updates import flat_parameters
from src.training.graphs import CudaRecorder, Replayed
from src.training.optimizers import adam
from src.training.schedulers import cosine
from src.training.state import TrainState
from src.training.update import Update

MakeCore = Callable[[int], Core]


class How(NamedTuple):
    """Where and how updates are performed."""

    device: torch.device
    batch_size: int = 128
    graphs: bool = True

    @classmethod
    def of(cls, device: str, tiny: bool) -> "How":
        """As in training, on a device; `tiny` reduces the batch size."""
        torch.set_flush_denormal(True)
        return cls(torch.device(device), 8 if tiny else 128)

    @property
    def recorder(self) -> CudaRecorder | None:
        """The recorder of CUDA graphs; None if they are not wanted or not possible."""
        return CudaRecorder(self.device) if self.graphs and self.device.type == "cuda" else None


def network(task: Task, make_core: MakeCore, device: torch.device, seed: int = 0) -> SequenceModel:
    """The network of scripts/benchmark.py."""
    torch.manual_seed(seed)
    model = SequenceModel(task.input_spec, task.output_spec, make_core, embedding_size=100, head_size=100)
    return model.to(device).train()


def as_trained(task: Task, make_core: MakeCore, how: How, seed: int = 0, lr: float = 1e-3) -> Update:
    """An update as a run performs it."""
    model = network(task, make_core, how.device, seed)
    optimizer = adam([flat_parameters(model)], lr=lr)
    settings: Any = OmegaConf.to_container(compose(f"trainer.batch_size={how.batch_size}").trainer, resolve=True)
    state = TrainState(
        model, optimizer, cosine(optimizer, 10**6), torch.zeros((), dtype=torch.float64, device=how.device)
    )
    update = Update(state, task, TrainerSettings(**settings))
    if (recorder := how.recorder) is not None:
        update.replay_with(recorder)
    return update


def as_in_torch(task: Task, make_core: MakeCore, how: How) -> Callable[[], Any]:
    """The same update in plain torch, with its fused Adam, its gradient clipping, and cuDNN's contiguous weights."""
    model = network(task, make_core, how.device)
    parameters = list(model.parameters())
    on_gpu = how.device.type == "cuda"
    optimizer = torch.optim.Adam(parameters, fused=True, capturable=on_gpu)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)

    def compute(batch: Batch) -> Tensor:
        optimizer.zero_grad(set_to_none=False)
        loss = functional.cross_entropy(model(batch.inputs, return_state=False).prediction, batch.targets)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 5.0, foreach=True)
        optimizer.step()
        return loss.detach()

    recorder = how.recorder
    program = compute if recorder is None else Replayed(compute, recorder)
    number = 0

    def update() -> None:
        nonlocal number
        program(task.batch("train", number, how.batch_size))
        number += 1

    return update


def in_turns(
    updates: Mapping[str, Callable[[], Any]], device: torch.device, seconds: float, rounds: int = 5
) -> dict[str, list[float]]:
    """Milliseconds of each update in each round; within a round, the updates are timed one after the other."""
    counts = {}
    for name, update in updates.items():
        _block(update, 6, device)
        once = _block(update, 3, device)
        counts[name] = max(1, round(1000 * seconds / rounds / len(updates) / max(once, 1e-3)))
    found: dict[str, list[float]] = {name: [] for name in updates}
    for _ in range(rounds):
        for name, update in updates.items():
            found[name].append(_block(update, counts[name], device))
    return found


def _block(update: Callable[[], Any], count: int, device: torch.device) -> float:
    """Milliseconds per update, timed between two synchronizations with the device."""
    synchronize = torch.get_device_module(device).synchronize
    synchronize()
    started = time.perf_counter()
    for _ in range(count):
        update()
    synchronize()
    return 1000 * (time.perf_counter() - started) / count
