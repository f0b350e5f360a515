"""The fast-weights RNN of Ba et al. (2016), "Using Fast Weights to Attend to the Recent Past", arXiv 1610.06258.

Shapes: B sequences, T time steps, t steps past, X input features, H hidden units.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from src.config.schema import Neutral
from src.models.base import NONLINEARITIES, Core, Nonlinearity, gain_and_bias, last_step
from src.models.init import scaled_identity_, uniform_fan_out_
from src.ops.cpu import calls
from src.ops.cpu.fastweights import chunk_length, fastweights
from src.ops.dispatch import Form, Kernel, plain
from src.ops.inputs import Inputs
from src.ops.triton import fastweights as triton


class FastWeightsState(NamedTuple):
    """The hidden state, and the fast weights that were read to compute it."""

    h_BH: Tensor
    A_BHH: Tensor


class FastWeights(Core):
    r"""A recurrent network with a second set of weights, written by its own recent states.

    From one time step to the next (the equations of the paper, `f` the nonlinearity, `LN` layer normalization):

        A(t)      = λ A(t-1) + η h(t) h(t)ᵀ                      (1)
        z(t+1)    = W h(t) + C x(t+1)                            the sustained boundary condition, C x = `project`
        h_0(t+1)  = f(z(t+1))                                    the preliminary state
        h_s+1     = f(LN[z(t+1) + A(t) h_s(t+1)])                (2), (5), for s = 0 ... S-1
        h(t+1)    = h_S(t+1)

    with h(0) = 0 and A(0) = 0. The gradient flows through A. Because A is a sum of outer products, reading it is
    attention over the past states with the current state as the query, and A need never be formed:

        A(t) h_s  = η Σ_{τ<=t} λ^(t-τ) h(τ) [h(τ)ᵀ h_s]          (4)

    `step` is the matrix form. In plain PyTorch the attention form saves T²H/2 numbers per sequence for the backward
    pass and the matrix form T H²; the faster of the two is used. The kernel saves T H. It processes a long sequence in
    chunks: attention within a chunk, and the matrix A for all earlier chunks.

    Choices that the paper leaves open: the layer norm has one gain and bias for all steps; there is none on the
    preliminary state; `z` has a bias only without layer norm, which has its own. With S = 0 nothing is read.

    With S > 1, `read_weights="learned"` and `normalized="last"` start as a network with S = 1, which learns soonest:

        h_s+1     = f(z(t+1) + w_s A(t) h_s(t+1)),               for s < S-1, w_s = 0 at first
        h_S       = f(LN[z(t+1) + A(t) h_S-1(t+1)])

    Args:
        input_size: features X of one input vector.
        hidden_size: units H.
        decay: λ, what remains of the fast weights after a step.
        fast_lr: η, the fast learning rate; 0 switches the memory off.
        num_inner_steps: S, how often the fast weights are read per time step.
        layer_norm: normalize the summed input of every inner step (equation 5).
        normalized: which inner steps are normalized, "all" or "last".
        read_weights: "one" as above, or "learned": a weight w_s of A h_s for every inner step but the last, 0 at first.
        layer_norm_preliminary: normalize `z` in the preliminary state as well, with its own gain and bias.
        boundary: "sustained" as above; "identity" is the second method of appendix B, h_s+1 = f(LN[(I + A) h_s]).
        write: what enters A. "state" as above; the other two are found in public re-implementations, and are here to
            measure what they cost: "late" writes h(t) only after h(t+1) has been computed, "preliminary" writes the
            preliminary state h_0(t+1) instead, just before the read. Both are computed step by step, without kernel.
        nonlinearity: f.
        recurrent_scale: W starts as this multiple of the identity.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, Ge(1)] = 50,
        decay: Annotated[float, Ge(0), Le(1)] = 0.95,
        fast_lr: Annotated[float, Ge(0)] = 0.5,
        num_inner_steps: Annotated[int, Ge(0)] = 1,
        layer_norm: bool = True,
        normalized: Annotated[Literal["all", "last"], Neutral("all")] = "all",
        read_weights: Annotated[Literal["one", "learned"], Neutral("one")] = "one",
        layer_norm_preliminary: bool = False,
        boundary: Literal["sustained", "identity"] = "sustained",
        write: Literal["state", "late", "preliminary"] = "state",
        nonlinearity: Nonlinearity = "relu",
        recurrent_scale: float = 0.05,
        kernel: Kernel = "auto",
    ):
        super().__init__(input_size, hidden_size, kernel)
        self.decay = decay
        self.fast_lr = fast_lr
        self.num_inner_steps = num_inner_steps
        self.only_last_normalized = normalized == "last"
        self.sustained = boundary == "sustained"
        self.write = write
        self.nonlinearity = nonlinearity

        self.input = nn.Linear(input_size, hidden_size, bias=not layer_norm)
        self.recurrent = nn.Linear(hidden_size, hidden_size, bias=False)
        self.norm = nn.LayerNorm(hidden_size) if layer_norm else nn.Identity()
        self.preliminary_norm = nn.LayerNorm(hidden_size) if layer_norm_preliminary else nn.Identity()

        learned = read_weights == "learned" and num_inner_steps > 1
        self.read_weights = nn.Parameter(torch.zeros(num_inner_steps - 1)) if learned else None

        uniform_fan_out_(self.input.weight)
        if not layer_norm:
            nn.init.zeros_(self.input.bias)
        scaled_identity_(self.recurrent.weight, recurrent_scale)

    def project(self, x: Tensor) -> Tensor:
        """C x, plus a bias without layer norm."""
        return self.input(x)

    def initial_state(self, batch_size: int) -> FastWeightsState:
        """h = 0, A = 0."""
        return FastWeightsState(
            self.zeros(batch_size, self.hidden_size), self.zeros(batch_size, self.hidden_size, self.hidden_size)
        )

    def step(self, p_BH: Tensor, state: FastWeightsState) -> tuple[Tensor, FastWeightsState]:
        """Equations 1, 2 and 5."""
        h_BH, A_BHH = state
        z_BH = self.recurrent(h_BH) + p_BH
        written_BH = self._preliminary(z_BH) if self.write == "preliminary" else h_BH
        next_A_BHH = self.decay * A_BHH + self.fast_lr * written_BH[:, :, None] * written_BH[:, None, :]
        read_A_BHH = A_BHH if self.write == "late" else next_A_BHH
        h_BH = self.settle(z_BH, lambda h_s_BH: torch.bmm(read_A_BHH, h_s_BH[:, :, None])[:, :, 0])
        return h_BH, FastWeightsState(h_BH, next_A_BHH)

    def _preliminary(self, z_BH: Tensor) -> Tensor:
        """h_0, from the boundary condition z."""
        return self._f(self.preliminary_norm(z_BH))

    def settle(self, z_BH: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
        """The inner loop: from the boundary condition z to the next hidden state; `read(h_s)` is A h_s."""
        h_s_BH = self._preliminary(z_BH)
        for s in range(self.num_inner_steps):
            is_last = s + 1 == self.num_inner_steps
            boundary_BH = z_BH if self.sustained else h_s_BH
            read_BH = read(h_s_BH)
            if self.read_weights is not None and not is_last:
                read_BH = self.read_weights[s] * read_BH
            a_s_BH = boundary_BH + read_BH
            h_s_BH = self._f(self.norm(a_s_BH) if is_last or not self.only_last_normalized else a_s_BH)
        return h_s_BH

    def _f(self, a: Tensor) -> Tensor:
        return NONLINEARITIES[self.nonlinearity](a)

    def forms(self) -> Iterator[Form]:
        """As measured, the matrix form is faster than `attend` from about T = 2H on."""

        size = self.hidden_size

        def attends(inputs: Inputs) -> bool:
            return self.write == "state" and inputs.resets is None

        def on_cpu(inputs: Inputs) -> bool:
            return attends(inputs) and calls.available(inputs)

        def on_gpu(inputs: Inputs) -> bool:
            as_in_paper = self.read_weights is None and not self.only_last_normalized
            return attends(inputs) and as_in_paper and triton.available(inputs, size)

        def in_torch(inputs: Inputs) -> bool:
            return attends(inputs) and inputs.batch_and_time[1] <= 2 * size

        of_cpu = partial(fastweights, read_weights=self.read_weights, only_last_normalized=self.only_last_normalized)
        yield Form("fused", partial(self._fused, of_cpu, chunk_length(size)), on_cpu)
        yield Form("fused", partial(self._fused, triton.fastweights, triton.chunk_length(size)), on_gpu)
        yield Form("vectorized", plain(self.attend), in_torch)
        yield from super().forms()

    def attend(self, p_BTH: Tensor, state: FastWeightsState | None) -> tuple[Tensor, FastWeightsState]:
        """Equation 4 instead of 1 and 2; a given state adds its decayed fast weights, λ^t A_0 h_s."""
        h_BH, carried_BHH = (self.zeros(p_BTH.shape[0], self.hidden_size), None) if state is None else state
        weights_T = self._past_weights(p_BTH.shape[1])
        past_BtH = h_BH[:, None]
        outputs = []
        for t, p_BH in enumerate(p_BTH.unbind(1), start=1):
            # products and sums are twice as fast as batched matrix-vector products of this size
            def read(h_s_BH: Tensor, past_BtH=past_BtH, weights_t1=weights_T[-t:, None], left=self.decay**t) -> Tensor:
                scores_Bt1 = (past_BtH * h_s_BH[:, None]).sum(2, keepdim=True) * weights_t1
                read_BH = (past_BtH * scores_Bt1).sum(1)
                if carried_BHH is not None:
                    read_BH = read_BH + left * torch.bmm(carried_BHH, h_s_BH[:, :, None])[:, :, 0]
                return read_BH

            h_BH = self.settle(self.recurrent(h_BH) + p_BH, read)
            outputs.append(h_BH)
            if t < p_BTH.shape[1]:
                past_BtH = torch.cat([past_BtH, h_BH[:, None]], dim=1)
        return torch.stack(outputs, dim=1), FastWeightsState(h_BH, self._written(past_BtH, carried_BHH))

    def _fused(
        self,
        kernel: Callable[..., Tensor],
        chunk_length: int,
        inputs: Inputs,
        state: FastWeightsState | None,
        return_state: bool,
        return_sequence: bool,
    ) -> tuple[Tensor, FastWeightsState | None]:
        """A kernel, chunk by chunk."""
        h_BH, A_BHH = (None, None) if state is None else state
        weights = self.recurrent.weight, gain_and_bias(self.norm), gain_and_bias(self.preliminary_norm)
        chunks = inputs.split(chunk_length)
        outputs: list[Tensor] = []
        for chunk in chunks:
            is_read_later = return_state or chunk is not chunks[-1]
            h_BTH = kernel(
                chunk,
                h_BH,
                A_BHH,
                *weights,
                nonlinearity=self.nonlinearity,
                num_inner_steps=self.num_inner_steps,
                sustained=self.sustained,
                decay=self.decay,
                fast_lr=self.fast_lr,
                return_sequence=return_sequence or is_read_later,
            )
            if is_read_later:
                before_BH = torch.zeros_like(h_BTH[:, 0]) if h_BH is None else h_BH
                past_BtH = torch.cat([before_BH[:, None], h_BTH[:, :-1]], dim=1)
                A_BHH, h_BH = self._written(past_BtH, A_BHH), h_BTH[:, -1]
            outputs.append(h_BTH if return_sequence else last_step(h_BTH))
        y_BTH = torch.cat(outputs, dim=1) if return_sequence and len(outputs) > 1 else outputs[-1]
        return y_BTH, FastWeightsState(last_step(y_BTH), A_BHH) if return_state and A_BHH is not None else None

    def _written(self, past_BtH: Tensor, carried_BHH: Tensor | None) -> Tensor:
        """Equation 1 in closed form: the sum over the past states, plus the decayed A from before them."""
        num_steps = past_BtH.shape[1]
        weighted_BtH = past_BtH * self._past_weights(num_steps)[:, None]
        if carried_BHH is None:
            return torch.bmm(weighted_BtH.transpose(1, 2), past_BtH)
        return torch.baddbmm(carried_BHH, weighted_BtH.transpose(1, 2), past_BtH, beta=self.decay**num_steps)

    def _past_weights(self, num_steps: int) -> Tensor:
        """η λ^(t-τ) for the states τ = t-T+1 ... t, T of them."""
        ages_T = torch.arange(num_steps - 1, -1, -1, device=self.recurrent.weight.device)
        return self.fast_lr * torch.pow(self.decay, ages_T.to(self.recurrent.weight.dtype))

    @torch.no_grad()
    def attention(self, p_BTH: Tensor) -> Tensor | None:
        """η λ^(t-τ) h(τ)ᵀ h_0: how much the last step's first read takes from each state τ = 1 ... T-1."""
        if self.write != "state":
            return None
        if p_BTH.shape[1] == 1:
            return p_BTH.new_zeros(p_BTH.shape[0], 0)
        past_BtH = self(p_BTH)[0][:, :-1]
        query_BH = self._preliminary(self.recurrent(past_BtH[:, -1]) + p_BTH[:, -1])
        return torch.einsum("bth,bh->bt", past_BtH, query_BH) * self._past_weights(past_BtH.shape[1])

    @torch.no_grad()
    def memory(self, p_BTH: Tensor) -> Tensor | None:
        """A as the last step reads it."""
        _, state = self(p_BTH)
        return state.A_BHH

    def flops(self, length: int) -> int:
        """As in `Core`; states and matrices that are read are used three times as well."""
        size, products = self.hidden_size, 0
        chunk = chunk_length(size)
        for start in range(0, length, chunk):
            steps, carried = min(chunk, length - start), start > 0  # carried: the matrix of the chunks before
            states = steps * (steps - 1) // 2 + carried * steps  # over all steps of the chunk
            reading = 2 * states * size + carried * steps * size**2
            writing = (steps - 1 + carried) * size**2 if start + steps < length else 0
            products += self.num_inner_steps * reading + writing
        return super().flops(length) + 2 * 3 * products
