"""The recurrent Delta Net of Irie et al. (2021).

"Going Beyond Linear Transformers with Recurrent Fast Weight Programmers", arXiv 2106.06295.

Shapes: B sequences, H heads, K key features, V value features, R features that the last output contributes to a head.
"""

from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from src.models.linear_core import need_two_features
from src.models.recall_core import RecallCore
from src.ops.dispatch import Kernel


class RecurrentMemory(NamedTuple):
    """The fast weights of every head, and what the last step read from them."""

    S_BHKV: Tensor
    o_BHV: Tensor


class RecurrentDeltaNet(RecallCore):
    r"""A Delta Net whose queries, keys, values and strengths depend on the previous read: a nonlinear recurrence.

        q_t = softmax(W_q x_t + R_q tanh(o_{t-1}))                   k_t likewise, for every head
        v_t = W_v x_t + R_v tanh(o_{t-1})
        β_t = c σ(W_β x_t + r_βᵀ tanh(o_{t-1}))
        S_t = S_{t-1} + β_t k_t (v_t - S_{t-1}ᵀ k_t)ᵀ                S_0 = 0
        o_t = S_tᵀ q_t                                               o_0 = 0

    The layer around it is as in `LinearCore`: the output is W_o RMSNorm(o_t). R starts from N(0, 1/V). As in fast
    weights, what is written depends on what has been read, so no form is parallel over time.

    Args:
        input_size: number of input features, X.
        hidden_size: number of output features, D.
        num_heads: number of heads, H.
        key_size: features per query and key, K, 2 or more, since the softmax of one feature is 1; None for D / H.
        value_size: features per value, V, 2 or more; None for D / H.
        max_beta: c, the largest strength of a write.
        conv_size: steps spanned by a convolution of q, k and v; 0 for no convolution.
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
        conv_size: Annotated[int, Ge(0)] = 0,
        kernel: Kernel = "auto",
    ):
        need_two_features("key_size", key_size, hidden_size, num_heads)
        super().__init__(
            input_size,
            hidden_size,
            num_heads=num_heads,
            key_size=key_size,
            value_size=value_size,
            conv_size=conv_size,
            output_gate=False,
            num_products=3,
            learned_start=False,
            chunk_size=1,
            gates=nn.Linear(input_size, num_heads, bias=False),
            kernel=kernel,
        )
        self.max_beta = max_beta
        features = 2 * self.key_size + self.value_size + 1
        self.recurrent_HVR = nn.Parameter(torch.randn(num_heads, self.value_size, features) * self.value_size**-0.5)

    def empty(self, batch_size: int) -> RecurrentMemory:
        """S = 0, o = 0."""
        return RecurrentMemory(self.start(batch_size), self.zeros(batch_size, self.num_heads, self.value_size))

    def recall(
        self, q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, gates_BH: Tensor, memory: RecurrentMemory
    ) -> tuple[Tensor, RecurrentMemory]:
        """One step of the equations in the class docstring."""
        added_BHR = torch.einsum("bhv,hvr->bhr", torch.tanh(memory.o_BHV), self.recurrent_HVR)
        of_q, of_k, of_v, of_beta = added_BHR.split([self.key_size, self.key_size, self.value_size, 1], dim=2)
        q_BHK, k_BHK = torch.softmax(q_BHK + of_q, dim=2), torch.softmax(k_BHK + of_k, dim=2)
        beta_BH1 = self.max_beta * torch.sigmoid(gates_BH[:, :, None] + of_beta)
        read_BHV = (memory.S_BHKV * k_BHK[..., None]).sum(2)
        written_BHV = beta_BH1 * (v_BHV + of_v - read_BHV)
        S_BHKV = memory.S_BHKV + k_BHK[..., None] * written_BHV[:, :, None]
        o_BHV = (S_BHKV * q_BHK[..., None]).sum(2)
        return o_BHV, RecurrentMemory(S_BHKV, o_BHV)

    def flops(self, length: int) -> int:
        """As in `LinearCore`, plus the products with R."""
        return super().flops(length) + 2 * 3 * (length - 1) * self.recurrent_HVR.numel()
