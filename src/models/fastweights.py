"""The fast-weights RNN of Ba et al. (2016), "Using Fast Weights to Attend to the Recent Past", arXiv 1610.06258.

Shapes: B sequences, T time steps, t past steps, X input features, H hidden units.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from src.config.schema import Neutral
from src.models.association import Association
from src.models.base import NONLINEARITIES, Core, Nonlinearity, gain_and_bias, is_standard, refuse_one_unit
from src.models.init import scaled_identity_, uniform_fan_out_
from src.ops.cpu import calls
from src.ops.cpu.fastweights import chunk_length, fastweights
from src.ops.dispatch import Form, Kernel, plain
from src.ops.fastweights import attend, in_chunks, past_weights
from src.ops.inputs import Inputs
from src.ops.triton import fastweights as triton
from src.specs import map_state, state_tensors


class FastWeightsState(NamedTuple):
    """The hidden state, and the fast weights that were read to compute it."""

    h_BH: Tensor
    A_BHH: Tensor


class GatedInput(NamedTuple):
    """The contribution of an input if there are gates: C x, λ(x) and η(x)."""

    sum_BH: Tensor
    decay_B1: Tensor
    fast_lr_B1: Tensor


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

    `step` is the matrix form. For the backward pass, the attention form in plain PyTorch stores T²H/2 numbers per
    sequence, and the matrix form T H²; the faster of the two is used. The kernel stores T H. It processes a long
    sequence in chunks: attention within a chunk, and the matrix A for all earlier chunks.

    The paper leaves some choices open. Here the layer norm has one gain and bias for all steps; the preliminary state
    is not normalized; and `z` has a bias only without layer norm, which has its own. With S = 0 nothing is read or
    normalized, so with `layer_norm` z has no bias, and the gain and bias of the norm are unused.

    With S > 1, a network with `read_weights="learned"` and `normalized="last"` starts out as one with S = 1, which
    learns soonest, provided that the boundary is "sustained" and the preliminary state is not normalized, or that the
    boundary is "identity" and `f` is not tanh:

        h_s+1     = f(z(t+1) + w_s A(t) h_s(t+1)),               for s < S-1, w_s = 0 at first
        h_S       = f(LN[z(t+1) + A(t) h_S-1(t+1)])

    Features that later fast weights have and these lack can be turned on one by one, in place of equation 1:

        A(t)      = λ A(t-1) + η v kᵀ                          k and v of `Association`, with `association="hetero"`
        A(t)      = λ A(t-1) + η (v - λ A(t-1) κ) κᵀ           κ = k / sqrt(|k|² + 1e-6), with `rule="delta"`
        λ(x)      = σ(w_λᵀ x + b_λ)
        η(x)      = 2 η σ(w_ηᵀ x + b_η)                        with `gates`, which start at λ and η, with w = 0

    The delta rule (Schlag et al., 2021, arXiv 2102.11174) corrects what is stored under a key, and replaces it if
    η = 1. It is stable for η <= 2; with gates, where η(x) can reach 2 η, this means `fast_lr` <= 1. States have both
    signs if the nonlinearity is tanh or linear. With a `memory_size` M, A is M x M instead of H x H, so that there can
    be more units than the memory has rows.

    Args:
        input_size: number of input features, X.
        hidden_size: number of units, H.
        decay: λ, the factor by which the fast weights decay at each step.
        fast_lr: η, the fast learning rate; 0 switches the memory off.
        num_inner_steps: S, the number of times the fast weights are read per time step.
        layer_norm: whether to normalize the summed input of every inner step (equation 5); needs two units or more.
        normalized: which inner steps are normalized, "all" or "last"; makes no difference with a single inner step or
            without `layer_norm`.
        read_weights: "one" as above, or "learned": a weight w_s of A h_s, 0 at first, for every inner step but the
            last; makes no difference with a single inner step.
        layer_norm_preliminary: whether to normalize `z` in the preliminary state as well, with its own gain and bias.
        boundary: "sustained" as above; "identity" is the second method of appendix B, h_s+1 = f(LN[(I + A) h_s]).
        write: what is written into A. "state" as above; the other two occur in public reimplementations, and are
            provided to measure what they cost: "late" writes h(t) only after h(t+1) has been computed, and
            "preliminary" writes the preliminary state h_0(t+1) instead, immediately before the read. Neither has the
            hand-written kernels or the attention form.
        rule: the rule by which A is written, "hebbian" or "delta".
        association: "auto" if the state is its own key and value; "hetero" if both are learned projections of it.
        memory_size: M, rows and columns of A, with `association="hetero"`; None for H.
        gates: whether λ and η depend on the input; `decay` and `fast_lr` are then their initial values.
        nonlinearity: the nonlinearity f.
        recurrent_scale: W starts as this multiple of the identity.
        input_scale: C starts as this multiple of U(-1/sqrt(H), 1/sqrt(H)); with the random projections of a
            `memory_size`, the network learns only if the input dominates what is recalled.
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
        rule: Annotated[Literal["hebbian", "delta"], Neutral("hebbian")] = "hebbian",
        association: Annotated[Literal["auto", "hetero"], Neutral("auto")] = "auto",
        memory_size: Annotated[Annotated[int, Ge(1)] | None, Neutral(None)] = None,
        gates: Annotated[bool, Neutral(False)] = False,
        nonlinearity: Nonlinearity = "relu",
        recurrent_scale: float = 0.05,
        input_scale: Annotated[float, Gt(0), Neutral(1.0)] = 1.0,
        kernel: Kernel = "auto",
    ):
        super().__init__(input_size, hidden_size, kernel)
        if (layer_norm and num_inner_steps > 0) or layer_norm_preliminary:
            refuse_one_unit(hidden_size)
        self.decay = decay
        self.fast_lr = fast_lr
        self.num_inner_steps = num_inner_steps
        self.only_last_normalized = normalized == "last"
        self.sustained = boundary == "sustained"
        self.write = write
        self.rule = rule
        self.gates = gates
        self.nonlinearity = nonlinearity
        self.is_sum_over_states = (write, rule, association, gates) == ("state", "hebbian", "auto", False)

        self.input = nn.Linear(input_size, hidden_size, bias=not layer_norm)
        self.recurrent = nn.Linear(hidden_size, hidden_size, bias=False)
        self.norm = nn.LayerNorm(hidden_size) if layer_norm else nn.Identity()
        self.preliminary_norm = nn.LayerNorm(hidden_size) if layer_norm_preliminary else nn.Identity()

        self.recurrent_association = Association(hidden_size, memory_size, association == "hetero")
        if gates:
            if not 0 < decay < 1:
                raise ValueError(f"decay={decay}: must be above 0 and below 1 with gates=true")
            self.gate = nn.Linear(input_size, 2)
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)
            nn.init.constant_(self.gate.bias[:1], math.log(decay / (1 - decay)))

        learned = read_weights == "learned" and num_inner_steps > 1
        self.read_weights = nn.Parameter(torch.zeros(num_inner_steps - 1)) if learned else None

        uniform_fan_out_(self.input.weight).data.mul_(input_scale)
        if not layer_norm:
            nn.init.zeros_(self.input.bias)
        scaled_identity_(self.recurrent.weight, recurrent_scale)

    def project(self, x: Tensor) -> Tensor | GatedInput:
        """C x, plus a bias without layer norm; with gates also λ and η."""
        if not self.gates:
            return self.input(x)
        decay, rate = torch.sigmoid(self.gate(x)).split(1, dim=-1)
        return GatedInput(self.input(x), decay, 2 * self.fast_lr * rate)

    def initial_state(self, batch_size: int) -> FastWeightsState:
        """h = 0, A = 0."""
        size = self.recurrent_association.size
        return FastWeightsState(self.zeros(batch_size, self.hidden_size), self.zeros(batch_size, size, size))

    def step(self, p: Any, state: FastWeightsState) -> tuple[Tensor, FastWeightsState]:
        """One step of equations 1, 2 and 5 in the class docstring, or of what the settings put in their place."""
        h_BH, A_BHH = state
        p_BH, decay_B1, fast_lr = p if isinstance(p, GatedInput) else (p, None, self.fast_lr)
        decay = self.decay if decay_B1 is None else decay_B1[:, :, None]
        z_BH = self.recurrent(h_BH) + p_BH
        written_BH = self._preliminary(z_BH) if self.write == "preliminary" else h_BH
        next_A_BHH = self.recurrent_association.written(decay * A_BHH, written_BH, fast_lr, self.rule == "delta")
        read_A_BHH = A_BHH if self.write == "late" else next_A_BHH
        h_BH = self.settle(z_BH, lambda h_s_BH: self.recurrent_association.read(read_A_BHH, h_s_BH))
        return h_BH, FastWeightsState(h_BH, next_A_BHH)

    def _preliminary(self, z_BH: Tensor) -> Tensor:
        """The preliminary state h_0, from the boundary condition z."""
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
        """The forms of a whole sequence; by measurement, the matrix form is faster than `attend` for T > 2H."""
        size = self.hidden_size

        learned = any(isinstance(rate, Tensor) and rate.requires_grad for rate in (self.decay, self.fast_lr))
        by_hand = is_standard(self.norm) and is_standard(self.preliminary_norm) and not learned

        def attends(inputs: Inputs) -> bool:
            return self.is_sum_over_states and inputs.resets is None

        def on_cpu(inputs: Inputs) -> bool:
            return attends(inputs) and by_hand and calls.available(inputs)

        def on_gpu(inputs: Inputs) -> bool:
            as_in_paper = self.read_weights is None and not self.only_last_normalized
            return attends(inputs) and by_hand and as_in_paper and triton.available(inputs, size)

        def in_torch(inputs: Inputs) -> bool:
            return attends(inputs) and inputs.batch_and_time[1] <= 2 * size

        of_cpu = partial(fastweights, read_weights=self.read_weights, only_last_normalized=self.only_last_normalized)
        yield Form("fused", partial(self._fused, of_cpu, chunk_length(size)), on_cpu)
        yield Form("fused", partial(self._fused, triton.fastweights, triton.chunk_length(size)), on_gpu)
        yield Form("vectorized", plain(self.attend), in_torch)
        yield from super().forms()

    def attend(self, p_BTH: Tensor, state: FastWeightsState | None) -> tuple[Tensor, FastWeightsState]:
        """The attention form: equation 4 instead of equations 1 and 2."""
        h_BH, A_BHH = (self.zeros(p_BTH.shape[0], self.hidden_size), None) if state is None else state
        y_BTH, end = attend(p_BTH, h_BH, A_BHH, self.recurrent, self.settle, self.decay, self.fast_lr)
        return y_BTH, FastWeightsState(*end)

    def _fused(
        self,
        kernel: Callable[..., Tensor],
        chunk_length: int,
        inputs: Inputs,
        state: FastWeightsState | None,
        return_state: bool,
        return_sequence: bool,
    ) -> tuple[Tensor, FastWeightsState | None]:
        """Run a kernel chunk by chunk."""
        y_BTH, end = in_chunks(
            kernel,
            chunk_length,
            inputs,
            state,
            return_state,
            return_sequence,
            self.recurrent.weight,
            gain_and_bias(self.norm),
            gain_and_bias(self.preliminary_norm),
            nonlinearity=self.nonlinearity,
            num_inner_steps=self.num_inner_steps,
            sustained=self.sustained,
            decay=self.decay,
            fast_lr=self.fast_lr,
        )
        return y_BTH, None if end is None else FastWeightsState(*end)

    @torch.no_grad()
    def attention(self, p_BTH: Any) -> Tensor | None:
        """η λ^(t-τ) h(τ)ᵀ h_0: the weight of each state τ = 1 ... t in the first read of the last step, t = T-1."""
        if not self.is_sum_over_states or self.num_inner_steps == 0:  # nothing is read
            return None
        if p_BTH.shape[1] == 1:
            return p_BTH.new_zeros(p_BTH.shape[0], 0)
        past_BtH = self(p_BTH)[0][:, :-1]
        query_BH = self._preliminary(self.recurrent(past_BtH[:, -1]) + p_BTH[:, -1])
        weights_t = past_weights(past_BtH.shape[1], self.decay, self.fast_lr, past_BtH)
        return torch.einsum("bth,bh->bt", past_BtH, query_BH) * weights_t

    @torch.no_grad()
    def memory(self, p: Any) -> Tensor | None:
        """A as the last step reads it; with `write=late`, this is A before that step writes."""
        batch_size, num_steps = state_tensors(p)[0].shape[:2]
        if self.write == "late" and num_steps == 1:
            return self.initial_state(batch_size).A_BHH
        _, state = self(map_state(lambda tensor: tensor[:, :-1], p) if self.write == "late" else p)
        return state.A_BHH

    def flops(self, length: int) -> int:
        """As in `Core`; states and matrices that are read are used three times too."""
        size, products = self.hidden_size, 0
        if not self.is_sum_over_states:
            association = self.recurrent_association
            matrices = self.num_inner_steps + 1 + (self.rule == "delta")  # read, written, and read to be erased
            # every read multiplies by W_k and W_o; `Core` counts W_o once
            again = max(2 * self.num_inner_steps - 1, 0) * sum(w.numel() for w in association.output.parameters())
            return super().flops(length) + 2 * 3 * (length * matrices * association.size**2 + (length - 1) * again)
        chunk = chunk_length(size)
        for start in range(0, length, chunk):
            steps, carried = min(chunk, length - start), start > 0  # carried: A of earlier chunks is read
            states = steps * (steps - 1) // 2 + carried * steps  # summed over the steps of the chunk
            reading = 2 * states * size + carried * steps * size**2
            writing = (steps - 1 + carried) * size**2 if start + steps < length else 0
            products += self.num_inner_steps * reading + writing
        return super().flops(length) + 2 * 3 * products
