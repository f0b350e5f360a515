"""Fast weights that are read by a softmax: the loop of Ba et al. (2016) around the memory of Ramsauer et al. (2021).

Shapes: B sequences, T time steps, X input features, H hidden units, N past states that are kept, t of them present.
"""

from collections.abc import Iterator
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from src.models.base import NONLINEARITIES, Core, Nonlinearity, refuse_one_unit
from src.models.init import scaled_identity_, uniform_fan_out_
from src.ops.dispatch import Form, Kernel, plain
from src.ops.generated.form import generated_form


class PastStates(NamedTuple):
    """The hidden state, the states before it with the newest last, and the number of steps so far."""

    h_BH: Tensor
    past_BNH: Tensor
    count_B: Tensor


class FastWeightsSoftmax(Core):
    r"""A recurrent network that attends to its own past states instead of reading a sum of their outer products.

        z(t+1)    = W h(t) + C x(t+1)
        h_0(t+1)  = f(z(t+1))
        h_s+1     = f(LN[z(t+1) + Σ_τ softmax_τ(β h(τ)ᵀ h_s(t+1)) h(τ)])         for s = 0 ... S-1, over τ = 1 ... t
        h(t+1)    = h_S(t+1)

    `FastWeights` reads A(t) h_s = η Σ_τ λ^(t-τ) h(τ) [h(τ)ᵀ h_s], with the same products as weights. With a softmax
    of these products, the read is the update of a modern Hopfield network (arXiv 2008.02217), which finds the most
    similar state however many there are; but the states themselves have to be kept. The state holds the last `context`
    of them; the sequence may be longer. In the first step nothing is read. Everything else, including S = 0, is as in
    `FastWeights`.

    Args:
        input_size: number of input features, X.
        hidden_size: number of units, H; 2 or more with `layer_norm`.
        beta: β, the inverse temperature.
        context: N, the number of past states that are kept and attended to.
        num_inner_steps: S, the number of times they are read per time step.
        layer_norm: whether to normalize the summed input of every inner step.
        nonlinearity: the nonlinearity f.
        recurrent_scale: W starts as this multiple of the identity.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 50,
        beta: Annotated[float, Gt(0)] = 1.0,
        context: Annotated[int, Ge(1)] = 128,
        num_inner_steps: Annotated[int, Ge(0)] = 1,
        layer_norm: bool = True,
        nonlinearity: Nonlinearity = "relu",
        recurrent_scale: float = 0.05,
        kernel: Kernel = "auto",
    ):
        if layer_norm and num_inner_steps > 0:
            refuse_one_unit(hidden_size)
        super().__init__(input_size, hidden_size, kernel)
        self.beta = beta
        self.context = context
        self.num_inner_steps = num_inner_steps
        self.nonlinearity = nonlinearity
        self.input = nn.Linear(input_size, hidden_size, bias=not layer_norm)
        self.recurrent = nn.Linear(hidden_size, hidden_size, bias=False)
        self.norm = nn.LayerNorm(hidden_size) if layer_norm else nn.Identity()
        uniform_fan_out_(self.input.weight)
        if not layer_norm:
            nn.init.zeros_(self.input.bias)
        scaled_identity_(self.recurrent.weight, recurrent_scale)

    def project(self, x: Tensor) -> Tensor:
        """C x, plus a bias without layer norm."""
        return self.input(x)

    def initial_state(self, batch_size: int) -> PastStates:
        """h = 0, and no past."""
        past_BNH = self.zeros(batch_size, self.context, self.hidden_size)
        return PastStates(past_BNH[:, 0], past_BNH, self.zeros(batch_size).long())

    def step(self, p_BH: Tensor, state: PastStates) -> tuple[Tensor, PastStates]:
        """One step of the equations in the class docstring; the output is the hidden state."""
        past_BNH = torch.cat([state.past_BNH, state.h_BH[:, None]], dim=1)[:, 1:]
        h_BH = self.settle(self.recurrent(state.h_BH) + p_BH, past_BNH, state.count_B)
        return h_BH, PastStates(h_BH, past_BNH, state.count_B + 1)

    def settle(self, z_BH: Tensor, past_BtH: Tensor, count_B: Tensor) -> Tensor:
        """The inner loop, which attends to at most the last `count` of the past states."""
        ages_t = torch.arange(past_BtH.shape[1] - 1, -1, -1, device=z_BH.device)
        is_there_Bt = ages_t < count_B[:, None]
        nonlinearity = NONLINEARITIES[self.nonlinearity]
        h_s_BH = nonlinearity(z_BH)
        for _ in range(self.num_inner_steps):
            scores_Bt = self.beta * (past_BtH * h_s_BH[:, None]).sum(2)
            # if there is no past state, all weights are 0, and so are their gradients
            least = torch.finfo(scores_Bt.dtype).min
            weights_Bt = scores_Bt.masked_fill(~is_there_Bt, least).softmax(1) * is_there_Bt
            read_BH = (weights_Bt[..., None] * past_BtH).sum(1)
            h_s_BH = nonlinearity(self.norm(z_BH + read_BH))
        return h_s_BH

    def forms(self) -> Iterator[Form]:
        yield generated_form(self)
        yield Form("vectorized", plain(self.attend), lambda inputs: inputs.resets is None)
        yield Form("reference", self._scanned)

    def attend(self, p_BTH: Tensor, state: PastStates | None) -> tuple[Tensor, PastStates]:
        """Also step by step, but without slots for past states that do not exist yet."""
        start = self.initial_state(len(p_BTH)) if state is None else state
        h_BH, count_B = start.h_BH, start.count_B
        past_BtH, outputs = start.past_BNH if state is not None else start.past_BNH[:, :0], []
        for p_BH in p_BTH.unbind(1):
            past_BtH = torch.cat([past_BtH, h_BH[:, None]], dim=1)[:, -self.context :]
            h_BH = self.settle(self.recurrent(h_BH) + p_BH, past_BtH, count_B)
            count_B = count_B + 1
            outputs.append(h_BH)
        before_BNH = start.past_BNH[:, : self.context - past_BtH.shape[1]]
        return torch.stack(outputs, dim=1), PastStates(h_BH, torch.cat([before_BNH, past_BtH], dim=1), count_B)

    @torch.no_grad()
    def attention(self, p_BTH: Tensor) -> Tensor | None:
        """The softmax of the last step's first read over the states τ = 1 ... T-1; 0 for states no longer kept."""
        if self.num_inner_steps == 0:  # nothing is read
            return None
        past_BtH = self(p_BTH)[0][:, :-1]
        if past_BtH.shape[1] == 0:
            return p_BTH.new_zeros(p_BTH.shape[0], 0)
        query_BH = NONLINEARITIES[self.nonlinearity](self.recurrent(past_BtH[:, -1]) + p_BTH[:, -1])
        scores_Bt = self.beta * torch.einsum("bth,bh->bt", past_BtH, query_BH)
        scores_Bt[:, : -self.context] = -torch.inf
        return scores_Bt.softmax(1)

    def flops(self, length: int) -> int:
        """As in `Core`, plus two products with each state that is read."""
        states = sum(min(t, self.context) for t in range(length))
        return super().flops(length) + 2 * 3 * self.num_inner_steps * 2 * states * self.hidden_size
