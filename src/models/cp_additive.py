"""The additive CP network of Mathews (2016): each step adds to the state.

Shapes: B sequences, X input features, P projected features, H hidden units, R components.
"""

from functools import partial
from typing import Annotated, Literal

from annotated_types import Ge
from torch import Tensor, nn

from src.models.base import NONLINEARITIES, refuse_one_unit
from src.models.tensor_core import TensorCore
from src.ops.dispatch import Kernel
from src.tensors.cp import CP
from src.tensors.terms import BilinearTerm


class CPAdditive(TensorCore):
    r"""A recurrent network that adds a bilinear function of state and input to its state (`cp+`).

        h_t = h_{t-1} + f(Bᵀ((A h_{t-1}) ⊙ (C x_t)) + V x_t + b)               h_0 = 0
        before:  h_t = h_{t-1} + f(LN[...])                    after:  h_t = h_{t-1} + LN[f(...)]

    Through h + ... the gradient has a path on which it is preserved; nothing bounds the state. There are
    R (2H + X) + H X + H parameters, and 2H more with layer normalization.

    Args:
        input_size: number of input features, X.
        hidden_size: number of units, H.
        rank: number of components, R.
        nonlinearity: the nonlinearity f.
        layer_norm: whether the added term is normalized before f, after f or not at all.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 50,
        rank: Annotated[int, Ge(1)] = 20,
        nonlinearity: Literal["relu", "tanh"] = "relu",
        layer_norm: Literal["none", "before", "after"] = "none",
        kernel: Kernel = "auto",
    ):
        if layer_norm != "none":
            refuse_one_unit(hidden_size)
        super().__init__(input_size, hidden_size, kernel)
        self.nonlinearity = nonlinearity
        self.term = BilinearTerm(partial(CP, rank=rank), (hidden_size, hidden_size, input_size), "input")
        self.before = nn.LayerNorm(hidden_size) if layer_norm == "before" else nn.Identity()
        self.after = nn.LayerNorm(hidden_size) if layer_norm == "after" else nn.Identity()

    def project(self, x: Tensor) -> Tensor:
        """C x and V x + b."""
        return self.term.project(x)

    def step(self, p_BP: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the equations in the class docstring; the output is the state."""
        h_BH = state + self.after(NONLINEARITIES[self.nonlinearity](self.before(self.term(state, p_BP))))
        return h_BH, h_BH
