"""The CP delta network of Mathews (2016): each step adds to the state and subtracts from it.

Shapes: B sequences, X input features, P projected features, H hidden units, R components.
"""

from functools import partial
from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor

from src.models.tensor_core import TensorCore
from src.ops.dispatch import Kernel
from src.tensors.base import spectral_norm_
from src.tensors.cp import CP
from src.tensors.terms import BilinearTerm, Linear


class CPDeltaInput(NamedTuple):
    """The contributions of the input to the added and to the subtracted term."""

    added_BP: Tensor
    subtracted_BP: Tensor


class CPDelta(TensorCore):
    r"""A recurrent network that adds a rectified bilinear function of state and input and subtracts another (`cp-del`).

        h_t = h_{t-1} + relu(a_t) - relu(s_t)                  h_0 = 0
        a_t = Bᵀ((A [1, h_{t-1}]) ⊙ (C [1, x_t]))              s_t likewise with its own A, B and C

    There are 2 R (2H + X + 2) parameters. As in the author's program, A, B and C start from U(-1, 1), scaled to a
    largest singular value of 1/1.1: if the terms were as large as the state, the state would double at every step.

    A subclass with other linear terms passes `linear` and `normalize` to this constructor.

    Args:
        input_size: number of input features, X.
        linear: which linear terms there are; see `BilinearTerm`.
        normalize: how the factors are normalized; see `CP`.
        hidden_size: number of units, H.
        rank: number of components, R.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        linear: Linear = "combined",
        normalize: Literal["matrix"] | None = None,
        *,
        hidden_size: Annotated[int, Ge(1)] = 50,
        rank: Annotated[int, Ge(1)] = 20,
        kernel: Kernel = "auto",
    ):
        super().__init__(input_size, hidden_size, kernel)
        make_map = partial(CP, rank=rank, normalize=normalize)
        sizes = hidden_size, hidden_size, input_size
        self.added = BilinearTerm(make_map, sizes, linear)
        self.subtracted = BilinearTerm(make_map, sizes, linear)
        if normalize is None:
            for factor in (*self.added.map.parameters(), *self.subtracted.map.parameters()):
                spectral_norm_(factor, 1 / 1.1)

    def project(self, x: Tensor) -> CPDeltaInput:
        """The contributions to the two terms."""
        return CPDeltaInput(self.added.project(x), self.subtracted.project(x))

    def step(self, p: CPDeltaInput, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the equations in the class docstring; the output is the state."""
        added_BH = torch.relu(self.added(state, p.added_BP))
        h_BH = state + added_BH - torch.relu(self.subtracted(state, p.subtracted_BP))
        return h_BH, h_BH
