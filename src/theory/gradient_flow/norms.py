"""How much of a change in the state remains after a number of steps, for vector states, by automatic differentiation.

A core can be measured if its state consists of floating-point vectors, apart from the exceptions in `vector_parts`.

Shapes: B sequences, T time steps, P projected features, H outputs, S numbers of the state, L = T lags from 0.
"""

from typing import Any

import numpy as np
import optree
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.config.errors import UserError
from src.models.alstm import ALSTMState
from src.models.base import Core, last_step
from src.models.cp_gate import DroppedState
from src.models.fastweights import FastWeights, FastWeightsState
from src.models.sequence import SequenceModel
from src.ops.inputs import steps
from src.specs import Batch, State, map_state, state_tensors
from src.tasks.base import Task
from src.tasks.environment import Environment

Array = NDArray[np.float64]


def vector_parts(state: State) -> list[Tensor]:
    """The parts of a state with respect to which outputs are differentiated.

    These are all parts, but only h from fast weights (whose A is written from h later) and from states with a mask.
    """
    return [part for whole in _wholes(state) for part in (whole[:1] if _has_only_h(whole) else state_tensors(whole))]


def check(core: Core, task: Task) -> None:
    """Refuse a core or a task for which gradient norms cannot be measured.

    Raises:
        UserError: a part of the state is a matrix or not in floating point, or the task is played step by step.
    """
    if isinstance(task, Environment):
        raise UserError("gradient norms need a task with given inputs; this one is played")
    for whole in _wholes(core.initial_state(1)):
        for part in vector_parts(whole):
            is_vector = part.ndim == 2 or isinstance(whole, ALSTMState)  # its memory consists of copies of a vector
            if not (is_vector and part.is_floating_point()):
                kind = str(part.dtype).removeprefix("torch.")
                raise UserError(
                    "gradient norms need a state of floating-point vectors, as of rnn, lstm, gru, tgu or fastweights; "
                    f"that of {type(core).__name__} has a part of shape {list(part.shape[1:])} in {kind}"
                )


def shifted_scan(core: Core, p_BTP: Any, state: State | None = None) -> tuple[Tensor, list[Tensor]]:
    """Run a core step by step, adding a shift of zero to the state after every step.

    The derivative with respect to the shift of step t is the total derivative with respect to the state after step t:
    it includes all paths from this state to the end, and no others. One of them leads to the output of the same step.

    Returns:
        the outputs [B, T, H], each including the effect of the shift of its own step; the shifts, one [B, S] per step.
    """
    by_step = steps(map_state(Tensor.detach, p_BTP))
    state = core.initial_state(len(state_tensors(by_step[0])[0])) if state is None else state
    state = map_state(lambda part: part.detach().requires_grad_(), state)  # for `_read_jacobian`, if the core is frozen
    outputs, shifts = [], []
    for p_BP in by_step:
        y_BH, state = core.step(p_BP, state)
        parts = vector_parts(state)
        sizes = [part[0].numel() for part in parts]
        shift_BS = parts[0].new_zeros(len(parts[0]), sum(sizes)).requires_grad_()
        shifted = [part + piece.view_as(part) for part, piece in zip(parts, shift_BS.split(sizes, dim=1), strict=True)]
        same = [moved_BH for part, moved_BH in zip(parts, shifted, strict=True) if part is y_BH]
        state = _with_parts(state, shifted)
        outputs.append(same[0] if same else y_BH + torch.einsum("bhs,bs->bh", _read_jacobian(y_BH, parts), shift_BS))
        shifts.append(shift_BS)
    return torch.stack(outputs, dim=1), shifts


def _read_jacobian(y_BH: Tensor, parts: list[Tensor]) -> Tensor:
    """∂y_t/∂s_t of an output that is computed from the state after its step, [B, H, S].

    Autograd also follows the paths on which one part of the state was computed from another, such as h from c in an
    LSTM. Here every part varies independently, so these paths are subtracted, one more link in each iteration.
    """
    rows_HBH = torch.eye(y_BH.shape[1], dtype=y_BH.dtype)[:, None].expand(-1, len(y_BH), -1)

    def by_parts(outputs: Any, rows: Any) -> list[Tensor]:
        found = torch.autograd.grad(outputs, parts, rows, is_grads_batched=True, allow_unused=True, retain_graph=True)
        zeros = (part.new_zeros(len(rows_HBH), *part.shape) for part in parts)
        return [zero if gradient is None else gradient for gradient, zero in zip(found, zeros, strict=True)]

    totals = by_parts(y_BH, rows_HBH)
    direct = totals
    for _ in parts[1:]:
        again = by_parts(parts, direct)
        direct = [d + total - a for d, total, a in zip(direct, totals, again, strict=True)]
    return torch.cat([part.flatten(2) for part in direct], dim=2).transpose(0, 1)


def _has_only_h(state: State) -> bool:
    return isinstance(state, FastWeightsState | DroppedState)


def _is_whole(state: State) -> bool:
    return isinstance(state, FastWeightsState | DroppedState | ALSTMState)


def _wholes(state: State) -> list[State]:
    """The tensors of a state, with states of the classes above kept whole; a stack of layers has several of them."""
    return optree.tree_leaves(state, is_leaf=_is_whole)


def _with_parts(state: State, parts: list[Tensor]) -> State:
    left = iter(parts)

    def replaced(whole: State) -> State:
        return whole._replace(h_BH=next(left)) if _has_only_h(whole) else map_state(lambda _: next(left), whole)

    return optree.tree_map(replaced, state, is_leaf=_is_whole)


def state_jacobians(core: Core, p_BTP: Any, state: State | None = None, lengths: Tensor | None = None) -> Tensor:
    """∂y/∂s_t of each sequence's last output y for the state s_t after every step, [T, B, H, S]; 0 after its end."""
    outputs_BTH, shifts = shifted_scan(core, p_BTP, state)
    last_BH = last_step(outputs_BTH, lengths)
    eye_HH = torch.eye(last_BH.shape[1], dtype=last_BH.dtype)
    rows = torch.autograd.grad(
        last_BH, shifts, eye_HH[:, None].expand(-1, len(last_BH), -1), is_grads_batched=True, materialize_grads=True
    )
    return torch.stack([row_HBS.transpose(0, 1) for row_HBS in rows])


def norms_by_lag(core: Core, p_BTP: Any, state: State | None = None, lengths: Tensor | None = None) -> Array:
    """Spectral norms ‖∂y_T/∂s_{T-l}‖ for l = 0 ... T - 1 and every sequence, [L, B]; nan before the sequence starts."""
    return _by_lag(torch.linalg.matrix_norm(state_jacobians(core, p_BTP, state, lengths), ord=2), lengths)


def norms_through_memory(core: FastWeights, p_BTP: Tensor, lag: int) -> Array:
    """‖∂h_T/∂h_{T-l}‖ of fast weights at lag l ≥ 2 along the path through A alone, with all other states fixed, [B]."""
    with torch.no_grad():
        h_BTH, _ = core.scan(p_BTP)
    written = [h_BH.requires_grad_() for h_BH in h_BTH[:, :-2].unbind(1)]
    A_BHH = core.zeros(len(p_BTP), core.hidden_size, core.hidden_size)
    for h_BH in written:
        A_BHH = core.decay * A_BHH + core.fast_lr * h_BH[:, :, None] * h_BH[:, None]
    last_BH, _ = core.step(p_BTP[:, -1], FastWeightsState(h_BTH[:, -2], A_BHH))
    rows_HBH = torch.eye(last_BH.shape[1], dtype=last_BH.dtype)[:, None].expand(-1, len(last_BH), -1)
    (found_HBH,) = torch.autograd.grad(last_BH, written[1 - lag], rows_HBH, is_grads_batched=True)
    return torch.linalg.matrix_norm(found_HBH.transpose(0, 1), ord=2).numpy()


def loss_gradient_by_lag(model: SequenceModel, task: Task, batch: Batch) -> Array:
    """‖∂E/∂s_{T-l}‖ for the loss E of each sequence, [L, B]; nan before the sequence starts."""
    outputs_BTH, shifts = shifted_scan(model.core, model.project(batch.inputs).vectors)
    asked = outputs_BTH if task.output_spec.every_step else last_step(outputs_BTH, batch.lengths)
    # the criterion is a mean over the batch
    loss = task.criterion(model.head(asked), batch) * len(batch.inputs)
    gradients = torch.autograd.grad(loss, shifts, materialize_grads=True)
    return _by_lag(torch.stack([gradient_BS.norm(dim=1) for gradient_BS in gradients]), batch.lengths)


def _by_lag(norms_TB: Tensor, lengths: Tensor | None) -> Array:
    """Reorder norms from steps to lags, counted from the last step of each sequence, up to the longest length."""
    if lengths is None:
        return norms_TB.flip(0).numpy()
    step_LB = lengths - 1 - torch.arange(int(lengths.max()))[:, None]
    return norms_TB.gather(0, step_LB.clamp(min=0)).masked_fill(step_LB < 0, torch.nan).numpy()
