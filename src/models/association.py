"""The keys and values under which a memory matrix stores states.

Shapes: B sequences, H units, M rows and columns of the matrix.
"""

import torch
from torch import Tensor, nn

from src.models.init import scaled_identity_
from src.ops.linear_recurrence import unit_length


class Association(nn.Module):
    r"""A memory matrix A in which a value is stored under a key, and which is read with a query.

    As in Ba et al. (2016), a state h is its own key, value and query. With `hetero`, key and value are learned instead:

        k = W_k h,   v = W_v h,   q = h,       read A h                  W_k and W_v [H, H] start as identities
        k = W_k h,   v = W_v h,   q = W_k h,   read W_o A W_k h          with a memory size M: W_k and W_v [M, H]

    In the second case, W_k and W_v start as random orthogonal projections, and W_o as W_vᵀ.

    Args:
        size: number of units, H.
        memory_size: rows and columns of A, M; None for H.
        hetero: whether key and value are learned.

    Raises:
        ValueError: `memory_size` is given without `hetero`.
    """

    def __init__(self, size: int, memory_size: int | None, hetero: bool):
        super().__init__()
        if memory_size is not None and not hetero:
            raise ValueError(f"memory_size={memory_size}: must be null with association=auto")
        self.is_projected = memory_size is not None
        self.size = memory_size or size
        self.key: nn.Module = nn.Identity()
        self.value: nn.Module = nn.Identity()
        self.output: nn.Module = nn.Identity()
        if not hetero:
            return
        self.key, self.value = (nn.Linear(size, self.size, bias=False) for _ in range(2))
        for layer in (self.key, self.value):
            nn.init.orthogonal_(layer.weight) if self.is_projected else scaled_identity_(layer.weight, 1.0)
        if self.is_projected:
            self.output = nn.Linear(self.size, size, bias=False)
            self.output.weight = nn.Parameter(self.value.weight.detach().t().clone())

    def written(self, A_BMM: Tensor, h_BH: Tensor, rate: float | Tensor, delta: bool) -> Tensor:
        """A after a write: A + η v kᵀ, or by the delta rule A + η (v - A κ) κᵀ, where κ is the key at unit length."""
        k_BM, v_BM = self.key(h_BH), self.value(h_BH)
        if delta:
            k_BM = unit_length(k_BM)
            v_BM = v_BM - torch.bmm(A_BMM, k_BM[:, :, None])[:, :, 0]
        return A_BMM + (rate * v_BM)[:, :, None] * k_BM[:, None, :]

    def read(self, A_BMM: Tensor, h_BH: Tensor) -> Tensor:
        """What the memory recalls for a state, [B, H]."""
        query_BM = self.key(h_BH) if self.is_projected else h_BH
        return self.output(torch.bmm(A_BMM, query_BM[:, :, None])[:, :, 0])
