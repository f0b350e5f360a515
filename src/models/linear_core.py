"""What the recurrent cores with a linear recurrence share: everything around it.

Shapes: B sequences, T time steps, X input features, H heads, K key features, V value features, C = H (2K + V) channels
of queries, keys and values, W steps of a window, D outputs.
"""

from abc import abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from src.models.base import Core
from src.models.linear_parts import EPSILON, short_convolution
from src.ops.cpu import calls
from src.ops.cpu.linear_recurrence import linear_recurrence
from src.ops.dispatch import Form, Kernel
from src.ops.inputs import Inputs
from src.ops.linear_recurrence import Recurrence, Terms, chunked, scan


class LinearInput(NamedTuple):
    """What the input contributes."""

    channels_C: Tensor
    """Queries, keys and values of all heads, before the convolution."""
    gates_G: Tensor | None
    """What the gates are made of."""
    output_gate: Tensor | None
    """The output gate before its nonlinearity, [..., H V]."""


class LinearState(NamedTuple):
    """The memory of every head, and the inputs of the last steps, which the convolution still needs."""

    S_BHKV: Tensor
    window_BWC: Tensor


class LinearCore(Core):
    r"""A layer around a linear recurrence; a subclass says in `terms` what its w, a, b, k, v and q are.

        q, k, v  = W x                           of H heads, no bias
        q, k, v  = SiLU(convolution(q, k, v))    causal, each channel with its own weights over the last steps
        S_t      = Diag(w_t) S_{t-1} + a_t (b_tᵀ S_{t-1}) + k_t v_tᵀ          of every head
        y_t      = W_o (RMSNorm(S_tᵀ q_t) ⊙ SiLU(W_g x_t))                    the norm of every head, the gate if wanted

    See `src.ops.linear_recurrence` for the recurrence. Weights and biases are drawn from torch's default, unless a cell
    says otherwise.

    Args:
        input_size: features X of one input vector.
        hidden_size: outputs D.
        num_heads: H.
        key_size: features of a query and a key of one head; None for D / H, rounded down, at least 1.
        value_size: features of a value of one head; None for the same.
        conv_size: steps that the convolution sees; 0 for none, and no SiLU.
        output_gate: whether there is an output gate.
        learned_start: whether S_0 is learned, from N(0, 1/K), or 0.
        chunk_size: steps of a chunk of the form in plain PyTorch.
        gates: makes what the gates are made of from the input.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_heads: int,
        key_size: int | None,
        value_size: int | None,
        conv_size: int,
        output_gate: bool,
        learned_start: bool,
        chunk_size: int,
        gates: nn.Module | None = None,
        kernel: Kernel = "auto",
    ):
        super().__init__(input_size, hidden_size, kernel)
        self.num_heads = num_heads
        self.key_size = key_size or max(1, hidden_size // num_heads)
        self.value_size = value_size or max(1, hidden_size // num_heads)
        self.chunk_size = chunk_size
        self.sizes = [self.num_heads * size for size in self._channel_sizes()]
        channels, values = sum(self.sizes), num_heads * self.value_size

        self.input = nn.Linear(input_size, channels + (values if output_gate else 0), bias=False)
        self.gates = gates
        self.conv_CL = None
        if conv_size > 0:
            self.conv_CL = nn.Parameter(torch.empty(channels, conv_size).uniform_(-1, 1) * conv_size**-0.5)
        self.norm = self._norm()
        self.output = nn.Linear(values, hidden_size, bias=False)
        self.start_HKV = None
        if learned_start:
            self.start_HKV = nn.Parameter(torch.randn(num_heads, *self.memory_size) * self.memory_size[0] ** -0.5)

    @abstractmethod
    def terms(self, q: Tensor, k: Tensor, v: Tensor, gates: Any) -> Terms:
        """What enters the recurrence, from queries and keys [B, T, H, K], values [B, T, H, V] and gates [B, T, G]."""

    def read_out(self, o_BTHV: Tensor) -> Tensor:
        """The outputs of the heads before their norm, from what the queries read: the same."""
        return o_BTHV

    @property
    def memory_size(self) -> tuple[int, int]:
        """Rows and columns of S: K and V, unless a cell says otherwise."""
        return self.key_size, self.value_size

    def _channel_sizes(self) -> tuple[int, ...]:
        """Sizes of query, key and value of a head."""
        return self.key_size, self.key_size, self.value_size

    def _norm(self) -> nn.Module:
        return nn.RMSNorm(self.value_size, eps=EPSILON)

    def gate(self, gate: Tensor) -> Tensor:
        """The nonlinearity of the output gate."""
        return functional.silu(gate)

    def project(self, x: Tensor) -> LinearInput:
        """Queries, keys and values of all heads, and gates."""
        mixed, size = self.input(x), sum(self.sizes)
        gate = None if mixed.shape[-1] == size else mixed[..., size:]
        return LinearInput(mixed[..., :size], None if self.gates is None else self.gates(x), gate)

    def initial_state(self, batch_size: int) -> LinearState:
        """S = S_0, and a window of zeros."""
        return LinearState(self._start(batch_size), self._empty_window(batch_size))

    def _start(self, batch_size: int) -> Tensor:
        if self.start_HKV is None:
            return self.zeros(batch_size, self.num_heads, *self.memory_size)
        return self.start_HKV.expand(batch_size, *self.start_HKV.shape)

    def _empty_window(self, batch_size: int) -> Tensor:
        width = 0 if self.conv_CL is None else self.conv_CL.shape[1] - 1
        return self.zeros(batch_size, width, sum(self.sizes))

    def step(self, p: Any, state: Any) -> tuple[Tensor, Any]:
        """One step of the equations above."""
        p = type(p)(*(None if tensor is None else tensor[:, None] for tensor in p))
        y_B1D, state = self.sequence(scan, p, state, None, False)
        return y_B1D[:, 0], state

    def sequence(
        self, recurrence: Recurrence, p: LinearInput, state: LinearState, resets_BT: Tensor | None, only_last: bool
    ) -> tuple[Tensor, LinearState]:
        """The equations above over any number of steps; the outputs of all of them, or of the last one [B, 1, D]."""
        q, k, v, window_BWC = self.heads(p.channels_C, state.window_BWC, resets_BT)
        terms = self.terms(q, k, v, p.gates_G)
        o_BTHV, S_BHKV = self.recur(recurrence, terms, state.S_BHKV, resets_BT)
        return self.mixed(self.read_out(o_BTHV), p.output_gate, only_last), LinearState(S_BHKV, window_BWC)

    def heads(
        self, channels_BTC: Tensor, window_BWC: Tensor, resets_BT: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys and values by head, after the convolution, and its window after the last step."""
        if self.conv_CL is not None:
            channels_BTC, window_BWC = short_convolution(
                channels_BTC.to(window_BWC.dtype), window_BWC, self.conv_CL, resets_BT
            )
            channels_BTC = functional.silu(channels_BTC)
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)) for part in channels_BTC.split(self.sizes, dim=-1))
        return q, k, v, window_BWC

    def recur(
        self, recurrence: Recurrence, terms: Terms, S_BHKV: Tensor, resets_BT: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The recurrence in the precision of its state, whatever autocast says."""
        terms = Terms(*(None if term is None else term.to(S_BHKV.dtype) for term in terms))  # type: ignore[arg-type]
        start_BHKV = None if resets_BT is None else self._start(len(S_BHKV))
        with torch.autocast(S_BHKV.device.type, enabled=False):
            return recurrence(terms, S_BHKV, resets_BT, start_BHKV)

    def mixed(self, o_BTHV: Tensor, gate: Tensor | None, only_last: bool) -> Tensor:
        """The outputs of the layer from those of its heads."""
        if only_last:
            o_BTHV, gate = o_BTHV[:, -1:], None if gate is None else gate[:, -1:]
        y = self.norm(o_BTHV).flatten(-2)
        return self.output(y if gate is None else y * self.gate(gate))

    def forms(self) -> Iterator[Form]:
        def on_cpu(inputs: Inputs) -> bool:
            return calls.available(self.output.weight)

        yield Form("fused", partial(self._compute, linear_recurrence), on_cpu)
        yield Form("vectorized", partial(self._compute, partial(chunked, chunk_size=self.chunk_size)))
        yield Form("reference", self._scanned)

    def _compute(
        self, recurrence: Recurrence, inputs: Inputs, state: Any, return_state: bool, return_sequence: bool
    ) -> tuple[Tensor, Any]:
        state = self.initial_state(inputs.batch_and_time[0]) if state is None else state
        y_BTD, state = self.sequence(recurrence, inputs.vectors, state, inputs.resets, not return_sequence)
        return (y_BTD if return_sequence else y_BTD[:, -1]), state

    @torch.no_grad()
    def memory(self, p: Any) -> Tensor | None:
        """The matrices of all heads at the last step, one below the other."""
        return self(p)[1].S_BHKV.flatten(1, 2)

    def flops(self, length: int) -> int:
        """As in `Core`, of the recurrence: S is written, read, and read once more for what is erased."""
        rows, columns = self.memory_size
        return 2 * 3 * length * self.num_heads * rows * columns * self.products_per_step

    products_per_step = 2
    """Products with S in a step, read and write."""
