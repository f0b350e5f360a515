"""The gated recurrent unit of Cho et al. (2014), "Learning Phrase Representations using RNN Encoder-Decoder".

Shapes: B sequences, X input features, H hidden units.
"""

import math
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from src.models.base import Core
from src.ops.dispatch import Kernel


class GRU(Core):
    r"""A recurrent network whose update gate retains the state and whose reset gate hides it from the candidate.

        r_t = σ(W_r h_{t-1} + V_r x_t + b_r)                   the reset gate
        u_t = σ(W_u h_{t-1} + V_u x_t + b_u)                   the update gate
        c_t = tanh(W_c (r_t ⊙ h_{t-1}) + V_c x_t + b_c)        the candidate
        h_t = u_t ⊙ h_{t-1} + (1 - u_t) ⊙ c_t                  h_0 = 0

    as in arXiv 1406.1078. With `reset="after"`, c_t = tanh(r_t ⊙ (W_c h_{t-1}) + V_c x_t + b_c). `project` returns
    V x + b for r, u and c in this order, [..., 3H]. Weights are drawn from U(-1/sqrt(H), 1/sqrt(H)); b_r and b_u start
    at `gate_bias`, b_c at 0; the paper has no biases.

    `torch.nn.GRU` always resets after the product, to which it adds a bias b_hn, r_t ⊙ (W_c h_{t-1} + b_hn), and it has
    a second bias in both gates (3H more parameters). Its biases are drawn from the distribution of the weights.

    Args:
        input_size: number of input features, X.
        hidden_size: number of units, H.
        reset: whether the reset gate acts before or after the product with W_c.
        gate_bias: initial value of b_r and b_u.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 50,
        reset: Literal["before", "after"] = "before",
        gate_bias: float = 1.0,
        kernel: Kernel = "auto",
    ):
        super().__init__(input_size, hidden_size, kernel)
        self.reset_before = reset == "before"
        self.input = nn.Linear(input_size, 3 * hidden_size)
        self.recurrent_gates = nn.Linear(hidden_size, 2 * hidden_size, bias=False)
        self.recurrent_candidate = nn.Linear(hidden_size, hidden_size, bias=False)

        bound = 1 / math.sqrt(hidden_size)
        for layer in (self.input, self.recurrent_gates, self.recurrent_candidate):
            nn.init.uniform_(layer.weight, -bound, bound)
        nn.init.zeros_(self.input.bias)
        nn.init.constant_(self.input.bias[: 2 * hidden_size], gate_bias)

    def project(self, x: Tensor) -> Tensor:
        """The contribution of the input to the two gates and to the candidate."""
        return self.input(x)

    def step(self, p_B3H: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the equations in the class docstring; the output is the state."""
        h_BH = state
        p_gates_B2H, p_c_BH = p_B3H.split([2 * self.hidden_size, self.hidden_size], dim=1)
        gates_B2H = torch.sigmoid(torch.addmm(p_gates_B2H, h_BH, self.recurrent_gates.weight.t()))
        r_BH, u_BH = gates_B2H.chunk(2, dim=1)
        if self.reset_before:
            sum_BH = torch.addmm(p_c_BH, r_BH * h_BH, self.recurrent_candidate.weight.t())
        else:
            sum_BH = torch.addcmul(p_c_BH, r_BH, self.recurrent_candidate(h_BH))
        # lerp needs arguments of the same dtype, and autocast does not convert them
        h_BH = torch.lerp(torch.tanh(sum_BH).type_as(h_BH), h_BH, u_BH.type_as(h_BH))
        return h_BH, h_BH
