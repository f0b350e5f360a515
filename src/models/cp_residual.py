"""The CP residual network of Mathews (2016): each step adds a normalized block to the state.

Shapes: B sequences, X input features, P projected features, H hidden units, R components.
"""

from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from src.models.base import refuse_one_unit
from src.models.tensor_core import TensorCore
from src.ops.dispatch import Kernel
from src.tensors.cp import CP
from src.tensors.terms import BilinearTerm


class CPResidual(TensorCore):
    r"""A recurrent network whose step is a residual block of a bilinear and a linear layer (`cp-res`).

        h_t = h_{t-1} + LN₂[U relu(LN₁[Bᵀ((A h_{t-1}) ⊙ (C x_t))]) + b]            h_0 = 1

    LN₁ has a gain and a bias, LN₂ only a gain: R (2H + X) + H² + H + 3H parameters. The author's program leaves out the
    relu, which makes the block linear except for the norms; here it is as intended. The input enters only through the
    product, so as long as all biases are 0, as at the start, a state of 0 would stay 0 whatever the input: hence
    h_0 = 1. U starts as a random orthogonal matrix.

    Args:
        input_size: number of input features, X.
        hidden_size: number of units, H, 2 or more.
        rank: number of components, R.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 50,
        rank: Annotated[int, Ge(1)] = 20,
        kernel: Kernel = "auto",
    ):
        refuse_one_unit(hidden_size)
        super().__init__(input_size, hidden_size, kernel)
        self.term = BilinearTerm(partial(CP, rank=rank), (hidden_size, hidden_size, input_size), "none")
        self.inner_norm = nn.LayerNorm(hidden_size)
        self.recurrent = nn.Linear(hidden_size, hidden_size, bias=False)
        self.bias_H = nn.Parameter(torch.zeros(hidden_size))
        self.norm = nn.LayerNorm(hidden_size, bias=False)
        nn.init.orthogonal_(self.recurrent.weight)

    def project(self, x: Tensor) -> Tensor:
        """C x."""
        return self.term.project(x)

    def initial_state(self, batch_size: int) -> Tensor:
        """h = 1."""
        return self.zeros(batch_size, self.hidden_size) + 1

    def step(self, p_BP: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the equation in the class docstring; the output is the state."""
        inner_BH = torch.relu(self.inner_norm(self.term(state, p_BP)))
        h_BH = state + self.norm(torch.addmm(self.bias_H, inner_BH, self.recurrent.weight.t()))
        return h_BH, h_BH

    def flops(self, length: int) -> int:
        """As in `TensorCore`, but including the first step, since h_0 is not 0."""
        return super().flops(length + 1)
