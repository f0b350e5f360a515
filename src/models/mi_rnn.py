"""The RNN with multiplicative integration of Wu et al. (2016), arXiv 1606.06630.

Shapes: B sequences, X input features, H hidden units.
"""

from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor, nn

from src.models.base import NONLINEARITIES, Core
from src.ops.dispatch import Kernel
from src.tensors.base import unit_scaling_


class MIRNNInput(NamedTuple):
    """The contribution of the input: a factor of U h, and a term of the sum."""

    factor_BH: Tensor
    sum_BH: Tensor


class MIRNN(Core):
    r"""A recurrent network that multiplies the contributions of state and input, instead of only adding them.

        h_t = f(α ⊙ (U h_{t-1}) ⊙ (V x_t) + β₁ ⊙ (U h_{t-1}) + β₂ ⊙ (V x_t) + b)            h_0 = 0
        plain: h_t = f((U h_{t-1}) ⊙ (V x_t) + b)                                           h_0 = 1

    The product is a CP decomposition of rank H whose factors are shared with the linear terms. There are
    H² + H X + 4H parameters, in the plain form H² + H X + H. The plain form with relu is the `MRNNCell` of Mathews
    (2016); it starts from ones, since a product with zeros is 0. U starts as a random orthogonal matrix, V from
    U(-√(3/X), √(3/X)), and b at 0.

    Args:
        input_size: number of input features, X.
        hidden_size: number of units, H.
        nonlinearity: the nonlinearity f.
        plain: whether to use the product alone, without α, β₁ and β₂.
        alpha: initial value of α.
        beta: initial value of β₁ and β₂.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 50,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        plain: bool = False,
        alpha: float = 1.0,
        beta: float = 0.5,
        kernel: Kernel = "auto",
    ):
        super().__init__(input_size, hidden_size, kernel)
        self.nonlinearity = nonlinearity
        self.plain = plain
        self.input = nn.Linear(input_size, hidden_size, bias=False)
        self.recurrent = nn.Linear(hidden_size, hidden_size, bias=False)
        self.bias_H = nn.Parameter(torch.zeros(hidden_size))
        if not plain:
            self.alpha_H = nn.Parameter(torch.full((hidden_size,), alpha))
            self.beta_state_H = nn.Parameter(torch.full((hidden_size,), beta))
            self.beta_input_H = nn.Parameter(torch.full((hidden_size,), beta))
        unit_scaling_(self.input.weight, input_size)
        nn.init.orthogonal_(self.recurrent.weight)

    def project(self, x: Tensor) -> MIRNNInput:
        """α ⊙ V x + β₁ and β₂ ⊙ V x + b; in the plain form V x and b."""
        v = self.input(x)
        if self.plain:
            return MIRNNInput(v, self.bias_H.expand_as(v))
        return MIRNNInput(
            torch.addcmul(self.beta_state_H, self.alpha_H, v), torch.addcmul(self.bias_H, self.beta_input_H, v)
        )

    def initial_state(self, batch_size: int) -> Tensor:
        """h = 0; in the plain form h = 1."""
        return self.zeros(batch_size, self.hidden_size) + float(self.plain)

    def step(self, p: MIRNNInput, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the equations in the class docstring; the output is the state."""
        sum_BH = torch.addcmul(p.sum_BH, p.factor_BH, state @ self.recurrent.weight.t())
        h_BH = NONLINEARITIES[self.nonlinearity](sum_BH)
        return h_BH, h_BH

    def flops(self, length: int) -> int:
        """As in `Core`; the plain form includes the first step, since its h_0 is not 0."""
        return super().flops(length + self.plain)
