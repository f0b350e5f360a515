"""The full tensor."""

import torch
from torch import Tensor, nn

from src.tensors.base import BilinearMap, outer


class Full(BilinearMap):
    r"""A bilinear map whose parameters are the entries of its tensor.

        y_j = Σ_ik W_ijk a_i b_k            I J K parameters

    Args:
        sizes: I, J and K.
        padded: see `BilinearMap`.
    """

    def __init__(self, sizes: tuple[int, int, int], padded: bool = False):
        super().__init__(sizes, padded)
        self.W_IJK = nn.Parameter(torch.empty(*self.sizes))
        i, k = (self.deviations(size).to(self.W_IJK) for size in (self.sizes.I, self.sizes.K))
        nn.init.normal_(self.W_IJK).data.mul_(i[:, None, None]).mul_(k)

    def project(self, b: Tensor) -> Tensor:
        """b itself, since M(b) would be larger by a factor of I J / K."""
        return b

    def product(self, a_BI: Tensor, p_BP: Tensor) -> Tensor:
        return outer(a_BI, p_BP) @ self.W_IJK.transpose(1, 2).flatten(0, 1)

    def full(self) -> Tensor:
        return self.W_IJK

    @property
    def product_size(self) -> int:
        return self.W_IJK.numel()
