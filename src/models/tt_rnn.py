"""The simple tensor-train recurrent network of Mathews (2016).

Shapes: X input features, H hidden units, R rank.
"""

from functools import partial
from typing import Annotated, Literal

from annotated_types import Ge

from src.models.tensor_rnn import TensorRNN
from src.ops.dispatch import Kernel
from src.tensors.base import unit_scaling_
from src.tensors.tensor_train import TensorTrain


class TTRNN(TensorRNN):
    r"""A tensor RNN with the tensor-train decomposition of its tensor (`tt-tanh`, `tt-relu`).

        separate      h_t = f(G(A h_{t-1}, C x_t) + U h_{t-1} + V x_t + b)       G(a, c)_j = Σ_pq G_jpq a_p c_q, h_0 = 0
        combined      h_t = f(G(A [1, h_{t-1}], C [1, x_t]))

    Both ranks are R. There are R H + R² H + R X + H² + H X + H parameters if separate, R (H + 1) + R² H + R (X + 1) if
    combined. A, G and C start as "rank_independent", see `TensorTrain`; the author's program draws them from
    N(0, 0.01²). As in that program, U and V start from U(-1.2 √(3/n), 1.2 √(3/n)), where n is their number of inputs,
    and b at 0. The program swaps the arguments, so it works only for X = H, and its combined form pads the input twice;
    here both are as intended.

    Args:
        input_size: number of input features, X.
        hidden_size: number of units, H.
        rank: both ranks, R.
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
        make_map = partial(TensorTrain, ranks=(rank, rank))
        super().__init__(
            input_size, make_map, hidden_size=hidden_size, linear=linear, nonlinearity=nonlinearity, kernel=kernel
        )
        if self.term.state is not None and self.term.input is not None:
            unit_scaling_(self.term.state.weight, hidden_size, gain=1.2)
            unit_scaling_(self.term.input.weight, input_size, gain=1.2)
