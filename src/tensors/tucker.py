"""The Tucker decomposition.

Shapes: B vectors, P, Q and S ranks, I, J and K features.
"""

import math

import torch
from torch import Tensor, nn

from src.tensors.base import BilinearMap, outer


class Tucker(BilinearMap):
    r"""A bilinear map whose tensor is a small core multiplied by a matrix in each mode.

        W_ijk = Σ_pqs G_pqs A_pi B_qj C_sk        y = Bᵀ G(A a, C b)

    The rank of M(b) is at most min(P, Q). The CP decomposition is the special case of a superdiagonal core. There are
    P I + Q J + S K + P Q S parameters.

    Args:
        sizes: I, J and K.
        ranks: P, Q and S, for the first vector, the result and the second vector.
        padded: see `BilinearMap`.
    """

    def __init__(self, sizes: tuple[int, int, int], ranks: tuple[int, int, int], *, padded: bool = False):
        super().__init__(sizes, padded)
        p, q, s = ranks
        self.A_PI = nn.Parameter(torch.empty(p, self.sizes.I))
        self.B_QJ = nn.Parameter(torch.empty(q, self.sizes.J))
        self.C_SK = nn.Parameter(torch.empty(s, self.sizes.K))
        self.G_PQS = nn.Parameter(torch.empty(p, q, s))
        self.draw_factor_(self.A_PI)
        nn.init.normal_(self.B_QJ, std=1 / math.sqrt(q))
        self.draw_factor_(self.C_SK)
        nn.init.normal_(self.G_PQS, std=1 / math.sqrt(p * s))

    def project(self, b: Tensor) -> Tensor:
        """C b."""
        return b @ self.C_SK.t()

    def product(self, a_BI: Tensor, p_BP: Tensor) -> Tensor:
        core = self.G_PQS.transpose(1, 2).flatten(0, 1)
        return outer(a_BI @ self.A_PI.t(), p_BP) @ core @ self.B_QJ

    def full(self) -> Tensor:
        return torch.einsum("pqs,pi,qj,sk->ijk", self.G_PQS, self.A_PI, self.B_QJ, self.C_SK)

    @property
    def product_size(self) -> int:
        return self.A_PI.numel() + self.G_PQS.numel() + self.B_QJ.numel()
