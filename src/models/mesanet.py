"""The Mesa layer of von Oswald et al. (2023, 2025), arXiv 2309.05858 and 2506.05233: exact least squares at every step.

Shapes: B sequences, T time steps, H heads, K key features, V value features.
"""

import math
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from src.models.linear_parts import Decay
from src.models.recall_core import RecallCore
from src.ops.dispatch import Kernel
from src.ops.linear_recurrence import Terms, chunked, unit_length
from src.ops.precision import at_least_single


class MesaMemory(NamedTuple):
    """The decayed sums of k vᵀ and of k kᵀ, for every head."""

    of_values_BHKV: Tensor
    of_keys_BHKK: Tensor


class MesaNet(RecallCore):
    r"""A memory that is always the best linear map from the keys to the values so far.

        G_t = α_t G_{t-1} + β_t k_t v_tᵀ                             for every head, G_0 = 0
        H_t = α_t H_{t-1} + β_t k_t k_tᵀ                             H_0 = 0
        o_t = G_tᵀ (H_t + Λ)^{-1} q_t

    (H + Λ)^{-1} G is the ridge regression of the values on the keys, with each pair weighted by its β and by the decay
    since then; Λ > 0 is diagonal and learned. The problem that other cells approach by steps of gradient descent is
    solved here, exactly rather than by conjugate gradients: an upper bound on what a linear map of this size recalls.
    k and q have unit length, β = σ(W_β x), α is as in `Decay`, and Λ = `min_ridge` + softplus(l) starts at
    `min_ridge` + 1. The layer around it is as in `LinearCore`.

    In the plain PyTorch form, H is summed step by step, all linear systems are solved together, and G is read as in
    linear attention, with the solutions as queries.

    Args:
        input_size: number of input features, X.
        hidden_size: number of output features, D.
        num_heads: number of heads, H.
        key_size: features per query and key, K; None for D / H.
        value_size: features per value, V, 2 or more; None for D / H.
        min_ridge: the lower bound of Λ, above 0.
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
        min_ridge: Annotated[float, Gt(0)] = 0.01,
        conv_size: Annotated[int, Ge(0)] = 4,
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
            output_gate=False,
            learned_start=False,
            chunk_size=chunk_size,
            gates=nn.Linear(input_size, 2 * num_heads, bias=False),
            kernel=kernel,
        )
        self.min_ridge = min_ridge
        self.decay = Decay(num_heads, 1, "slow")
        self.ridge_HK = nn.Parameter(torch.full((num_heads, self.key_size), math.log(math.e - 1)))

    def empty(self, batch_size: int) -> MesaMemory:
        """G = 0, H = 0."""
        size = self.key_size
        return MesaMemory(self.start(batch_size), self.zeros(batch_size, self.num_heads, size, size))

    def weights(self, gates: Tensor) -> tuple[Tensor, Tensor]:
        """β and log α, [..., H, 1]."""
        strength, forgotten = gates[..., None].chunk(2, dim=-2)
        return torch.sigmoid(strength), self.decay(forgotten)[0]

    def solve(self, of_keys_HKK: Tensor, q_HK: Tensor) -> Tensor:
        """(H + Λ)^{-1} q, [..., H, K]."""
        ridge_HK = self.min_ridge + functional.softplus(self.ridge_HK)
        dtype = at_least_single(q_HK.dtype)
        matrix_HKK = (of_keys_HKK + torch.diag_embed(ridge_HK)).to(dtype)
        return torch.linalg.solve(matrix_HKK, q_HK.to(dtype)).to(q_HK.dtype)

    def recall(
        self, q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, gates_BG: Tensor, memory: MesaMemory
    ) -> tuple[Tensor, MesaMemory]:
        """One step of the equations in the class docstring."""
        (beta_BH1, log_decay_BH1), k_BHK = self.weights(gates_BG), unit_length(k_BHK)
        written_BHK1, decay_BH11 = (beta_BH1 * k_BHK)[..., None], log_decay_BH1.exp()[..., None]
        of_values_BHKV = decay_BH11 * memory.of_values_BHKV + written_BHK1 * v_BHV[:, :, None]
        of_keys_BHKK = decay_BH11 * memory.of_keys_BHKK + written_BHK1 * k_BHK[:, :, None]
        o_BHV = (of_values_BHKV * self.solve(of_keys_BHKK, unit_length(q_BHK))[..., None]).sum(2)
        return o_BHV, MesaMemory(of_values_BHKV, of_keys_BHKK)

    def recall_all(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        gates: Tensor,
        memory: MesaMemory,
        resets_BT: Tensor | None,
        *,
        is_empty: bool,
    ) -> tuple[Tensor, MesaMemory]:
        """H by its recursion, all linear systems at once, and G read by linear attention with their solutions."""
        (beta, log_decay), k, of_keys_BHKK = self.weights(gates), unit_length(k), memory.of_keys_BHKK
        products, decays = (beta * k)[..., None] * k[..., None, :], log_decay.exp()[..., None]
        if resets_BT is not None:
            decays = decays.masked_fill(resets_BT[:, :, None, None, None], 0)
        sums = []
        for decay_BH11, product_BHKK in zip(decays.unbind(1), products.unbind(1), strict=True):
            of_keys_BHKK = decay_BH11 * of_keys_BHKK + product_BHKK
            sums.append(of_keys_BHKK)
        reading = Terms(self.solve(torch.stack(sums, dim=1), unit_length(q)), beta * k, v, log_decay)
        start = None if resets_BT is None else torch.zeros_like(memory.of_values_BHKV)
        o_BTHV, of_values_BHKV = chunked(reading, memory.of_values_BHKV, resets_BT, start, chunk_size=self.chunk_size)
        return o_BTHV, MesaMemory(of_values_BHKV, of_keys_BHKK)

    def flops(self, length: int) -> int:
        """As in `LinearCore`, for both sums, plus K³ / 3 multiplications for each linear system."""
        size = self.key_size
        per_step = size * (self.value_size * 2 + size) + size**3 // 3
        return 2 * 3 * length * self.num_heads * per_step
