"""The tensor-train decomposition of a tensor with three modes.

Shapes: B vectors, P and Q ranks, I, J and K features.
"""

import math

import torch
from torch import Tensor, nn

from src.tensors.base import BilinearMap, outer


class TensorTrain(BilinearMap):
    r"""A bilinear map whose tensor is a train: two matrices with a three-mode core between them.

        W_ijk = Σ_pq A_pi G_jpq C_qk        y_j = Σ_pq G_jpq (A a)_p (C b)_q

    Since the mode of the result is in the middle, this is the Tucker decomposition without a factor for the result
    (Tucker-2). The rank of M(b) is at most P. There are P I + J P Q + Q K parameters.

    Args:
        sizes: I, J and K.
        ranks: P and Q, for the first and the second vector.
        padded: see `BilinearMap`.
    """

    def __init__(
        self,
        sizes: tuple[int, int, int],
        ranks: tuple[int, int],
        *,
        padded: bool = False,
    ):
        super().__init__(sizes, padded)
        p, q = ranks
        self.A_PI = nn.Parameter(torch.empty(p, self.sizes.I))
        self.G_JPQ = nn.Parameter(torch.empty(self.sizes.J, p, q))
        self.C_QK = nn.Parameter(torch.empty(q, self.sizes.K))
        self.draw_factor_(self.A_PI)
        nn.init.normal_(self.G_JPQ, std=1 / math.sqrt(p * q))
        self.draw_factor_(self.C_QK)

    def project(self, b: Tensor) -> Tensor:
        """C b."""
        return b @ self.C_QK.t()

    def product(self, a_BI: Tensor, p_BP: Tensor) -> Tensor:
        return outer(a_BI @ self.A_PI.t(), p_BP) @ self.G_JPQ.flatten(1).t()

    def full(self) -> Tensor:
        return torch.einsum("pi,jpq,qk->ijk", self.A_PI, self.G_JPQ, self.C_QK)

    def square_norm(self) -> Tensor:
        """The sum over j of all entries of G_j ⊙ (A Aᵀ G_j C Cᵀ)."""
        return (self.G_JPQ * (self.A_PI @ self.A_PI.t() @ self.G_JPQ @ (self.C_QK @ self.C_QK.t()))).sum()

    @property
    def product_size(self) -> int:
        return self.A_PI.numel() + self.G_JPQ.numel()
