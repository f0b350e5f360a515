"""A tensor with few nonzero entries at random positions.

Shapes: B vectors, E entries, M zeros that pad the entries to a multiple of J, I, J and K features.
"""

import math

import torch
from torch import Tensor, nn

from src.tensors.base import BilinearMap


class Sparse(BilinearMap):
    r"""A bilinear map whose tensor has E entries at fixed random positions; their values are trained.

        y_j = Σ_{e: j(e) = j} v_e a_i(e) b_k(e)            E parameters

    i(e) and k(e) are drawn uniformly, so two entries can share a position, where they add up. The entries are assigned
    to the results in turn, j(e) = e mod J; Mathews (2016) draws j(e) too, which leaves some results without an entry.

    v_e is drawn from N(0, I J K / E · s_i² s_k²), where s are the `deviations` of the features.

    Args:
        sizes: I, J and K.
        num_entries: number of entries, E.
        padded: see `BilinearMap`.
    """

    i_E: Tensor
    k_E: Tensor

    def __init__(
        self,
        sizes: tuple[int, int, int],
        num_entries: int,
        *,
        padded: bool = False,
    ):
        super().__init__(sizes, padded)
        size_i, size_j, size_k = self.sizes
        self.v_E = nn.Parameter(torch.empty(num_entries))
        self.register_buffer("i_E", torch.randint(size_i, (num_entries,), device="cpu"))
        self.register_buffer("k_E", torch.randint(size_k, (num_entries,), device="cpu"))
        if not self.v_E.is_meta:
            deviations = self.deviations(size_i)[self.i_E] * self.deviations(size_k)[self.k_E]
            share = num_entries / (size_i * size_j * size_k)
            nn.init.normal_(self.v_E).data.mul_(deviations / math.sqrt(share))

    def project(self, b: Tensor) -> Tensor:
        """b itself."""
        return b

    def product(self, a_BI: Tensor, p_BP: Tensor) -> Tensor:
        products_BE = a_BI[:, self.i_E] * p_BP[:, self.k_E] * self.v_E
        missing = -len(self.v_E) % self.sizes.J
        zeros_BM = torch.zeros_like(products_BE[:, :1]).expand(-1, missing)
        return torch.cat([products_BE, zeros_BM], dim=1).unflatten(1, (-1, self.sizes.J)).sum(1)

    def full(self) -> Tensor:
        j_E = torch.arange(len(self.v_E), device=self.v_E.device) % self.sizes.J
        return self.v_E.new_zeros(self.sizes).index_put((self.i_E, j_E, self.k_E), self.v_E, accumulate=True)

    @property
    def product_size(self) -> int:
        return len(self.v_E)
