"""The simple recurrent network of Elman (1990), with layer normalization as in Ba, Kiros and Hinton (2016).

Shapes: B sequences, X input features, H hidden units.
"""

import math
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from src.models.base import NONLINEARITIES, Core, Nonlinearity, refuse_one_unit
from src.models.init import spectral_radius_, uniform_fan_out_
from src.ops.dispatch import Kernel


class RNN(Core):
    r"""A recurrent network with one matrix from state to state.

        h_t = f(W h_{t-1} + V x_t + b)             V x + b = `project`, h_0 = 0

    With layer normalization (arXiv 1607.06450, section 3.1), whose own bias replaces b:

        h_t = f(LN[W h_{t-1} + V x_t])

    V is drawn from U(-1/sqrt(H), 1/sqrt(H)); b starts at 0. W starts as one of the following:

        orthogonal         g Q, with Q orthogonal: all singular values are g = `recurrent_scale`
        normal             N(0, g²/H): the spectral radius is about g
        spectral_radius    g R / ρ(R), with R from N(0, 1) and ρ its spectral radius: the spectral radius is g

    A subclass that differs only in its initialization calls this constructor and then sets the weights.

    Args:
        input_size: number of input features, X.
        hidden_size: number of units, H.
        nonlinearity: the nonlinearity f.
        layer_norm: whether to normalize the summed input of every step.
        init: how W is initialized.
        recurrent_scale: g, the scale of W at the start.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 50,
        nonlinearity: Nonlinearity = "tanh",
        layer_norm: bool = False,
        init: Literal["orthogonal", "normal", "spectral_radius"] = "orthogonal",
        recurrent_scale: Annotated[float, Ge(0)] = 1.0,
        kernel: Kernel = "auto",
    ):
        super().__init__(input_size, hidden_size, kernel)
        if layer_norm:
            refuse_one_unit(hidden_size)
        self.nonlinearity = nonlinearity

        self.input = nn.Linear(input_size, hidden_size, bias=not layer_norm)
        self.recurrent = nn.Linear(hidden_size, hidden_size, bias=False)
        self.norm = nn.LayerNorm(hidden_size) if layer_norm else nn.Identity()

        uniform_fan_out_(self.input.weight)
        if not layer_norm:
            nn.init.zeros_(self.input.bias)
        if init == "orthogonal":
            nn.init.orthogonal_(self.recurrent.weight, gain=recurrent_scale)
        elif init == "normal":
            nn.init.normal_(self.recurrent.weight, std=recurrent_scale / math.sqrt(hidden_size))
        else:
            spectral_radius_(self.recurrent.weight, recurrent_scale)

    def project(self, x: Tensor) -> Tensor:
        """V x, plus b without layer norm."""
        return self.input(x)

    def step(self, p_BH: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the equation in the class docstring; the output is the state."""
        h_BH = NONLINEARITIES[self.nonlinearity](self.norm(torch.addmm(p_BH, state, self.recurrent.weight.t())))
        return h_BH, h_BH
