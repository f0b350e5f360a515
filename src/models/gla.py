"""Gated linear attention of Yang et al. (2023), arXiv 2312.06635.

Shapes: B sequences, T time steps, H heads, K key features, V value features.
"""

from typing import Annotated, Any

from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn import functional

from src.models.linear_core import LinearCore
from src.models.linear_parts import low_rank
from src.ops.dispatch import Kernel
from src.ops.linear_recurrence import Terms


class GLA(LinearCore):
    r"""A memory in which every key feature has a decay of its own.

        α_t = σ(W_2 W_1 x_t + c)^{1/τ}                    [K] for every head
        S_t = Diag(α_t) S_{t-1} + k_t v_tᵀ                S_0 = 0
        o_t = S_tᵀ q_t / √K

    so w = α, and nothing is erased. c starts at 0; with τ = 16, half of the memory is then left after 16 steps.

    Args:
        input_size: number of input features, X.
        hidden_size: number of output features, D.
        num_heads: number of heads, H.
        key_size: features per query and key, K; None for D / 2H.
        value_size: features per value, V, 2 or more; None for D / H.
        gate_rank: number of rows of W_1.
        temperature: τ; the larger, the slower the decay.
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
        temperature: Annotated[float, Gt(0)] = 16.0,
        conv_size: Annotated[int, Ge(0)] = 0,
        output_gate: bool = True,
        learned_start: bool = False,
        chunk_size: Annotated[int, Ge(1)] = 8,
        kernel: Kernel = "auto",
    ):
        key_size = key_size or max(1, hidden_size // (2 * num_heads))
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
            gates=low_rank(input_size, num_heads * key_size, gate_rank),
        )
        self.temperature = temperature

    def terms(self, q: Tensor, k: Tensor, v: Tensor, gates: Any) -> Terms:
        """w = α."""
        log_alpha = functional.logsigmoid(gates).unflatten(-1, (self.num_heads, -1)) / self.temperature
        return Terms(q * self.key_size**-0.5, k, v, log_alpha)
