"""A bilinear term together with its linear terms.

Shapes: B sequences, H features of the state, J of the result, X of the input, P of the input's contribution.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from src.tensors.base import BilinearMap, unit_scaling_

Linear = Literal["none", "input", "separate", "combined"]
MakeMap = Callable[..., BilinearMap]
"""Builds a map of given sizes: make_map((I, J, K), padded=...)."""


class BilinearTerm(nn.Module):
    r"""A bilinear function of the state h and the input x, with or without linear terms.

        none         W(h, x)
        input        W(h, x) + V x + b
        separate     W(h, x) + U h + V x + b                   for W = 0, the sum in a simple recurrent network
        combined     W([1, h], [1, x])                         one tensor holds all four; h and x each gain a feature

    U starts as a random orthogonal matrix, V from U(-√(3/X), √(3/X)), and b at 0.

    Args:
        make_map: builds W for given sizes.
        sizes: H, J and X.
        linear: which linear terms there are, see above.
    """

    def __init__(self, make_map: MakeMap, sizes: tuple[int, int, int], linear: Linear):
        super().__init__()
        state_size, size, input_size = sizes
        self.padded = linear == "combined"
        extra = int(self.padded)
        self.map = make_map((state_size + extra, size, input_size + extra), padded=self.padded)
        self.state = self.input = None
        if linear == "separate":
            self.state = nn.Linear(state_size, size, bias=False)
            nn.init.orthogonal_(self.state.weight)
        if linear in ("input", "separate"):
            self.input = nn.Linear(input_size, size)
            unit_scaling_(self.input.weight, input_size)
            nn.init.zeros_(self.input.bias)

    def project(self, x: Tensor) -> Tensor:
        """The contribution of the input to the map, followed by V x + b, [..., P + J]; without V, only the former."""
        p = self.map.project(_with_one(x) if self.padded else x)
        return p if self.input is None else torch.cat([p, self.input(x)], dim=-1)

    def forward(self, h_BH: Tensor, p_BP: Tensor) -> Tensor:
        """The sum of all terms, [B, J]."""
        if self.input is None:
            return self.map.product(_with_one(h_BH) if self.padded else h_BH, p_BP)
        size = self.map.sizes.J
        map_BP, sum_BJ = p_BP.split([p_BP.shape[1] - size, size], dim=1)
        sum_BJ = sum_BJ + self.map.product(h_BH, map_BP)
        return sum_BJ if self.state is None else torch.addmm(sum_BJ, h_BH, self.state.weight.t())

    @property
    def product_size(self) -> int:
        """The number of multiplications by weights at every step."""
        return self.map.product_size + (0 if self.state is None else self.state.weight.numel())


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(x[..., :1]), x], dim=-1)
