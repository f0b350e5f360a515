"""The tensor gated unit (TGU) of Mathews (2016 and later): a CP gate with a bilinear output.

Shapes: B sequences, X input features, P projected features, H hidden units, R components.
"""

from functools import partial
from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge, Lt
from torch import Tensor

from src.models.cp_gate import CPGate, DroppedState
from src.ops.dispatch import Kernel
from src.tensors.cp import CP, Init
from src.tensors.terms import BilinearTerm


class TGUInput(NamedTuple):
    """The contributions of the input to the gate and to the output, and the candidate u."""

    gate_BP: Tensor
    u_BH: Tensor
    output_BP: Tensor


class TGU(CPGate):
    r"""A recurrent network that accumulates like a CP gate, and reads its state through another bilinear function.

        f_t = σ(T_f(c_{t-1}, x_t) + g)                         T_f and T_o: bilinear terms as in the CP gate
        u_t = D x_t + d
        c_t = f_t ⊙ c_{t-1} + (1 - f_t) ⊙ u_t                  c_0 = 0
        final (`tgu` of 2017)      y_t = tanh(T_o(c_t, x_t))
        v1 (`tgu`)                 y_t = σ(T_o(c_t, x_t))
        v2 (`tguv2`)               y_t = σ(T_o(c_{t-1}, x_t))

    The state is c, the output y. There are twice as many parameters as in the gate of a `CPGate`, plus H X + H for the
    candidate.

    Args:
        input_size: number of input features, X.
        hidden_size: number of units, H.
        rank: number of components of each term, R.
        linear: whether the linear terms of both are separate or combined; the author's final version has only separate
            ones.
        version: how the output is computed, see above.
        gate_bias: the constant g; above 0 the state is retained longer.
        init: how the factors of both terms start; see `CP`.
        dropout: see `CPGate`.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 50,
        rank: Annotated[int, Ge(1)] = 20,
        linear: Literal["separate", "combined"] = "separate",
        version: Literal["final", "v1", "v2"] = "final",
        gate_bias: float = 0.0,
        init: Init = "rank_independent",
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        kernel: Kernel = "auto",
    ):
        super().__init__(
            input_size,
            hidden_size=hidden_size,
            rank=rank,
            linear=linear,
            nonlinearity="linear",
            gate_bias=gate_bias,
            init=init,
            dropout=dropout,
            kernel=kernel,
        )
        self.version = version
        self.read = BilinearTerm(partial(CP, rank=rank, init=init), (hidden_size, hidden_size, input_size), linear)

    def project(self, x: Tensor) -> TGUInput:  # type: ignore[override]
        """The contribution to the gate, u, and the contribution to the output."""
        return TGUInput(*super().project(x), self.read.project(x))

    def step(self, p: TGUInput, state: Tensor | DroppedState) -> tuple[Tensor, Tensor | DroppedState]:  # type: ignore[override]
        """One step of the equations in the class docstring; the output is y."""
        before_BH, after_BH, state = self.accumulate(p.gate_BP, p.u_BH, state)
        sum_BH = self.read(before_BH if self.version == "v2" else after_BH, p.output_BP)
        return torch.tanh(sum_BH) if self.version == "final" else torch.sigmoid(sum_BH), state
