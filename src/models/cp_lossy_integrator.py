"""The lossy CP integrator of Mathews (2016): what is written and erased passes through a further layer.

Shapes: B sequences, X input features, P projected features, H hidden units, R components.
"""

from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from src.models.cp_integrator import CPIntegratorInput
from src.models.tensor_core import TensorCore
from src.ops.dispatch import Kernel
from src.tensors.base import spectral_norm_, unit_scaling_
from src.tensors.cp import CP
from src.tensors.terms import BilinearTerm


class CPLossyIntegrator(TensorCore):
    r"""A recurrent network of rectified units that integrates, with weights of either sign (`cp-loss`).

        w_t = V₂ relu(V x_t + b) + b₂                          what is written
        e_t = E relu(Bᵀ((A [1, h_{t-1}]) ⊙ (C [1, x_t])))      what is erased
        h_t = relu(h_{t-1} + w_t - e_t)                        h_0 = 0

    There are R (2H + X + 2) + H X + H + 2H² + H parameters. The author's program leaves out the relu of w; here it is
    as intended, except that e has no bias, which would only be subtracted from b₂. V₂ and E start as random orthogonal
    matrices, V from U(-√(3/X), √(3/X)), and b and b₂ at 0. As in the author's program, A, B and C start from U(-1, 1),
    scaled to a largest singular value of 1/1.5: if the term were as large as the state, the state would multiply
    at every step.

    Args:
        input_size: number of input features, X.
        hidden_size: number of units, H.
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
        super().__init__(input_size, hidden_size, kernel)
        self.term = BilinearTerm(partial(CP, rank=rank), (hidden_size, hidden_size, input_size), "combined")
        for factor in self.term.map.parameters():
            spectral_norm_(factor, 1 / 1.5)
        self.input = nn.Linear(input_size, hidden_size)
        self.write = nn.Linear(hidden_size, hidden_size)
        self.recurrent_erase = nn.Linear(hidden_size, hidden_size, bias=False)
        unit_scaling_(self.input.weight, input_size)
        nn.init.orthogonal_(self.write.weight)
        nn.init.orthogonal_(self.recurrent_erase.weight)
        for layer in (self.input, self.write):
            nn.init.zeros_(layer.bias)

    def project(self, x: Tensor) -> CPIntegratorInput:
        """The contribution to the product, and w."""
        return CPIntegratorInput(self.term.project(x), self.write(torch.relu(self.input(x))))

    def step(self, p: CPIntegratorInput, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the equations in the class docstring; the output is the state."""
        erased_BH = torch.relu(self.term(state, p.product_BP)) @ self.recurrent_erase.weight.t()
        h_BH = torch.relu(state + p.written_BH - erased_BH)
        return h_BH, h_BH
