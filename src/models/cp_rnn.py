"""The simple CP recurrent network of Mathews (2016).

Shapes: X input features, H hidden units, R components.
"""

from functools import partial
from typing import Annotated, Literal

from annotated_types import Ge

from src.models.tensor_rnn import TensorRNN
from src.ops.dispatch import Kernel
from src.tensors.cp import CP, Init


class CPRNN(TensorRNN):
    r"""A tensor RNN with the CP decomposition of its tensor (`simple_cp`, `cp-tanh`, `cp-relu`).

        separate      h_t = f(Bᵀ((A h_{t-1}) ⊙ (C x_t)) + U h_{t-1} + V x_t + b)              h_0 = 0
        combined      h_t = f(Bᵀ((A [1, h_{t-1}]) ⊙ (C [1, x_t])))

    The matrix Bᵀ diag(C x) A that the input adds to U has a rank of at most R. There are R (2H + X) + H² + H X + H
    parameters if separate, R (2H + X + 2) if combined. U starts as the identity; for V and b see `BilinearTerm`.

    Args:
        input_size: number of input features, X.
        hidden_size: number of units, H.
        rank: number of components, R.
        linear: whether the linear terms are separate or combined, see above.
        nonlinearity: the nonlinearity f.
        init: how A, B and C start; see `CP`. "mathews2016" is the default of the author's program, but not what it uses
            for this network: U(-1, 1), scaled to a largest singular value of 2.
        weight_norm: whether to divide the rows of A, B and C by their norms, with a weight for each component (Salimans
            & Kingma, 2016); adds R parameters, and combined terms start with a quarter of the variance, see `CP`.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 50,
        rank: Annotated[int, Ge(1)] = 20,
        linear: Literal["separate", "combined"] = "separate",
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        init: Init = "rank_independent",
        weight_norm: bool = False,
        kernel: Kernel = "auto",
    ):
        make_map = partial(CP, rank=rank, init=init, normalize="rows" if weight_norm else None)
        super().__init__(
            input_size, make_map, hidden_size=hidden_size, linear=linear, nonlinearity=nonlinearity, kernel=kernel
        )
