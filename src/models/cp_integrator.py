"""The CP integrator of Mathews (2016): the input is added to the state, and a bilinear term erases from it.

Shapes: B sequences, X input features, P projected features, H hidden units, R components.
"""

from functools import partial
from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor, nn

from src.models.base import refuse_one_unit
from src.models.tensor_core import TensorCore
from src.ops.dispatch import Kernel
from src.tensors.base import unit_scaling_
from src.tensors.cp import CP
from src.tensors.terms import BilinearTerm


class CPIntegratorInput(NamedTuple):
    """The contribution of the input to the product, and what it writes."""

    product_BP: Tensor
    written_BH: Tensor


class CPIntegrator(TensorCore):
    r"""A recurrent network of rectified units that integrates what the input writes (`cp-int`).

        w_t = relu(V x_t + b)                                  what is written
        e_t = relu(Bᵀ((A h_{t-1}) ⊙ (C x_t)))                  what is erased; LN[...] inside relu or around it
        h_t = relu(h_{t-1} + w_t - e_t)                        h_0 = 0

    There are R (2H + X) + H X + H parameters, and 2H more with layer normalization. V starts from U(-√(3/X), √(3/X)),
    b at 0.

    Args:
        input_size: number of input features, X.
        hidden_size: number of units, H.
        rank: number of components, R.
        layer_norm: whether the erased term is normalized before relu, after relu or not at all.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 50,
        rank: Annotated[int, Ge(1)] = 20,
        layer_norm: Literal["none", "before", "after"] = "none",
        kernel: Kernel = "auto",
    ):
        if layer_norm != "none":
            refuse_one_unit(hidden_size)
        super().__init__(input_size, hidden_size, kernel)
        self.term = BilinearTerm(partial(CP, rank=rank), (hidden_size, hidden_size, input_size), "none")
        self.input = nn.Linear(input_size, hidden_size)
        unit_scaling_(self.input.weight, input_size)
        nn.init.zeros_(self.input.bias)
        self.before = nn.LayerNorm(hidden_size) if layer_norm == "before" else nn.Identity()
        self.after = nn.LayerNorm(hidden_size) if layer_norm == "after" else nn.Identity()

    def project(self, x: Tensor) -> CPIntegratorInput:
        """The contribution to the product, and w."""
        return CPIntegratorInput(self.term.project(x), torch.relu(self.input(x)))

    def step(self, p: CPIntegratorInput, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the equations in the class docstring; the output is the state."""
        erased_BH = self.after(torch.relu(self.before(self.term(state, p.product_BP))))
        h_BH = torch.relu(state + p.written_BH - erased_BH)
        return h_BH, h_BH
