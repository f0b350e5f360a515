"""The product of a sequence under a bilinear map: a recurrence that only multiplies.

Shapes: B sequences, X input features, P projected features, H hidden units.
"""

from functools import partial
from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn import functional

from src.models.tensor_core import TensorCore
from src.ops.dispatch import Kernel
from src.tensors.cp import CP
from src.tensors.full import Full
from src.tensors.tensor_train import TensorTrain
from src.tensors.terms import BilinearTerm, MakeMap
from src.tensors.tucker import Tucker


class BilinearInput(NamedTuple):
    """The contribution of the input to the product, and the input as the first state."""

    product_BP: Tensor
    first_BH: Tensor


class BilinearState(NamedTuple):
    """The product so far, and whether there is one: 0 before the first step, then 1."""

    h_BH: Tensor
    started_B1: Tensor


class Bilinear(TensorCore):
    r"""A recurrent network without linear terms or a nonlinearity: each input multiplies the state by a matrix.

        h_1 = x_1,    h_t = g W(h_{t-1}, x_t) = g M(x_t) h_{t-1}            W(h, x)_j = Σ_ik h_i W_ijk x_k

    If X and H differ, x_1 is cut to its first H features or padded with zeros. For two vectors, the network is the
    bilinear map itself, which is how a decomposition is learned by gradient descent. For longer sequences, the state is
    a product of matrices, and the logarithm of its norm grows or shrinks in proportion to time (Mathews 2016:
    "multiplicative dynamics = instability?").

    Parameters: CP R (2H + X); tensor train R H + R² H + R X; Tucker R (2H + X) + R³; full H² X. At the start, the
    entries of W(h, x) have the variance of h times that of x.

    Args:
        input_size: number of input features, X.
        hidden_size: number of units, H.
        form: how W is held.
        rank: R, every rank of the form; unused by the full tensor.
        scale: g, a constant.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 50,
        form: Literal["cp", "tensor_train", "tucker", "full"] = "cp",
        rank: Annotated[int, Ge(1)] = 20,
        scale: float = 1.0,
        kernel: Kernel = "auto",
    ):
        super().__init__(input_size, hidden_size, kernel)
        self.scale = scale
        maps: dict[str, MakeMap] = {
            "cp": partial(CP, rank=rank),
            "tensor_train": partial(TensorTrain, ranks=(rank, rank)),
            "tucker": partial(Tucker, ranks=(rank, rank, rank)),
            "full": Full,
        }
        self.term = BilinearTerm(maps[form], (hidden_size, hidden_size, input_size), "none")

    def project(self, x: Tensor) -> BilinearInput:
        """The contribution to the product, and x, cut or padded to H features."""
        return BilinearInput(self.term.project(x), functional.pad(x, (0, self.hidden_size - x.shape[-1])))

    def initial_state(self, batch_size: int) -> BilinearState:
        """No product yet."""
        return BilinearState(self.zeros(batch_size, self.hidden_size), self.zeros(batch_size, 1))

    def step(self, p: BilinearInput, state: BilinearState) -> tuple[Tensor, BilinearState]:
        """One step of the equation in the class docstring; the output is the product."""
        product_BH = self.scale * self.term(state.h_BH, p.product_BP)
        # not first + started (product - first), which would round away a product far smaller than first
        h_BH = (1 - state.started_B1) * p.first_BH + state.started_B1 * product_BH
        return h_BH, BilinearState(h_BH, torch.ones_like(state.started_B1))
