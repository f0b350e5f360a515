"""Kimi delta attention of the Kimi team (2025), "Kimi Linear", arXiv 2510.26692.

Shapes: B sequences, T time steps, H heads, K key features, V value features.
"""

from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from src.models.linear_core import LinearCore, head_size
from src.models.linear_parts import Decay, low_rank
from src.ops.dispatch import Kernel
from src.ops.linear_recurrence import DeltaTerms


class KDA(LinearCore):
    r"""The delta rule on a memory in which every key feature has a decay of its own.

        α_t = exp(-e^A softplus(W_2 W_1 x_t + c))                    [K] for every head, with one A; see `Decay`
        β_t = c_β σ(W_β x_t)                                         the strength of the write
        S_t = (I - β_t κ_t κ_tᵀ) Diag(α_t) S_{t-1} + β_t κ_t v_tᵀ    S_0 = 0
        o_t = S_tᵀ q_t / √K

    with κ and q of unit length, so w = α, k = β κ, b = α ⊙ κ and a = -k. With one α for all features of a head this is
    Gated DeltaNet. The output gate is a sigmoid, here of full rank.

    Args:
        input_size: number of input features, X.
        hidden_size: number of output features, D.
        num_heads: number of heads, H.
        key_size: features per query and key, K; None for D / H.
        value_size: features per value, V, 2 or more; None for D / H.
        gate_rank: number of rows of W_1.
        max_beta: c_β, the largest strength of a write: 1 in the paper; 2 allows reflections.
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
        gate_rank: Annotated[int, Ge(1)] = 16,
        max_beta: Annotated[float, Gt(0), Le(2)] = 1.0,
        decay_init: Literal["slow", "paper"] = "slow",
        conv_size: Annotated[int, Ge(0)] = 4,
        output_gate: bool = True,
        learned_start: bool = False,
        chunk_size: Annotated[int, Ge(1)] = 8,
        kernel: Kernel = "auto",
    ):
        key_size = head_size(key_size, hidden_size, num_heads)
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
            gates=Gates(input_size, num_heads, key_size, gate_rank),
            num_products=3,
        )
        self.max_beta = max_beta
        self.decay = Decay(num_heads, key_size, decay_init)

    def gate(self, gate: Tensor) -> Tensor:
        """Apply a sigmoid."""
        return torch.sigmoid(gate)

    def terms(self, q: Tensor, k: Tensor, v: Tensor, gates: Any) -> DeltaTerms:
        """w = α, k = β κ and b = α ⊙ κ."""
        z_beta, z_decay = gates.tensor_split([self.num_heads], dim=-1)
        log_alpha, _ = self.decay(z_decay.unflatten(-1, (self.num_heads, -1)))
        beta = self.max_beta * torch.sigmoid(z_beta)[..., None]
        return DeltaTerms(q, k, v, beta, log_alpha, self.key_size**-0.5)


class Gates(nn.Module):
    """The inputs to β and α: W_β x, and W_2 W_1 x without a bias, since `Decay` has one."""

    def __init__(self, input_size: int, num_heads: int, key_size: int, rank: int):
        super().__init__()
        self.beta = nn.Linear(input_size, num_heads, bias=False)
        self.decay = low_rank(input_size, num_heads * key_size, rank, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Both, concatenated to [..., H + H K]."""
        return torch.cat([self.beta(x), self.decay(x)], dim=-1)
