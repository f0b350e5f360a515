"""The IRNN of Le, Jaitly and Hinton (2015), "A Simple Way to Initialize Recurrent Networks of Rectified Linear Units".

Shapes: H hidden units.
"""

from typing import Annotated

from annotated_types import Ge
from torch import nn

from src.models.init import scaled_identity_
from src.models.rnn import RNN
from src.ops.dispatch import Kernel


class IRNN(RNN):
    r"""A recurrent network of rectified linear units that initially preserves its state (arXiv 1504.00941).

        h_t = relu(W h_{t-1} + V x_t + b)             W = s I and b = 0 at the start, h_0 = 0

    With s = 1 and no input, a positive state stays unchanged, and so does the gradient. The paper draws V from
    N(0, 0.001²), and uses s = 0.01 for speech (the "iRNN"); Ba et al. (2016) use s = 0.5 and draw V from a uniform
    distribution. With layer normalization, h_t = relu(LN[W h_{t-1} + V x_t]), which does not preserve the state.

    Args:
        input_size: number of input features.
        hidden_size: number of units, H.
        layer_norm: whether to normalize the summed input of every step.
        recurrent_scale: s; W starts as this multiple of the identity.
        input_std: standard deviation of V; None for U(-1/sqrt(H), 1/sqrt(H)).
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 50,
        layer_norm: bool = False,
        recurrent_scale: float = 1.0,
        input_std: Annotated[float, Ge(0)] | None = None,
        kernel: Kernel = "auto",
    ):
        super().__init__(input_size, hidden_size=hidden_size, nonlinearity="relu", layer_norm=layer_norm, kernel=kernel)
        scaled_identity_(self.recurrent.weight, recurrent_scale)
        if input_std is not None:
            nn.init.normal_(self.input.weight, std=input_std)
