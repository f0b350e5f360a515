"""Fast weights as a decayed sum of outer products of states, without updating the matrix at every step.

    A(t) = λ A(t-1) + η h(t) h(t)ᵀ = λ^t A(0) + η Σ_{τ<=t} λ^(t-τ) h(τ) h(τ)ᵀ

(Ba et al., 2016, equations 1 and 4).

Shapes: B sequences, T time steps, t steps past, H hidden units.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from src.ops.inputs import Inputs
from src.ops.precision import without_autocast

State = tuple[Tensor, Tensor]
"""h [B, H] and A [B, H, H]."""


def past_weights(num_steps: int, decay: float, fast_lr: float, like: Tensor) -> Tensor:
    """The weights η λ^(t-τ) of the last T states, τ = t-T+1 ... t, where T is `num_steps`."""
    ages_T = torch.arange(num_steps - 1, -1, -1, device=like.device)
    return fast_lr * torch.pow(decay, ages_T.to(like.dtype))


def written(past_BtH: Tensor, carried_BHH: Tensor | None, decay: float, fast_lr: float) -> Tensor:
    """A in closed form: the sum over the past states, plus the decayed A that precedes them.

    It is computed in the precision of the states, even under autocast: over many calls, bfloat16 would lose what is
    written.
    """
    num_steps = past_BtH.shape[1]
    weighted_BtH = past_BtH * past_weights(num_steps, decay, fast_lr, past_BtH)[:, None]
    with without_autocast(past_BtH):
        if carried_BHH is None:
            return torch.bmm(weighted_BtH.transpose(1, 2), past_BtH)
        kept = decay**num_steps
        if isinstance(kept, Tensor):  # mapped by `torch.func.vmap`; `beta` must be a plain number
            return kept * carried_BHH + torch.bmm(weighted_BtH.transpose(1, 2), past_BtH)
        return torch.baddbmm(carried_BHH, weighted_BtH.transpose(1, 2), past_BtH, beta=kept)


def attend(
    p_BTH: Tensor,
    h_BH: Tensor,
    carried_BHH: Tensor | None,
    recurrent: Callable[[Tensor], Tensor],
    settle: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor],
    decay: float,
    fast_lr: float,
) -> tuple[Tensor, State]:
    """All states [B, T, H], each of which reads the past ones by attention, and the final state.

    Fast weights from before the first step add λ^t A(0) h_s to what is read.

    Args:
        p_BTH: projected inputs.
        h_BH: the state before the first step.
        carried_BHH: the fast weights before the first step; None for zero.
        recurrent: the function from h to W h.
        settle: the function from z and `read` to the next state, where `read(h_s)` = A h_s.
        decay: λ.
        fast_lr: η.
    """
    weights_T = past_weights(p_BTH.shape[1], decay, fast_lr, p_BTH)
    past_BtH = h_BH[:, None]
    outputs = []
    for t, p_BH in enumerate(p_BTH.unbind(1), start=1):
        # products and sums are twice as fast as batched matrix-vector products of this size
        def read(h_s_BH: Tensor, past_BtH=past_BtH, weights_t1=weights_T[-t:, None], left=decay**t) -> Tensor:
            scores_Bt1 = (past_BtH * h_s_BH[:, None]).sum(2, keepdim=True) * weights_t1
            read_BH = (past_BtH * scores_Bt1).sum(1)
            if carried_BHH is not None:
                read_BH = read_BH + left * torch.bmm(carried_BHH, h_s_BH[:, :, None])[:, :, 0]
            return read_BH

        h_BH = settle(recurrent(h_BH) + p_BH, read)
        outputs.append(h_BH)
        if t < p_BTH.shape[1]:
            past_BtH = torch.cat([past_BtH, h_BH[:, None]], dim=1)
    return torch.stack(outputs, dim=1), (h_BH, written(past_BtH, carried_BHH, decay, fast_lr))


def in_chunks(
    kernel: Callable[..., Tensor],
    chunk_length: int,
    inputs: Inputs,
    state: State | None,
    return_state: bool,
    return_sequence: bool,
    *weights: Any,
    decay: float,
    fast_lr: float,
    **settings: Any,
) -> tuple[Tensor, State | None]:
    """Run a kernel that attends within a chunk, chunk by chunk; earlier chunks are known only through A.

    Args:
        kernel: (inputs, h, A, *weights, decay, fast_lr, return_sequence, **settings) -> states.
        chunk_length: steps in a chunk.
        inputs: projected inputs.
        state: the state before the first step; None for zero.
        return_state: whether the state after the last step is needed.
        return_sequence: whether to return all states, [B, T, H], or only the last one, [B, H].
        weights: further arguments of the kernel.
        decay: λ.
        fast_lr: η.
        settings: further keyword arguments of the kernel.
    """
    h_BH, A_BHH = (None, None) if state is None else state
    chunks = inputs.split(chunk_length)
    outputs: list[Tensor] = []
    for chunk in chunks:
        is_read_later = return_state or chunk is not chunks[-1]
        h_BTH = kernel(
            chunk,
            h_BH,
            A_BHH,
            *weights,
            decay=decay,
            fast_lr=fast_lr,
            return_sequence=return_sequence or is_read_later,
            **settings,
        )
        if is_read_later:
            before_BH = torch.zeros_like(h_BTH[:, 0]) if h_BH is None else h_BH
            past_BtH = torch.cat([before_BH[:, None], h_BTH[:, :-1]], dim=1)
            A_BHH, h_BH = written(past_BtH, A_BHH, decay, fast_lr), h_BTH[:, -1]
        outputs.append(h_BTH if return_sequence else _last(h_BTH))
    y_BTH = torch.cat(outputs, dim=1) if return_sequence and len(outputs) > 1 else outputs[-1]
    return y_BTH, (_last(y_BTH), A_BHH) if return_state and A_BHH is not None else None


def _last(y: Tensor) -> Tensor:
    return y if y.ndim == 2 else y[:, -1]
