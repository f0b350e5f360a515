"""Titans of Behrouz et al. (2025), "Titans: Learning to Memorize at Test Time", arXiv 2501.00663, with linear memory.

Shapes: B sequences, T time steps, H heads, K key features, V value features.
"""

from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional

from src.models.recall_core import RecallCore
from src.ops.dispatch import Kernel
from src.ops.inputs import Inputs
from src.ops.linear_recurrence import unit_length
from src.ops.momentum_recurrence import MomentumTerms, chunked, step
from src.ops.precision import at_least_single
from src.specs import map_state


class TitansMemory(NamedTuple):
    """The memory of every head, and its momentum, without which a sequence cannot be continued."""

    S_BHKV: Tensor
    M_BHKV: Tensor


class Titans(RecallCore):
    r"""A memory that is trained while the sequence is read, by gradient descent with momentum and weight decay.

        ℓ_t(S) = ½ ‖Sᵀ k_t - v_t‖²
        M_t = η_t M_{t-1} - θ_t ∇ℓ_t(S_{t-1})                        for every head, M_0 = 0
        S_t = (1 - α_t) S_{t-1} + M_t                                S_0 = 0
        o_t = S_tᵀ q_t

    with η, α = σ(W x + b) and θ = c σ(W_θ x + b_θ), and with k and q at unit length. b_θ and b_η start at 0, b_α
    between -4 and -6 across the heads. The gradient is taken at the memory of the previous step, which makes this the
    recurrence of the paper with mini-batches of one step; its memories that are deeper networks are left out. With
    η = α = 0 this is DeltaNet with β = θ. The layer around it is as in `LinearCore`. For the plain PyTorch form, see
    `src.ops.momentum_recurrence`.

    Args:
        input_size: number of input features, X.
        hidden_size: number of output features, D.
        num_heads: number of heads, H.
        key_size: features per query and key, K; None for D / H.
        value_size: features per value, V, 2 or more; None for D / H.
        max_rate: c, the largest learning rate of the memory.
        conv_size: steps spanned by the convolution of q, k and v; 0 for no convolution.
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
        max_rate: Annotated[float, Gt(0), Le(2)] = 1.0,
        conv_size: Annotated[int, Ge(0)] = 4,
        chunk_size: Annotated[int, Ge(1)] = 32,
        kernel: Kernel = "auto",
    ):
        gates = nn.Linear(input_size, 3 * num_heads)
        nn.init.zeros_(gates.bias)
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
            chunk_size=chunk_size,
            gates=gates,
            kernel=kernel,
        )
        self.max_rate = max_rate
        with torch.no_grad():
            gates.bias[2 * num_heads :] = -torch.linspace(4, 6, num_heads)

    def empty(self, batch_size: int) -> TitansMemory:
        """S = 0, M = 0."""
        return TitansMemory(self.start(batch_size), self.start(batch_size))

    def momentum_terms(self, q: Tensor, k: Tensor, v: Tensor, gates: Tensor) -> MomentumTerms:
        """The terms of the recurrence, at one step or at all steps."""
        rate, momentum, forgotten = gates.chunk(3, dim=-1)
        rate = self.max_rate * torch.sigmoid(rate)
        kept = functional.logsigmoid(-forgotten)
        return MomentumTerms(unit_length(q), unit_length(k), v, rate, functional.logsigmoid(momentum), kept)

    def recall(
        self, q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, gates_BG: Tensor, memory: TitansMemory
    ) -> tuple[Tensor, TitansMemory]:
        """One step of the equations in the class docstring."""
        o_BHV, *ends = step(self.momentum_terms(q_BHK, k_BHK, v_BHV, gates_BG), *memory)
        return o_BHV, TitansMemory(*ends)

    @staticmethod
    def serves(inputs: Inputs) -> bool:
        """Only inputs without resets."""
        return inputs.resets is None

    def recall_all(
        self, q: Tensor, k: Tensor, v: Tensor, gates: Tensor, memory: TitansMemory, _: None, *, is_empty: bool
    ) -> tuple[Tensor, TitansMemory]:
        """All steps, computed in chunks."""
        terms, dtype = self.momentum_terms(q, k, v, gates), at_least_single(q.dtype)
        exact, *before = (map_state(lambda tensor: tensor.to(dtype), part) for part in (terms, *memory))
        o_BTHV, *ends = chunked(exact, *before, chunk_size=self.chunk_size)
        return o_BTHV.to(q.dtype), TitansMemory(*(end.to(q.dtype) for end in ends))
