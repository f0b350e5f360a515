"""How much of a change of state remains after a number of steps, for any recurrent core, by automatic differentiation.

Shapes: B sequences, T time steps, P projected features, H outputs, S numbers of the state, L = T lags from 0.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.models.base import Core, last_step
from src.models.fastweights import FastWeightsState
from src.models.sequence import SequenceModel
from src.ops.inputs import steps
from src.specs import Batch, State, map_state, state_tensors
from src.tasks.base import Task

Array = NDArray[np.float64]


def vector_parts(state: State) -> list[Tensor]:
    """The parts of a state to differentiate by: all, but for fast weights only h, which is written into A later."""
    if isinstance(state, FastWeightsState):
        return [state.h_BH]
    return state_tensors(state)


def shifted_scan(core: Core, p_BTP: Any, state: State | None = None) -> tuple[Tensor, list[Tensor]]:
    """Run a core step by step, adding a shift of zero to the state after every step.

    The derivative by the shift of step t is the total derivative by the state after step t: it includes all paths
    from there to the end and no others.

    Returns:
        the outputs [B, T, H], each including the shift of its own step; the shifts, one [B, S] for every step.
    """
    by_step = steps(map_state(Tensor.detach, p_BTP))
    state = core.initial_state(len(state_tensors(by_step[0])[0])) if state is None else state
    outputs, shifts = [], []
    for p_BP in by_step:
        _, state = core.step(p_BP, state)
        parts = vector_parts(state)
        sizes = [part[0].numel() for part in parts]
        shift_BS = parts[0].new_zeros(len(parts[0]), sum(sizes)).requires_grad_()
        pieces = shift_BS.split(sizes, dim=1)
        state = _with_parts(state, [part + piece.view_as(part) for part, piece in zip(parts, pieces, strict=True)])
        outputs.append(vector_parts(state)[0])
        shifts.append(shift_BS)
    return torch.stack(outputs, dim=1), shifts


def _with_parts(state: State, parts: list[Tensor]) -> State:
    if isinstance(state, FastWeightsState):
        return state._replace(h_BH=parts[0])
    left = iter(parts)
    return map_state(lambda _: next(left), state)


def state_jacobians(core: Core, p_BTP: Any, state: State | None = None) -> Tensor:
    """∂h_T/∂s_t of the last output by the state after every step, [T, B, H, S]."""
    outputs_BTH, shifts = shifted_scan(core, p_BTP, state)
    last_BH = outputs_BTH[:, -1]
    eye_HH = torch.eye(last_BH.shape[1], dtype=last_BH.dtype)
    rows = torch.autograd.grad(
        last_BH, shifts, eye_HH[:, None].expand(-1, len(last_BH), -1), is_grads_batched=True, materialize_grads=True
    )
    return torch.stack([row_HBS.transpose(0, 1) for row_HBS in rows])


def norms_by_lag(core: Core, p_BTP: Any, state: State | None = None) -> Array:
    """‖∂h_T/∂s_{T-l}‖ in the spectral norm for l = 0 ... T - 1 and every sequence, [L, B]."""
    return torch.linalg.matrix_norm(state_jacobians(core, p_BTP, state), ord=2).flip(0).numpy()


def loss_gradient_by_lag(model: SequenceModel, task: Task, batch: Batch) -> Array:
    """‖∂E/∂s_{T-l}‖ for the loss E of each sequence, [L, B]."""
    outputs_BTH, shifts = shifted_scan(model.core, model.project(batch.inputs).vectors)
    asked = outputs_BTH if task.output_spec.every_step else last_step(outputs_BTH, batch.lengths)
    # the criterion is a mean over the batch
    loss = task.criterion(model.head(asked), batch) * len(batch.inputs)
    gradients = torch.autograd.grad(loss, shifts, materialize_grads=True)
    return torch.stack([gradient_BS.norm(dim=1) for gradient_BS in gradients]).flip(0).numpy()


def geometric_mean(norms_LB: Array) -> Array:
    """The geometric mean over the sequences, [L]; an exact zero counts as 1e-300."""
    return np.exp(np.log(np.maximum(norms_LB, 1e-300)).mean(1))
