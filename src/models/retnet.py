"""Retention of Sun et al. (2023), "Retentive Network", arXiv 2307.08621.

Shapes: B sequences, T time steps, H heads, K key features, V value features.
"""

from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor

from src.models.linear_core import LinearCore, LinearInput
from src.models.linear_parts import last_reset
from src.ops.dispatch import Kernel
from src.ops.linear_recurrence import Recurrence, Terms
from src.ops.precision import at_least_single


class RetNetState(NamedTuple):
    """The memory of every head, the inputs that the convolution still needs, and the position of the next step."""

    S_BHKV: Tensor
    window_BWC: Tensor
    position_B: Tensor | None


class RetNet(LinearCore):
    r"""A memory with a fixed decay for every head.

        S_t = γ_h S_{t-1} + k_t v_tᵀ                      γ_h = 1 - 2^{-5-h},  h = 0 ... H-1,  S_0 = 0
        o_t = S_tᵀ q_t / √K

    so w = γ, and nothing is erased. With `rotary`, pairs of features of q_t and k_t are rotated by t θ_j, where
    θ_j = 10000^{-2j/K}, so that q_t is rotated by (t - τ) θ_j relative to k_τ; the state then counts the steps. (The
    fast weights of Ba et al. (2016) are a retention that reads before it writes, and whose q, k and v are all the
    state h.)

    Args:
        input_size: number of input features, X.
        hidden_size: number of output features, D.
        num_heads: number of heads, H.
        key_size: features per query and key, K; None for D / H.
        value_size: features per value, V, 2 or more; None for D / H.
        rotary: whether q and k are rotated from step to step.
        conv_size: steps spanned by the convolution of q, k and v; 0 for no convolution.
        output_gate: whether there is an output gate.
        learned_start: whether S_0 is learned.
        chunk_size: steps per chunk in the plain PyTorch form.
        kernel: see `Core`.
    """

    log_decay_H: Tensor

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 64,
        num_heads: Annotated[int, Ge(1)] = 2,
        key_size: Annotated[int, Ge(1)] | None = None,
        value_size: Annotated[int, Ge(1)] | None = None,
        rotary: bool = True,
        conv_size: Annotated[int, Ge(0)] = 0,
        output_gate: bool = True,
        learned_start: bool = False,
        chunk_size: Annotated[int, Ge(1)] = 32,
        kernel: Kernel = "auto",
    ):
        super().__init__(
            input_size,
            hidden_size,
            num_heads=num_heads,
            key_size=key_size,
            value_size=value_size,
            conv_size=conv_size,
            output_gate=output_gate,
            learned_start=learned_start,
            chunk_size=chunk_size,
            kernel=kernel,
        )
        self.rotary = rotary
        log_decay_H = torch.log1p(-torch.exp2(-5 - torch.arange(num_heads, dtype=torch.float64)))
        self.register_buffer("log_decay_H", log_decay_H, persistent=False)  # float64, for models in float64

    def initial_state(self, batch_size: int) -> RetNetState:
        """S = S_0, a window of zeros and, if q and k are rotated, the position 0."""
        position_B = torch.zeros(batch_size, dtype=torch.int64, device=self.output.weight.device)
        window_BWC = self.empty_window(batch_size)
        return RetNetState(self.start(batch_size), window_BWC, position_B if self.rotary else None)

    def sequence(
        self, recurrence: Recurrence, p: LinearInput, state: Any, resets_BT: Tensor | None, only_last: bool
    ) -> tuple[Tensor, RetNetState]:
        """The equations in the class docstring."""
        q, k, v, window_BWC = self.heads(p.channels_C, state.window_BWC, resets_BT)
        position_B = state.position_B
        if position_B is not None:
            position_BT = positions(position_B, q.shape[1], resets_BT)
            q, k, position_B = rotated(q, position_BT), rotated(k, position_BT), position_BT[:, -1] + 1
        o_BTHV, S_BHKV = self.recur(recurrence, self.terms(q, k, v, None), state.S_BHKV, resets_BT)
        return self.mix(o_BTHV, p.output_gate, only_last), RetNetState(S_BHKV, window_BWC, position_B)

    def terms(self, q: Tensor, k: Tensor, v: Tensor, gates: Any) -> Terms:
        """w = γ."""
        log_decay = self.log_decay_H.to(q.dtype)[:, None].expand(*q.shape[:3], 1)
        return Terms(q * self.key_size**-0.5, k, v, log_decay)


def positions(position_B: Tensor, num_steps: int, resets_BT: Tensor | None) -> Tensor:
    """The positions of the next steps [B, T]; they restart from 0 at a reset."""
    steps_T = torch.arange(num_steps, device=position_B.device)
    position_BT = position_B[:, None] + steps_T
    if resets_BT is None:
        return position_BT
    reset_BT = last_reset(resets_BT)
    return torch.where(reset_BT < 0, position_BT, steps_T - reset_BT)


def rotated(x_BTHK: Tensor, position_BT: Tensor) -> Tensor:
    """Rotate features j and ⌊K/2⌋ + j by the angle t θ_j; if K is odd, the last feature stays unchanged."""
    size = x_BTHK.shape[-1]
    half = size // 2
    dtype = at_least_single(x_BTHK.dtype)  # half precision is too coarse for the angles of late positions
    rates = 10_000.0 ** -(torch.arange(half, device=x_BTHK.device, dtype=dtype) / (size / 2))
    angle = position_BT[:, :, None, None] * rates
    first, second, rest = x_BTHK.tensor_split([half, 2 * half], dim=-1)
    cos, sin = angle.cos().to(x_BTHK.dtype), angle.sin().to(x_BTHK.dtype)
    return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], dim=-1)
