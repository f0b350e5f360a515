"""The CP decomposition (canonical polyadic, CANDECOMP/PARAFAC).

Shapes: B vectors, R components, I, J and K features.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from src.tensors.base import BilinearMap, unit_scaling_

Init = Literal["rank_independent", "mathews2016"]


class CP(BilinearMap):
    r"""A bilinear map whose tensor is a sum of R tensors of rank 1.

        W_ijk = Σ_r λ_r A_ri B_rj C_rk        y = Bᵀ (λ ⊙ (A a) ⊙ (C b))        M(b) = Bᵀ diag(λ ⊙ C b) A

    so the rank of M(b) is at most R. Unless rows are normalized, λ = 1 and there are R (I + J + K) parameters.

    With `normalize="rows"`, the rows of A, B and C are divided by their norms, and λ adds R parameters, which start at
    √(J/R). If the first features are the constant 1 (`padded`) and `init` is "rank_independent", y then starts with a
    quarter of the variance that it has without `normalize`, since the rows of A and C, whose norm is about √2, are
    divided by this norm. With `normalize="matrix"`, each of A, B and C is divided by its Frobenius norm, and λ = 1.

    `init="mathews2016"` draws A, B and C from U(-√(3/R), √(3/R)), the default of TensorFlow in 2016; the variance of y
    then falls as 1/R², unless rows are normalized.

    Args:
        sizes: I, J and K.
        rank: number of components, R.
        normalize: how the factors are normalized each time they are used; None for not at all.
        init: how the factors are initialized.
        padded: see `BilinearMap`.
    """

    def __init__(
        self,
        sizes: tuple[int, int, int],
        rank: int,
        *,
        normalize: Literal["rows", "matrix"] | None = None,
        init: Init = "rank_independent",
        padded: bool = False,
    ):
        super().__init__(sizes, padded)
        self.normalize = normalize
        self.A_RI = nn.Parameter(torch.empty(rank, self.sizes.I))
        self.B_RJ = nn.Parameter(torch.empty(rank, self.sizes.J))
        self.C_RK = nn.Parameter(torch.empty(rank, self.sizes.K))
        self.weights_R = None
        if normalize == "rows":
            self.weights_R = nn.Parameter(torch.full((rank,), math.sqrt(self.sizes.J / rank)))
        if init == "rank_independent":
            self.draw_factor_(self.A_RI)
            nn.init.normal_(self.B_RJ, std=1 / math.sqrt(rank))
            self.draw_factor_(self.C_RK)
        else:
            for factor in (self.A_RI, self.B_RJ, self.C_RK):
                unit_scaling_(factor, rank)

    def _normalized(self, factor: Tensor) -> Tensor:
        if self.normalize is None:
            return factor
        return factor / (factor.norm(dim=1, keepdim=True) if self.normalize == "rows" else factor.norm())

    def project(self, b: Tensor) -> Tensor:
        """λ ⊙ C b."""
        p = b @ self._normalized(self.C_RK).t()
        return p if self.weights_R is None else p * self.weights_R

    def product(self, a_BI: Tensor, p_BP: Tensor) -> Tensor:
        return (a_BI @ self._normalized(self.A_RI).t() * p_BP) @ self._normalized(self.B_RJ)

    def full(self) -> Tensor:
        A_RI, B_RJ, C_RK = (self._normalized(factor) for factor in (self.A_RI, self.B_RJ, self.C_RK))
        weights_R = torch.ones_like(A_RI[:, 0]) if self.weights_R is None else self.weights_R
        return torch.einsum("r,ri,rj,rk->ijk", weights_R, A_RI, B_RJ, C_RK)

    def square_norm(self) -> Tensor:
        """λᵀ (A Aᵀ ⊙ B Bᵀ ⊙ C Cᵀ) λ."""
        A_RI, B_RJ, C_RK = (self._normalized(factor) for factor in (self.A_RI, self.B_RJ, self.C_RK))
        products_RR = (A_RI @ A_RI.t()) * (B_RJ @ B_RJ.t()) * (C_RK @ C_RK.t())
        return products_RR.sum() if self.weights_R is None else self.weights_R @ products_RR @ self.weights_R

    @property
    def product_size(self) -> int:
        return self.A_RI.numel() + self.B_RJ.numel()
