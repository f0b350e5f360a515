"""The np-RNN of Talathi and Vartak (2015), "Improving Performance of Recurrent Neural Network with ReLU Nonlinearity".

Shapes: H hidden units.
"""

import math
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from src.models.base import Nonlinearity
from src.models.rnn import RNN
from src.ops.dispatch import Kernel


class NPRNN(RNN):
    r"""A recurrent network whose initial recurrent matrix is normalized and positive definite (arXiv 1511.03771).

        h_t = f(W h_{t-1} + V x_t + b)             h_0 = 0; initially b = 0,

        W = (A + I) / e      A = Rᵀ R / H, R from N(0, 1), e the largest eigenvalue of A + I
        V = α V'             α = √2 exp(1.2 / (max(H, 6) - 2.4)), V' from N(0, 1/H)

    So W is symmetric, one eigenvalue is 1, and the others lie between 0 and 1: without input, and as long as the state
    stays where f is linear, it collapses to the eigenline of eigenvalue 1 and remains there. With layer normalization,
    h_t = f(LN[W h_{t-1} + V x_t]).

    Args:
        input_size: number of input features.
        hidden_size: number of units, H.
        nonlinearity: the nonlinearity f; tanh for the np-tanhRNN of the paper.
        layer_norm: whether to normalize the summed input of every step.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 50,
        nonlinearity: Nonlinearity = "relu",
        layer_norm: bool = False,
        kernel: Kernel = "auto",
    ):
        super().__init__(
            input_size, hidden_size=hidden_size, nonlinearity=nonlinearity, layer_norm=layer_norm, kernel=kernel
        )
        normalized_positive_definite_(self.recurrent.weight)
        nn.init.normal_(self.input.weight, std=input_gain(hidden_size) / math.sqrt(hidden_size))


@torch.no_grad()
def normalized_positive_definite_(weight: Tensor) -> Tensor:
    """Fill with W as defined in `NPRNN`."""
    size = weight.shape[0]
    r = weight.normal_()
    shifted = r.T @ r / size + torch.eye(size, dtype=weight.dtype, device=weight.device)
    return weight.copy_(shifted / torch.linalg.eigvalsh(shifted)[-1])


def input_gain(hidden_size: int) -> float:
    """α as defined in `NPRNN`, which gives the input more weight in small networks."""
    return math.sqrt(2) * math.exp(1.2 / (max(hidden_size, 6) - 2.4))
