"""The recurrent network of Mathews (2016) with a random sparse tensor.

Shapes: X input features, H hidden units, E entries.
"""

from functools import partial
from typing import Annotated, Literal

from annotated_types import Ge

from src.models.tensor_rnn import TensorRNN
from src.ops.dispatch import Kernel
from src.tensors.sparse import Sparse


class SparseRNN(TensorRNN):
    r"""A tensor RNN whose tensor has few entries, at fixed random positions.

        separate      h_t = f(S(h_{t-1}, x_t) + U h_{t-1} + V x_t + b)     S(h, x)_j = Σ_{e: j(e) = j} v_e h_i(e) x_k(e)
        combined      h_t = f(S([1, h_{t-1}], [1, x_t]))                   h_0 = 0

    There are E + H² + H X + H parameters if separate, E if combined. With E = H² + X, as in the author's experiments on
    text, the combined form has about as many parameters as the recurrent matrix of a simple recurrent network. U starts
    as the identity. The author draws the entries from N(0, 0.15²).

    Args:
        input_size: number of input features, X.
        hidden_size: number of units, H.
        num_entries: number of entries, E; None for H² + X.
        linear: whether the linear terms are separate or combined, see above.
        nonlinearity: the nonlinearity f.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 50,
        num_entries: Annotated[int, Ge(1)] | None = None,
        linear: Literal["separate", "combined"] = "separate",
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        kernel: Kernel = "auto",
    ):
        make_map = partial(Sparse, num_entries=num_entries or hidden_size**2 + input_size)
        super().__init__(
            input_size, make_map, hidden_size=hidden_size, linear=linear, nonlinearity=nonlinearity, kernel=kernel
        )
