"""The recurrent network with the Tucker decomposition that Mathews (2016) mentions.

Shapes: X input features, H hidden units, R rank.
"""

from functools import partial
from typing import Annotated, Literal

from annotated_types import Ge

from src.models.tensor_rnn import TensorRNN
from src.ops.dispatch import Kernel
from src.tensors.tucker import Tucker


class TuckerRNN(TensorRNN):
    r"""A tensor RNN with the Tucker decomposition of its tensor; in the author's report but not in his program.

        separate      h_t = f(Bᵀ G(A h_{t-1}, C x_t) + U h_{t-1} + V x_t + b)    G(a, c)_q = Σ_ps G_pqs a_p c_s, h_0 = 0
        combined      h_t = f(Bᵀ G(A [1, h_{t-1}], C [1, x_t]))

    All three ranks are R. There are R (2H + X) + R³ + H² + H X + H parameters if separate, R (2H + X + 2) + R³ if
    combined. U starts as the identity.

    Args:
        input_size: number of input features, X.
        hidden_size: number of units, H.
        rank: all three ranks, R.
        linear: whether the linear terms are separate or combined, see above.
        nonlinearity: the nonlinearity f.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 50,
        rank: Annotated[int, Ge(1)] = 8,
        linear: Literal["separate", "combined"] = "separate",
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        kernel: Kernel = "auto",
    ):
        make_map = partial(Tucker, ranks=(rank, rank, rank))
        super().__init__(
            input_size, make_map, hidden_size=hidden_size, linear=linear, nonlinearity=nonlinearity, kernel=kernel
        )
