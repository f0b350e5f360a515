"""DeltaProduct of Siems et al. (2025), arXiv 2502.10297.

Shapes: B sequences, T time steps, H heads, K key features, V value features.
"""

from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from src.models.linear_core import LinearCore
from src.ops.dispatch import Kernel
from src.ops.linear_recurrence import DeltaTerms


class DeltaProduct(LinearCore):
    r"""A linear recurrence that writes several times per step, each time by the delta rule.

        β_{t,i} = c σ(W_β x_t)                                              for i = 1 ... n
        S_{t,i} = S_{t,i-1} + β_{t,i} κ_{t,i} (v_{t,i} - S_{t,i-1}ᵀ κ_{t,i})ᵀ      S_{t,0} = S_{t-1,n}, S_{0,n} = 0
        o_t     = S_{t,n}ᵀ q_t

    with κ and q of unit length. The transition is a product of n generalized Householder matrices I - β κ κᵀ; with
    c = 2, one of them can be a reflection and two a rotation, so n = 2 can permute three items and n = 1 cannot. With
    n = 1 this is DeltaNet. `project` returns n keys and n values for every head.

    Args:
        input_size: number of input features, X.
        hidden_size: number of output features, D.
        num_heads: number of heads, H.
        key_size: features per query and key, K; None for D / H.
        value_size: features per value, V, 2 or more; None for D / H.
        num_householder: n, the number of writes per step.
        max_beta: c, the largest strength of a write.
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
        num_householder: Annotated[int, Ge(1)] = 2,
        max_beta: Annotated[float, Gt(0), Le(2)] = 2.0,
        conv_size: Annotated[int, Ge(0)] = 4,
        output_gate: bool = False,
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
            gates=nn.Linear(input_size, num_householder * num_heads, bias=False),
            num_products=1 + 2 * num_householder,
            num_writes=num_householder,
        )
        self.num_householder, self.max_beta = num_householder, max_beta

    def terms(self, q: Tensor, k: Tensor, v: Tensor, gates: Any) -> DeltaTerms:
        """k = β κ and b = κ for every write."""
        k, v, z_beta = (self._one_after_the_other(x) for x in (k, v, gates.unflatten(-1, (self.num_heads, -1))))
        return DeltaTerms(q, k, v, self.max_beta * torch.sigmoid(z_beta))

    def _one_after_the_other(self, x_BTH: Tensor) -> Tensor:
        """Split features of all writes of a step, [B, T, H, n F], into one step per write, [B, T n, H, F]."""
        return x_BTH.unflatten(-1, (self.num_householder, -1)).transpose(2, 3).flatten(1, 2)
