"""Gated DeltaNet of Yang, Kautz and Hatamizadeh (2024), "Gated Delta Networks", arXiv 2412.06464.

Shapes: B sequences, T time steps, H heads, K key features, V value features.
"""

from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from src.models.linear_core import LinearCore
from src.models.linear_parts import Decay
from src.ops.dispatch import Kernel
from src.ops.linear_recurrence import DeltaTerms


class GatedDeltaNet(LinearCore):
    r"""The delta rule on a memory that decays.

        α_t = exp(-e^A softplus(W_α x_t + c))                        the decay of each head, see `Decay`
        β_t = c_β σ(W_β x_t)                                         the strength of its write
        S_t = α_t S_{t-1} + β_t κ_t (v_t - α_t S_{t-1}ᵀ κ_t)ᵀ        S_0 = 0
        o_t = S_tᵀ q_t / √K

    with κ and q of unit length, so w = α, k = β κ, b = α κ and a = -k. With α = 1 this is DeltaNet; without the erased
    term it is the recurrence of Mamba-2. With `decay_init="paper"`, the median memory of a head is about a dozen steps;
    "slow" suits recall over a hundred steps and more. The authors' program draws e^A from U(0, 16); here it is
    U(1, 16), see `Decay`, which leaves out the longest memories.

    Args:
        input_size: number of input features, X.
        hidden_size: number of output features, D.
        num_heads: number of heads, H.
        key_size: features per query and key, K; None for D / H.
        value_size: features per value, V, 2 or more; None for D / H.
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
        max_beta: Annotated[float, Gt(0), Le(2)] = 1.0,
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
            gates=nn.Linear(input_size, 2 * num_heads, bias=False),
            num_products=3,
        )
        self.max_beta = max_beta
        self.decay = Decay(num_heads, 1, decay_init)

    def terms(self, q: Tensor, k: Tensor, v: Tensor, gates: Any) -> DeltaTerms:
        """w = α, k = β κ and b = α κ."""
        z_beta, z_decay = gates[..., None].chunk(2, dim=-2)
        log_alpha, _ = self.decay(z_decay)
        return DeltaTerms(q, k, v, self.max_beta * torch.sigmoid(z_beta), log_alpha, self.key_size**-0.5)
