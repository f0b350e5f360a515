"""The strongly-typed RNN (T-RNN) of Balduzzi and Ghifary (2016), arXiv 1602.02218.

Shapes: B sequences, X input features, H hidden units.
"""

from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor, nn

from src.models.base import Core
from src.ops.dispatch import Kernel
from src.tensors.base import unit_scaling_


class TypedRNNInput(NamedTuple):
    """The contribution of the input: the gate and the candidate."""

    f_BH: Tensor
    z_BH: Tensor


class TypedRNN(Core):
    r"""A recurrent network whose gate does not see the state, so that no matrix is applied to the state repeatedly.

        z_t = W x_t
        f_t = σ(V x_t + b)
        h_t = f_t ⊙ h_{t-1} + (1 - f_t) ⊙ z_t                  h_0 = 0

    There are 2 H X + H parameters. Each state is an average of the candidates so far, weighted by their gates and those
    of all later steps. W and V start from U(-√(3/X), √(3/X)), b at `gate_bias`.

    Args:
        input_size: number of input features, X.
        hidden_size: number of units, H.
        gate_bias: initial value of b; above 0 the state is retained longer.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 50,
        gate_bias: float = 0.0,
        kernel: Kernel = "auto",
    ):
        super().__init__(input_size, hidden_size, kernel)
        self.gate = nn.Linear(input_size, hidden_size)
        self.candidate = nn.Linear(input_size, hidden_size, bias=False)
        for layer in (self.gate, self.candidate):
            unit_scaling_(layer.weight, input_size)
        nn.init.constant_(self.gate.bias, gate_bias)

    def project(self, x: Tensor) -> TypedRNNInput:
        """f and z."""
        return TypedRNNInput(torch.sigmoid(self.gate(x)), self.candidate(x))

    def step(self, p: TypedRNNInput, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the equations in the class docstring; the output is the state."""
        h_BH = p.z_BH + p.f_BH * (state - p.z_BH)
        return h_BH, h_BH
