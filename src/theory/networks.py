"""Networks that several topics measure: seeded in float64, loaded from a run, or trained here within seconds."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from src.models.sequence import SequenceModel
from src.running import load
from src.running.build import build_model
from src.specs import Batch
from src.tasks.base import Task


@contextmanager
def seeded_float64(seed: int) -> Iterator[None]:
    """Within this context, weights are drawn in float64 from this seed; the global state is restored afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_default_dtype(before)


def in_double(batch: Batch) -> Batch:
    """The batch with its floating-point values in float64; ids and classes stay integers."""
    inputs, targets = (part.double() if part.is_floating_point() else part for part in (batch.inputs, batch.targets))
    return batch._replace(inputs=inputs, targets=targets)


def evaluated(model: SequenceModel, task: Task, batch: Batch) -> float:
    """The value of the task's objective for this model on a batch."""
    with torch.no_grad():
        output = model(batch.inputs, lengths=batch.lengths, return_state=False)
        total, count = task.metrics(output, batch)[task.objective.metric]
    return float(total) / count


class Trained(NamedTuple):
    """A network at initialization and after training, and the task it was trained on."""

    name: str
    start: SequenceModel
    end: SequenceModel
    task: Task
    update: int


def load_run(folder: str) -> Trained:
    """The network of a finished run at initialization and with the selected weights of its newest checkpoint."""
    run = load.load_run(folder)
    with torch.random.fork_rng():
        torch.manual_seed(run.config.seed)
        start = build_model(run.config, run.task)
    name = Path(folder).expanduser().name
    return Trained(name, start.double().eval(), run.model.double(), run.task, run.update)


def train_briefly(
    name: str, model: SequenceModel, task: Task, num_updates: int, batch_size: int = 64, lr: float = 5e-3
) -> Trained:
    """Train with Adam and gradient clipping, like the project's trainer but without logs and checkpoints.

    Training stops as soon as the loss or its gradient is not finite; `update` is the number of updates performed.
    """
    start = copy.deepcopy(model).double().eval()
    optimizer = torch.optim.Adam(model.parameters(), lr)
    update = 0
    while update < num_updates:
        optimizer.zero_grad()
        loss = task.loss(model, task.batch("train", update, batch_size)).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        if not bool((loss.detach() + norm).isfinite()):
            break
        optimizer.step()
        update += 1
    return Trained(name, start, model.double().eval(), task, update)
