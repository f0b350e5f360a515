"""The self-referential weight matrix of Irie et al. (2022).

"A Modern Self-Referential Weight Matrix That Learns to Modify Itself", arXiv 2202.05780.

Shapes: B sequences, H heads, K features of a head, R = 3K + 4 rows.
"""

from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor, nn

from src.models.linear_core import need_two_features
from src.models.recall_core import RecallCore
from src.ops.dispatch import Kernel


class SelfReferentialMemory(NamedTuple):
    """The current matrix of every head."""

    W_BHRK: Tensor


class SRWM(RecallCore):
    r"""A weight matrix that generates its own keys, queries and learning rates, and modifies itself with them.

        [y_t, q_t, k_t, b_t] = W_{t-1} φ(V x_t)                              φ = softmax, for every head
        W_t = W_{t-1} + σ(b_t) ⊙ (W_{t-1} φ(q_t) - W_{t-1} φ(k_t)) φ(k_t)ᵀ

    The four groups of rows of W, for y, q, k and b, have one learning rate each, from the four entries of b. W is read
    before it is written. The W at the start of a sequence is learned; its rows for y, q and k start from N(0, 1/K), and
    those for b from N(`rate_bias`, 1/K). The layer around it is as in `LinearCore`: the output is
    W_o RMSNorm(y_t).

    Args:
        input_size: number of input features, X.
        hidden_size: number of output features, D.
        num_heads: number of heads, H.
        key_size: features per head, K, 2 or more, since φ of one feature is 1; None for D / H.
        rate_bias: initial mean of the rows for b, and thus of b itself, since φ sums to 1.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 64,
        num_heads: Annotated[int, Ge(1)] = 2,
        key_size: Annotated[int, Ge(1)] | None = None,
        rate_bias: float = -1.0,
        kernel: Kernel = "auto",
    ):
        need_two_features("key_size", key_size, hidden_size, num_heads)
        super().__init__(
            input_size,
            hidden_size,
            num_heads=num_heads,
            key_size=key_size,
            value_size=key_size,
            conv_size=0,
            output_gate=False,
            num_writes=0,
            learned_start=False,
            chunk_size=1,
            kernel=kernel,
        )
        size = self.key_size
        start_HRK = torch.randn(num_heads, 3 * size + 4, size) * size**-0.5
        start_HRK[:, 3 * size :] += rate_bias
        self.start_HRK = nn.Parameter(start_HRK)

    def parts(self, channels_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """V x by head, in place of query, key and value, which W generates."""
        x_HK = channels_C.unflatten(-1, (self.num_heads, -1))
        return x_HK, x_HK, x_HK

    def empty(self, batch_size: int) -> SelfReferentialMemory:
        """A copy of the learned W: a state that is carried over must not change when the weights do."""
        return SelfReferentialMemory(self.start_HRK.expand(batch_size, *self.start_HRK.shape).clone())

    def recall(
        self, x_BHK: Tensor, _k: Tensor, _v: Tensor, _gates: None, memory: SelfReferentialMemory
    ) -> tuple[Tensor, SelfReferentialMemory]:
        """One step of the equations in the class docstring."""
        size, W_BHRK = self.key_size, memory.W_BHRK
        made_BHR = _product(W_BHRK, torch.softmax(x_BHK, dim=2))
        y_BHK, q_BHK, k_BHK, b_BH4 = made_BHR.split([size, size, size, 4], dim=2)
        q_BHK, k_BHK = torch.softmax(q_BHK, dim=2), torch.softmax(k_BHK, dim=2)
        rates_BH4 = torch.sigmoid(b_BH4)
        rates_BHR = torch.cat(
            [rates_BH4[..., i : i + 1].expand(-1, -1, n) for i, n in enumerate((size, size, size, 4))], dim=2
        )
        change_BHR = rates_BHR * _product(W_BHRK, q_BHK - k_BHK)
        return y_BHK, SelfReferentialMemory(W_BHRK + change_BHR[..., None] * k_BHK[:, :, None])

    def flops(self, length: int) -> int:
        """As in `Core`: every step multiplies by W twice and writes it once."""
        return 2 * 3 * 3 * length * self.start_HRK.numel()


def _product(W_BHRK: Tensor, x_BHK: Tensor) -> Tensor:
    return (W_BHRK * x_BHK[:, :, None]).sum(3)
