"""The long short-term memory of Hochreiter and Schmidhuber (1997), with the forget gate of Gers et al. (2000).

Shapes: B sequences, X input features, H hidden units.
"""

import math
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor, nn

from src.models.base import Core
from src.ops.dispatch import Kernel


class LSTMState(NamedTuple):
    """The output of the last step, and the cell state."""

    h_BH: Tensor
    c_BH: Tensor


class LSTM(Core):
    r"""A recurrent network with a cell state that is written, retained and read through gates.

        i_t = σ(W_i h_{t-1} + V_i x_t + b_i)           the input gate
        f_t = σ(W_f h_{t-1} + V_f x_t + b_f)           the forget gate
        o_t = σ(W_o h_{t-1} + V_o x_t + b_o)           the output gate
        g_t = tanh(W_g h_{t-1} + V_g x_t + b_g)
        c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t                along the cell state, ∂c_t/∂c_{t-1} = diag(f_t)
        h_t = o_t ⊙ tanh(c_t)                          h_0 = c_0 = 0

    There are no peepholes: no gate sees c. `project` returns V x + b for i, f, o and g in this order, [..., 4H].
    Weights are drawn from U(-1/sqrt(H), 1/sqrt(H)); b_f starts at `forget_bias`, the other biases at 0.

    `torch.nn.LSTM` computes the same, with its gates in the order i, f, g, o. It has two biases for every gate (4H more
    parameters), all drawn from the distribution of the weights.

    Args:
        input_size: number of input features, X.
        hidden_size: number of units, H.
        forget_bias: initial value of b_f.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 50,
        forget_bias: float = 1.0,
        kernel: Kernel = "auto",
    ):
        super().__init__(input_size, hidden_size, kernel)
        self.input = nn.Linear(input_size, 4 * hidden_size)
        self.recurrent = nn.Linear(hidden_size, 4 * hidden_size, bias=False)

        bound = 1 / math.sqrt(hidden_size)
        nn.init.uniform_(self.input.weight, -bound, bound)
        nn.init.uniform_(self.recurrent.weight, -bound, bound)
        nn.init.zeros_(self.input.bias)
        nn.init.constant_(self.input.bias[hidden_size : 2 * hidden_size], forget_bias)

    def project(self, x: Tensor) -> Tensor:
        """The contribution of the input to the three gates and to g."""
        return self.input(x)

    def initial_state(self, batch_size: int) -> LSTMState:
        """h = 0, c = 0."""
        return LSTMState(self.zeros(batch_size, self.hidden_size), self.zeros(batch_size, self.hidden_size))

    def step(self, p_B4H: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """One step of the equations in the class docstring; the output is h."""
        h_BH, c_BH = state
        sums_B4H = torch.addmm(p_B4H, h_BH, self.recurrent.weight.t())
        gates_B3H, g_BH = sums_B4H.split([3 * self.hidden_size, self.hidden_size], dim=1)
        i_BH, f_BH, o_BH = torch.sigmoid(gates_B3H).chunk(3, dim=1)
        c_BH = torch.addcmul(f_BH * c_BH, i_BH, torch.tanh(g_BH))
        h_BH = o_BH * torch.tanh(c_BH)
        return h_BH, LSTMState(h_BH, c_BH)
