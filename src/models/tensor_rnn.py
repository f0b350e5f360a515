"""The tensor RNN: a simple recurrent network whose transition matrix is a linear function of the input.

Shapes: B sequences, X input features, P projected features, H hidden units.
"""

from typing import Annotated, Literal

from annotated_types import Ge
from torch import Tensor, nn

from src.models.base import NONLINEARITIES
from src.models.tensor_core import TensorCore
from src.ops.dispatch import Kernel
from src.tensors.full import Full
from src.tensors.terms import BilinearTerm, MakeMap


class TensorRNN(TensorCore):
    r"""A recurrent network with a full tensor from state and input to state (Sutskever et al. 2011, section 3).

        separate      h_t = f(W(h_{t-1}, x_t) + U h_{t-1} + V x_t + b)         W(h, x)_j = Σ_ik h_i W_ijk x_k, h_0 = 0
        combined      h_t = f(W([1, h_{t-1}], [1, x_t]))                       one tensor for all terms

    There are H² X + H² + H X + H parameters if separate, (H + 1) H (X + 1) if combined: the same number, and the same
    function. W starts so that W(h, x) has the variance of h times that of x; U starts as the identity, V from
    U(-√(3/X), √(3/X)), and b at 0.

    A subclass that holds the tensor in another form passes a function that builds this form to the constructor.

    Args:
        input_size: number of input features, X.
        make_map: builds W for given sizes.
        hidden_size: number of units, H.
        linear: whether the linear terms are separate or combined, see above.
        nonlinearity: the nonlinearity f.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        make_map: MakeMap = Full,
        *,
        hidden_size: Annotated[int, Ge(1)] = 50,
        linear: Literal["separate", "combined"] = "separate",
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        kernel: Kernel = "auto",
    ):
        super().__init__(input_size, hidden_size, kernel)
        self.nonlinearity = nonlinearity
        self.term = BilinearTerm(make_map, (hidden_size, hidden_size, input_size), linear)
        if self.term.state is not None:
            nn.init.eye_(self.term.state.weight)

    def project(self, x: Tensor) -> Tensor:
        """The contribution of the input to the product and to the sum."""
        return self.term.project(x)

    def step(self, p_BP: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the equations in the class docstring; the output is the state."""
        h_BH = NONLINEARITIES[self.nonlinearity](self.term(state, p_BP))
        return h_BH, h_BH
