"""The add-subtract CP network of Mathews (2016).

Shapes: X input features, H hidden units, R components.
"""

from typing import Annotated

from annotated_types import Ge

from src.models.cp_delta import CPDelta
from src.ops.dispatch import Kernel


class CPAddSubtract(CPDelta):
    r"""A recurrent network that adds to its state and subtracts from it, with factors of bounded norm (`cp+-`).

        h_t = h_{t-1} + relu(a_t) - relu(s_t)                  h_0 = 0
        a_t = Bᵀ((A h_{t-1}) ⊙ (C x_t)) + V x_t + b            s_t likewise with its own weights

    Each of A, B and C is divided by its Frobenius norm, so the norm of a product is at most |h| |x|, and at the start a
    typical one falls as 1/R. There are 2 (R (2H + X) + H X + H) parameters.

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
        rank: Annotated[int, Ge(1)] = 5,
        kernel: Kernel = "auto",
    ):
        super().__init__(input_size, "input", "matrix", hidden_size=hidden_size, rank=rank, kernel=kernel)
