"""The contract of bilinear maps, and their initialization.

Shapes: B vectors, I features of the first vector, K of the second, J of the result, P of the projected second vector.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Sizes(NamedTuple):
    """The shape of the tensor: features of the first vector, of the result and of the second vector."""

    I: int  # noqa: E741
    J: int
    K: int


class BilinearMap(nn.Module, ABC):
    r"""A function of two vectors that is linear in each.

        y_j = Σ_ik a_i W_ijk b_k            y = M(b) a, with the matrix M(b)_ji = Σ_k W_ijk b_k

    A subclass defines `project`, `product` and `full`. The map is evaluated as map(a, b) = product(a, project(b)), so
    that the part that depends on b alone can be computed for many b at once.

    With the "rank_independent" initialization of W, the variance of y_j is the mean of a_i² times the mean of b_k²,
    whatever the sizes and ranks. The factors that multiply a or b are drawn from N(0, 1/n), where n is the number of
    features. If the first feature is the constant 1 (`padded`), its weights are drawn from N(0, 1) and n counts
    the other features: the constant then weighs as much as all others together, and both means are those of the other
    features plus 1.

    Args:
        sizes: I, J and K.
        padded: whether the first feature of both vectors is the constant 1.
    """

    def __init__(self, sizes: tuple[int, int, int], padded: bool = False):
        super().__init__()
        self.sizes = Sizes(*sizes)
        self.padded = padded

    @abstractmethod
    def project(self, b: Tensor) -> Tensor:
        """The contribution of the second vector, [..., K] -> [..., P]."""

    @abstractmethod
    def product(self, a_BI: Tensor, p_BP: Tensor) -> Tensor:
        """The result [B, J], from the first vector and the contribution of the second."""

    @abstractmethod
    def full(self) -> Tensor:
        """The tensor W, [I, J, K]."""

    def square_norm(self) -> Tensor:
        """‖W‖², the sum of the squares of all entries."""
        return self.full().square().sum()

    def forward(self, a_BI: Tensor, b_BK: Tensor) -> Tensor:
        """The result y, [B, J]."""
        return self.product(a_BI, self.project(b_BK))

    @property
    @abstractmethod
    def product_size(self) -> int:
        """The number of multiplications by weights in one `product`."""

    def deviations(self, size: int) -> Tensor:
        """Standard deviations of the initial weights of each feature of a or b, [size]."""
        if not self.padded:
            return torch.full((size,), 1 / math.sqrt(size))
        return torch.cat([torch.ones(1), torch.full((size - 1,), 1 / math.sqrt(size - 1))])

    @torch.no_grad()
    def draw_factor_(self, factor_Rn: Tensor) -> None:
        """Fill a factor that multiplies a or b, one row per component, with `rank_independent` entries."""
        factor_Rn.normal_().mul_(self.deviations(factor_Rn.shape[1]).to(factor_Rn))


@torch.no_grad()
def unit_scaling_(weight: Tensor, fan_in: int, gain: float = 1.0) -> Tensor:
    """Fill with U(-g √(3/n), g √(3/n)), whose variance is g²/n: the default of TensorFlow in 2016.

    In TensorFlow, n is the product of all sizes except the last; a matrix multiplies from the right there, so n is its
    number of inputs.
    """
    bound = gain * math.sqrt(3 / fan_in)
    return weight.uniform_(-bound, bound)


@torch.no_grad()
def spectral_norm_(weight: Tensor, norm: float) -> Tensor:
    """Fill a matrix with entries from U(-1, 1), scaled so that its largest singular value is `norm`."""
    weight.uniform_(-1, 1)
    return weight.mul_(norm / torch.linalg.matrix_norm(weight, 2))


def outer(a_BP: Tensor, b_BQ: Tensor) -> Tensor:
    """All products of an entry of a with an entry of b, [B, P Q]."""
    return (a_BP.unsqueeze(-1) * b_BQ.unsqueeze(-2)).flatten(-2)
