"""The recurrence of Mamba-2, Dao and Gu (2024), "Transformers are SSMs", arXiv 2405.21060.

Shapes: B sequences, T time steps, H heads, K key features, V value features.
"""

from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from src.models.linear_core import LinearCore
from src.models.linear_parts import Decay
from src.ops.dispatch import Kernel
from src.ops.linear_recurrence import Terms


class Mamba2(LinearCore):
    r"""A memory whose decay and write share a step size.

        Δ_t = softplus(W_Δ x_t + c)                       the step size of each head
        S_t = exp(-e^A Δ_t) S_{t-1} + Δ_t k_t v_tᵀ        S_0 = 0
        o_t = S_tᵀ q_t + d v_t                            one d per head, 1 at the start

    so w = exp(-e^A Δ), k is Δ k, and nothing is erased. (The paper writes B for k, C for q and x for v.) Here every
    head has its own k and q, and the layer around the recurrence is the same as for the other cells: the norm comes
    before the gate and acts on each head. With `decay_init="slow"`, the small steps that slow the decay make the writes
    small too: at the start S_tᵀ q_t is about a hundredth of d v_t (a tenth without the convolution), and normalizing
    their sum does not change this ratio.

    Args:
        input_size: number of input features, X.
        hidden_size: number of output features, D.
        num_heads: number of heads, H.
        key_size: features per query and key, K; None for D / H.
        value_size: features per value, V, 2 or more; None for D / H.
        decay_init: see `Decay`.
        conv_size: steps spanned by the convolution of q, k and v; 0 for no convolution.
        output_gate: whether there is an output gate.
        learned_start: whether S_0 is learned.
        chunk_size: steps per chunk in the plain PyTorch form.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 64,
        num_heads: Annotated[int, Ge(1)] = 2,
        key_size: Annotated[int, Ge(1)] | None = None,
        value_size: Annotated[int, Ge(1)] | None = None,
        decay_init: Literal["slow", "paper"] = "slow",
        conv_size: Annotated[int, Ge(0)] = 4,
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
            gates=nn.Linear(input_size, num_heads, bias=False),
        )
        self.decay = Decay(num_heads, 1, decay_init)
        self.skip_H = nn.Parameter(torch.ones(num_heads))

    def terms(self, q: Tensor, k: Tensor, v: Tensor, gates: Any) -> Terms:
        """w = exp(-e^A Δ), and Δ k in place of k."""
        log_alpha, step = self.decay(gates[..., None])
        return Terms(q, step * k, v, log_alpha)

    def read_out(self, o_BTHV: Tensor, terms: Terms) -> Tensor:
        """S_tᵀ q_t + d v_t."""
        return o_BTHV + self.skip_H[:, None] * terms.value
