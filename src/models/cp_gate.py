"""The CP gate of Mathews (2016): a bilinear function of state and input decides what to keep.

Shapes: B sequences, X input features, P projected features, H hidden units, R components.
"""

from functools import partial
from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from src.models.base import NONLINEARITIES
from src.models.tensor_core import TensorCore
from src.ops.dispatch import Kernel
from src.specs import State
from src.tensors.base import unit_scaling_
from src.tensors.cp import CP, Init
from src.tensors.terms import BilinearTerm


class CPGateInput(NamedTuple):
    """The contribution of the input to the gate, and the candidate u."""

    gate_BP: Tensor
    u_BH: Tensor


class DroppedState(NamedTuple):
    """A state with the dropout mask of its candidates, which is the same at every step."""

    h_BH: Tensor
    mask_BH: Tensor


class CPGate(TensorCore):
    r"""A recurrent network that accumulates candidates from the input; its gate uses a CP decomposition (`cp-gate`).

        separate    f_t = σ(Bᵀ((A h_{t-1}) ⊙ (C x_t)) + U h_{t-1} + V x_t + b + g)
        combined    f_t = σ(Bᵀ((A [1, h_{t-1}]) ⊙ (C [1, x_t])) + g)           (`cp-gate-combined`)
                    u_t = φ(D x_t + d)                                         φ the identity: `cp-gate-linear`
                    h_t = f_t ⊙ h_{t-1} + (1 - f_t) ⊙ u_t                      h_0 = 0

    Each entry of the state is an average of candidates: |h_t| ≤ max(|h_{t-1}|, |u_t|). The gate is the only
    nonlinear function of the state; without A, B, C and U it is the gate of the strongly-typed RNN.

    A separate gate has R (2H + X) + H² + H X + H parameters, a combined one R (2H + X + 2), and the candidate H X + H.
    U starts as a random orthogonal matrix, V and D from U(-√(3/X), √(3/X)), and b and d at 0. The author's program has
    another H² weights that it does not use.

    During training, dropout multiplies u by a mask with entries 0 and 1/(1 - p) that is drawn once per sequence. The
    mask is part of the state and is drawn with the initial state, so a row that carries its state from batch to batch
    keeps its mask, even into an evaluation. Within one call, sequences of a row that are separated by resets share a
    mask.

    Args:
        input_size: number of input features, X.
        hidden_size: number of units, H.
        rank: number of components, R.
        linear: whether the linear terms of the gate are separate or combined, see above.
        nonlinearity: the nonlinearity φ of the candidate.
        gate_bias: the constant g; above 0 the state is retained longer.
        init: how A, B and C start; see `CP`.
        weight_norm: whether to divide the rows of A, B and C by their norms, with a weight for each component; adds R
            parameters, and combined terms start with a quarter of the variance, see `CP`.
        dropout: p, the probability that a unit's candidates are dropped.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 50,
        rank: Annotated[int, Ge(1)] = 20,
        linear: Literal["separate", "combined"] = "separate",
        nonlinearity: Literal["relu", "linear"] = "relu",
        gate_bias: float = 0.0,
        init: Init = "rank_independent",
        weight_norm: bool = False,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        kernel: Kernel = "auto",
    ):
        super().__init__(input_size, hidden_size, kernel)
        self.nonlinearity = nonlinearity
        self.gate_bias = gate_bias
        self.dropout = dropout
        make_map = partial(CP, rank=rank, init=init, normalize="rows" if weight_norm else None)
        self.gate = BilinearTerm(make_map, (hidden_size, hidden_size, input_size), linear)
        self.candidate = nn.Linear(input_size, hidden_size)
        unit_scaling_(self.candidate.weight, input_size)
        nn.init.zeros_(self.candidate.bias)

    def project(self, x: Tensor) -> CPGateInput:
        """The contribution to the gate, and u."""
        return CPGateInput(self.gate.project(x), NONLINEARITIES[self.nonlinearity](self.candidate(x)))

    def initial_state(self, batch_size: int) -> Tensor | DroppedState:
        """h = 0, with a new mask if there is dropout."""
        h_BH = self.zeros(batch_size, self.hidden_size)
        if self.dropout == 0:
            return h_BH
        if not self.training:  # draw nothing, so that an evaluation does not change later random numbers
            return DroppedState(h_BH, torch.ones_like(h_BH))
        kept = 1 - self.dropout
        return DroppedState(h_BH, torch.bernoulli(torch.full_like(h_BH, kept)) / kept)

    def accumulate(self, gate_BP: Tensor, u_BH: Tensor, state: Tensor | DroppedState) -> tuple[Tensor, Tensor, State]:
        """One step: h before it, h after it, and the state that is passed on."""
        h_BH, mask_BH = state if isinstance(state, DroppedState) else (state, None)
        u_BH = u_BH if mask_BH is None else u_BH * mask_BH
        f_BH = torch.sigmoid(self.gate(h_BH, gate_BP) + self.gate_bias)
        next_BH = u_BH + f_BH * (h_BH - u_BH)
        return h_BH, next_BH, next_BH if mask_BH is None else DroppedState(next_BH, mask_BH)

    def step(self, p: CPGateInput, state: Tensor | DroppedState) -> tuple[Tensor, Tensor | DroppedState]:
        """One step of the equations in the class docstring; the output is h."""
        _, h_BH, state = self.accumulate(p.gate_BP, p.u_BH, state)
        return h_BH, state
