"""The two-level fast weights with which Ba et al. (2016) read images in glimpses: sections 4.2 and 4.3, Figure 3.

Shapes: B sequences, T time steps, X input features, H hidden units, Q quadrants, R = 6 glimpses of each.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn import functional

from src.models.base import Core, refuse_one_unit
from src.models.init import scaled_identity_, uniform_fan_out_
from src.ops.dispatch import Form, Kernel
from src.ops.fastweights import past_weights, written
from src.ops.inputs import Inputs

STORE, INTEGRATE, NUM_STEPS = 0, 5, 6
"""The positions within a quadrant at which the memory is written and read, and the number of positions."""


class MultilevelState(NamedTuple):
    """The hidden state, the fast weights, and the position of the next step within its quadrant."""

    h_BH: Tensor
    A_BHH: Tensor
    position_B: Tensor


class FastWeightsMultilevel(Core):
    r"""A recurrent network that stores a coarse view while it looks closely, and then combines the two.

    A quadrant of an image takes six steps, r = 0 ... 5: a coarse glimpse, four fine ones, and the coarse one again.
    With C x_t = `project`, f = relu, LN layer normalization, and h(0) = 0, A(0) = 0:

        r = 0        h(t) = f(LN[W h(t-1) + C x_t])
                     A ← λ A + η h(t) h(t)ᵀ                          store
                     h ← 0                                           wipe, once h(t) has been output
        r = 1 ... 4  h(t) = f(LN[W h(t-1) + C x_t])
        r = 5        h_0  = f(C x_t)                                 the coarse glimpse is the cue
                     h(t) = f(LN[W_int h(t-1) + C x_t + A h_0])      integrate

    The three signals (store, wipe, integrate) depend only on the position, which is part of the state. The hidden state
    of r = 5 is passed on to the next quadrant. The paper shows this in a figure, without equations, and leaves open
    whether A decays at every store, as here, or at every step; whether W_int h(t-1) enters h_0 as well, which it does
    not here; and where layer normalization is applied: here to every sum, with one gain and bias for all.

    A is a sum of one outer product per quadrant, so reading it is attention over the stored states, as in
    `FastWeights`. After a wipe, h contains nothing of the earlier quadrants, so the fine glimpses of all quadrants are
    computed in parallel.

    Args:
        input_size: number of pixels of a glimpse, X.
        hidden_size: number of units, H, 2 or more.
        decay: λ, the factor by which the fast weights decay at every store.
        fast_lr: η, the fast learning rate; 0 switches the memory off.
        wipe: whether h is wiped after it is stored; with false, even a network without memory sees the whole image.
        recurrent_scale: W and W_int start as this multiple of the identity.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 50,
        decay: Annotated[float, Ge(0), Le(1)] = 0.95,
        fast_lr: Annotated[float, Ge(0)] = 0.5,
        wipe: bool = True,
        recurrent_scale: float = 0.05,
        kernel: Kernel = "auto",
    ):
        refuse_one_unit(hidden_size)
        super().__init__(input_size, hidden_size, kernel)
        self.decay = decay
        self.fast_lr = fast_lr
        self.wipe = wipe

        self.input = nn.Linear(input_size, hidden_size, bias=False)
        self.recurrent = nn.Linear(hidden_size, hidden_size, bias=False)
        self.integration = nn.Linear(hidden_size, hidden_size, bias=False)
        self.norm = nn.LayerNorm(hidden_size)

        uniform_fan_out_(self.input.weight)
        scaled_identity_(self.recurrent.weight, recurrent_scale)
        scaled_identity_(self.integration.weight, recurrent_scale)

    def project(self, x: Tensor) -> Tensor:
        """C x; the only bias is in the layer norm."""
        return self.input(x)

    def initial_state(self, batch_size: int) -> MultilevelState:
        """h = 0, A = 0, at the first glimpse of a quadrant."""
        size = self.hidden_size
        h_BH, A_BHH = self.zeros(batch_size, size), self.zeros(batch_size, size, size)
        return MultilevelState(h_BH, A_BHH, h_BH.new_zeros(batch_size, dtype=torch.int64))

    def step(self, p_BH: Tensor, state: MultilevelState) -> tuple[Tensor, MultilevelState]:
        """One step of the equations in the class docstring, each sequence at its own position in a quadrant."""
        h_BH, A_BHH, position_B = state
        stores_B1, integrates_B1 = (position_B[:, None] == position for position in (STORE, INTEGRATE))
        read_BH = torch.bmm(A_BHH, torch.relu(p_BH)[:, :, None])[:, :, 0]
        sum_BH = torch.where(integrates_B1, self.integration(h_BH) + read_BH, self.recurrent(h_BH)) + p_BH
        y_BH = torch.relu(self.norm(sum_BH))
        written_BHH = self.decay * A_BHH + self.fast_lr * y_BH[:, :, None] * y_BH[:, None, :]
        A_BHH = torch.where(stores_B1[:, :, None], written_BHH, A_BHH)
        h_BH = torch.where(stores_B1, 0.0, y_BH) if self.wipe else y_BH
        return y_BH, MultilevelState(h_BH, A_BHH, (position_B + 1) % NUM_STEPS)

    def forms(self) -> Iterator[Form]:
        """Whole quadrants at once, if the sequence starts at the beginning of one."""
        yield Form("vectorized", self._by_quadrants, lambda inputs: inputs.resets is None)
        yield from super().forms()

    def _by_quadrants(
        self, inputs: Inputs, state: MultilevelState | None, return_state: bool, return_sequence: bool
    ) -> tuple[Tensor, MultilevelState | None]:
        if state is not None:  # each sequence may be at another position
            return self._scanned(inputs, state, return_state, return_sequence)
        p_BTH = inputs.vectors
        num_sequences, time = p_BTH.shape[:2]
        num_quadrants = -(-time // NUM_STEPS)
        p_BQRH = functional.pad(p_BTH, (0, 0, 0, num_quadrants * NUM_STEPS - time)).unflatten(1, (-1, NUM_STEPS))
        first_Q, *fine_RQ, last_Q = (p_BQH.unbind(1) for p_BQH in p_BQRH.unbind(2))
        if self.wipe:
            closely_RQ = [h.chunk(num_quadrants) for h in self._follow(None, [torch.cat(p_Q) for p_Q in fine_RQ])]
        h_BH, outputs, stored = None, [], []
        for q in range(num_quadrants):
            coarse_BH = self._next(h_BH, first_Q[q])
            stored.append(coarse_BH)
            if self.wipe:
                seen_RBH = [h_Q[q] for h_Q in closely_RQ]
            else:
                seen_RBH = self._follow(coarse_BH, [p_Q[q] for p_Q in fine_RQ])
            read_BH = self._read(torch.stack(stored, dim=1), torch.relu(last_Q[q]))
            h_BH = torch.relu(self.norm(self.integration(seen_RBH[-1]) + read_BH + last_Q[q]))
            outputs += [coarse_BH, *seen_RBH, h_BH]
        y_BTH = torch.stack(outputs[:time], dim=1)
        end = None
        if return_state:
            was_wiped = self.wipe and time % NUM_STEPS == STORE + 1
            h_BH = torch.zeros_like(y_BTH[:, -1]) if was_wiped else y_BTH[:, -1]
            stored_BQH = torch.stack(stored, dim=1).to(self.recurrent.weight.dtype)
            A_BHH = written(stored_BQH, None, self.decay, self.fast_lr)
            end = MultilevelState(h_BH, A_BHH, torch.full((num_sequences,), time % NUM_STEPS, device=h_BH.device))
        return (y_BTH if return_sequence else y_BTH[:, -1]), end

    def _next(self, h_BH: Tensor | None, p_BH: Tensor) -> Tensor:
        """One step of the slow recurrence, from a state; None is the state 0."""
        return torch.relu(self.norm(p_BH if h_BH is None else self.recurrent(h_BH) + p_BH))

    def _follow(self, h_BH: Tensor | None, by_step: Sequence[Tensor]) -> list[Tensor]:
        """The states of several steps of the slow recurrence."""
        states = []
        for p_BH in by_step:
            h_BH = self._next(h_BH, p_BH)
            states.append(h_BH)
        return states

    def _read(self, stored_BQH: Tensor, cue_BH: Tensor) -> Tensor:
        """A h_0, without forming A."""
        weights_Q = self._weights(stored_BQH.shape[1])
        scores_BQ1 = (stored_BQH * cue_BH[:, None]).sum(2, keepdim=True) * weights_Q[:, None]
        return (stored_BQH * scores_BQ1).sum(1)

    def _weights(self, num_stored: int) -> Tensor:
        """η λ^k for each stored state, where k is the number of states stored after it."""
        return past_weights(num_stored, self.decay, self.fast_lr, self.recurrent.weight)

    @torch.no_grad()
    def attention(self, p_BTH: Tensor) -> Tensor:
        """The weight of each state in the read of the last step, η λ^k h(τ)ᵀ h_0; 0 for states that were not stored."""
        num_sequences, time, _ = p_BTH.shape
        attention_Bt = p_BTH.new_zeros(num_sequences, time - 1)
        if (time - 1) % NUM_STEPS == INTEGRATE:
            stored_BQH = self(p_BTH)[0][:, STORE::NUM_STEPS]
            scores_BQ = torch.einsum("bqh,bh->bq", stored_BQH, torch.relu(p_BTH[:, -1]))
            attention_Bt[:, STORE::NUM_STEPS] = scores_BQ * self._weights(stored_BQH.shape[1])
        return attention_Bt

    @torch.no_grad()
    def memory(self, p_BTH: Tensor) -> Tensor:
        """A as the last step reads it."""
        _, state = self(p_BTH)
        return state.A_BHH

    def flops(self, length: int) -> int:
        """As in `Core`; stored states that are read are used three times too."""
        matrices = length - 1 - (-(-(length - 1) // NUM_STEPS) if self.wipe else 0)  # no product after a wipe
        num_reads = length // NUM_STEPS
        return 2 * 3 * (matrices * self.hidden_size**2 + num_reads * (num_reads + 1) * self.hidden_size)
