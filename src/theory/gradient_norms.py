"""How much of a change of state is left after a number of steps, for any recurrent core, by automatic differentiation.

Shapes: B sequences, T time steps, P projected features, H outputs, S numbers of the state, L = T lags from 0.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.models.base import Core, State
from src.models.fastweights import FastWeightsState
from src.models.sequence import SequenceModel
from src.tasks.base import Batch, Task

Array = NDArray[np.float64]


@contextmanager
def seeded_float64(seed: int) -> Iterator[None]:
    """Weights made in here are drawn in float64 and from this seed; nothing outside changes."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_default_dtype(before)


def vector_parts(state: State) -> list[Tensor]:
    """What of a state is differentiated: all of it, but of fast weights h alone, which is written into A later."""
    if isinstance(state, FastWeightsState):
        return [state.h_BH]
    return [state] if isinstance(state, Tensor) else list(state)


def shifted_scan(core: Core, p_BTP: Tensor, state: State | None = None) -> tuple[Tensor, list[Tensor]]:
    """Run a core step by step, adding a shift of zero to the state after every step.

    The derivative by the shift of step t is the whole derivative by the state that step t hands on: all paths from
    there to the end and no other.

    Returns:
        outputs [B, T, H], each with the shift of its own step; the shifts, [B, S] for every step.
    """
    state = core.initial_state(len(p_BTP)) if state is None else state
    outputs, shifts = [], []
    for p_BP in p_BTP.unbind(1):
        _, state = core.step(p_BP, state)
        parts = vector_parts(state)
        sizes = [part[0].numel() for part in parts]
        shift_BS = p_BP.new_zeros(len(p_BP), sum(sizes)).requires_grad_()
        pieces = shift_BS.split(sizes, dim=1)
        state = _with_parts(state, [part + piece.view_as(part) for part, piece in zip(parts, pieces, strict=True)])
        outputs.append(vector_parts(state)[0])
        shifts.append(shift_BS)
    return torch.stack(outputs, dim=1), shifts


def _with_parts(state: State, parts: list[Tensor]) -> State:
    if isinstance(state, FastWeightsState):
        return state._replace(h_BH=parts[0])
    return parts[0] if isinstance(state, Tensor) else type(state)(*parts)


def state_jacobians(core: Core, p_BTP: Tensor, state: State | None = None) -> Tensor:
    """∂h_T/∂s_t for the last output and the state after every step, [T, B, H, S]."""
    outputs_BTH, shifts = shifted_scan(core, p_BTP, state)
    last_BH = outputs_BTH[:, -1]
    eye_HH = torch.eye(last_BH.shape[1], dtype=last_BH.dtype)
    rows = torch.autograd.grad(
        last_BH, shifts, eye_HH[:, None].expand(-1, len(last_BH), -1), is_grads_batched=True, materialize_grads=True
    )
    return torch.stack([row_HBS.transpose(0, 1) for row_HBS in rows])


def norms_by_lag(core: Core, p_BTP: Tensor, state: State | None = None) -> Array:
    """‖∂h_T/∂s_{T-l}‖ in the spectral norm for l = 0 ... T - 1 and every sequence, [L, B]."""
    return torch.linalg.matrix_norm(state_jacobians(core, p_BTP, state), ord=2).flip(0).numpy()


def loss_gradient_by_lag(model: SequenceModel, task: Task, batch: Batch) -> Array:
    """‖∂E/∂s_{T-l}‖ of the loss of each sequence, [L, B]."""
    outputs_BTH, shifts = shifted_scan(model.core, model.project(batch.inputs).vectors.detach())
    asked = outputs_BTH if task.output_spec.every_step else outputs_BTH[:, -1]
    # the criterion is a mean over the batch
    loss = task.criterion(model.head(asked), batch) * len(batch.inputs)
    gradients = torch.autograd.grad(loss, shifts, materialize_grads=True)
    return torch.stack([gradient_BS.norm(dim=1) for gradient_BS in gradients]).flip(0).numpy()


def in_double(batch: Batch) -> Batch:
    """With values in float64; tokens and classes stay whole numbers."""
    inputs, targets = (part.double() if part.is_floating_point() else part for part in (batch.inputs, batch.targets))
    return Batch(inputs, targets, batch.mask)


def geometric_mean(norms_LB: Array) -> Array:
    """Over the sequences, [L]; an exact zero counts as the smallest number there is."""
    return np.exp(np.log(np.maximum(norms_LB, 1e-300)).mean(1))


class Trained(NamedTuple):
    """A network at its start and with the weights it ended with, and the task it was trained on."""

    name: str
    start: SequenceModel
    end: SequenceModel
    task: Task
    update: int


def load_run(folder: str) -> Trained:
    """The network of a finished run at its initialization and with the selected weights of its newest checkpoint."""
    from src.evaluate import load_model, read_config
    from src.experiment import build_task

    config = read_config(Path(folder))
    end, update = load_model(Path(folder), config, torch.device("cpu"))
    task = build_task(config)
    start = seeded_model(config, task)
    return Trained(Path(folder).name, start.double().eval(), end.double().eval(), task, update)


def seeded_model(config, task: Task) -> SequenceModel:
    """As a run of this configuration starts."""
    from src.experiment import build_model

    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return build_model(config, task)


def train_briefly(
    name: str, model: SequenceModel, task: Task, num_updates: int, batch_size: int = 64, lr: float = 5e-3
) -> Trained:
    """Adam with clipped gradients, as in the project's trainer, without its logs and checkpoints.

    It stops where the loss or its gradient is not finite; `update` tells how far it came.
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
