"""The multiplicative RNN of Sutskever, Martens and Hinton (2011), "Generating Text with Recurrent Neural Networks".

Shapes: B sequences, X input features, P projected features, H hidden units, R factors.
"""

from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from src.models.tensor_core import TensorCore
from src.ops.dispatch import Kernel
from src.tensors.cp import CP
from src.tensors.terms import BilinearTerm


class MRNN(TensorCore):
    r"""A recurrent network whose transition matrix is a product of three factors, the middle one set by the input.

        f_t = diag(C x_t) A h_{t-1}                            the factors
        h_t = tanh(Bᵀ f_t + V x_t + b)                         h_0 = 0

    Bᵀ diag(C x) A is the CP decomposition of a tensor, and the only path from state to state. There are
    R (2H + X) + H X + H parameters; the paper uses R = H. A, B and C start so that Bᵀ f has the variance of h times
    that of x.

    Args:
        input_size: number of input features, X.
        hidden_size: number of units, H.
        rank: number of factors, R.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 50,
        rank: Annotated[int, Ge(1)] = 50,
        kernel: Kernel = "auto",
    ):
        super().__init__(input_size, hidden_size, kernel)
        self.term = BilinearTerm(partial(CP, rank=rank), (hidden_size, hidden_size, input_size), "input")

    def project(self, x: Tensor) -> Tensor:
        """C x and V x + b."""
        return self.term.project(x)

    def step(self, p_BP: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the equations in the class docstring; the output is the state."""
        h_BH = torch.tanh(self.term(state, p_BP))
        return h_BH, h_BH
