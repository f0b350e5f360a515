"""The layer around a linear recurrence that most cores share: queries, keys and values, norm and gate of the outputs.

Shapes: B sequences, T time steps, X input features, H heads, K key features, V value features, C channels of queries,
keys and values, W steps of a window, G numbers that gates are made of, D outputs.
"""

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from src.models.linear_parts import short_convolution
from src.models.memory_core import MemoryCore
from src.ops.dispatch import Kernel
from src.ops.linear_recurrence import DeltaTerms, Recurrence, Terms


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


class LinearCore(MemoryCore):
    r"""A layer around a linear recurrence; a subclass says in `terms` what its w, a, b, k, v and q are.

        q, k, v  = W x                           of H heads, no bias
        q, k, v  = SiLU(convolution(q, k, v))    causal, each channel with its own weights over the last steps
        S_t      = Diag(w_t) S_{t-1} + a_t (b_tᵀ S_{t-1}) + k_t v_tᵀ          of every head
        y_t      = W_o (RMSNorm(S_tᵀ q_t) ⊙ SiLU(W_g x_t))                    the norm of every head, the gate if wanted

    Weights are drawn from torch's default, unless a cell says otherwise.

    Args:
        input_size: features X of one input vector.
        hidden_size: outputs D.
        num_heads: H.
        key_size: K; None for D / H, rounded down, at least 1.
        value_size: V, 2 or more, since it is normalized; None for the same.
        conv_size: steps that the convolution sees; 0 for none, and no SiLU.
        output_gate: whether there is an output gate.
        learned_start: see `MemoryCore`.
        chunk_size: see `MemoryCore`.
        kernel: see `Core`.
        gates: makes what the gates are made of from the input; None for no gates.
        num_products: see `MemoryCore`.
        num_writes: keys and values of a step.
        memory_size: rows and columns of S; None for K and V.
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
        kernel: Kernel,
        gates: nn.Module | None = None,
        num_products: int = 2,
        num_writes: int = 1,
        memory_size: tuple[int, int] | None = None,
    ):
        need_two_features("value_size", value_size, hidden_size, num_heads)
        key_size, value_size = head_sizes(key_size, value_size, hidden_size, num_heads)
        super().__init__(
            input_size,
            hidden_size,
            num_heads=num_heads,
            memory_size=memory_size or (key_size, value_size),
            num_products=num_products,
            learned_start=learned_start,
            chunk_size=chunk_size,
            kernel=kernel,
        )
        self.key_size, self.value_size = key_size, value_size
        sizes = key_size, num_writes * key_size, num_writes * value_size
        self.channels = tuple(num_heads * size for size in sizes)
        self.has_output_gate = output_gate
        outputs = num_heads * value_size
        self.input = nn.Linear(input_size, sum(self.channels) + outputs * output_gate, bias=False)
        self.gates = gates
        self.conv_CL = None
        if conv_size > 0:
            self.conv_CL = nn.Parameter(torch.empty(sum(self.channels), conv_size).uniform_(-1, 1) * conv_size**-0.5)
        self.norm = self.make_norm()
        self.output = nn.Linear(outputs, hidden_size, bias=False)

    @abstractmethod
    def terms(self, q: Tensor, k: Tensor, v: Tensor, gates: Any) -> Terms | DeltaTerms:
        """What enters the recurrence, from queries and keys [B, T, H, K], values [B, T, H, V] and gates [B, T, G]."""

    def read_out(self, o_BTHV: Tensor, terms: Any) -> Tensor:
        """The outputs of the heads before their norm, from what the queries read: the same."""
        return o_BTHV

    def make_norm(self) -> nn.Module:
        """The norm of the outputs of a head."""
        return nn.RMSNorm(self.value_size, eps=1e-5)

    def gate(self, gate: Tensor) -> Tensor:
        """The nonlinearity of the output gate."""
        return functional.silu(gate)

    def project(self, x: Tensor) -> LinearInput:
        """Queries, keys and values of all heads, and gates."""
        channels, gate = self.input(x), None
        if self.has_output_gate:
            channels, gate = channels.split([sum(self.channels), self.input.out_features - sum(self.channels)], dim=-1)
        return LinearInput(channels, None if self.gates is None else self.gates(x), gate)

    def initial_state(self, batch_size: int) -> Any:
        """S = S_0, and a window of zeros."""
        return LinearState(self.start(batch_size), self.empty_window(batch_size))

    def empty_window(self, batch_size: int) -> Tensor:
        """The inputs before the first step: zeros."""
        width = 0 if self.conv_CL is None else self.conv_CL.shape[1] - 1
        return self.zeros(batch_size, width, sum(self.channels))

    def sequence(
        self, recurrence: Recurrence, p: LinearInput, state: Any, resets_BT: Tensor | None, only_last: bool
    ) -> tuple[Tensor, Any]:
        """The equations above."""
        q, k, v, window_BWC = self.heads(p.channels_C, state.window_BWC, resets_BT)
        terms = self.terms(q, k, v, p.gates_G)
        o_BTHV, S_BHKV = self.recur(recurrence, terms, state.S_BHKV, resets_BT)
        return self.mix(self.read_out(o_BTHV, terms), p.output_gate, only_last), LinearState(S_BHKV, window_BWC)

    def heads(
        self, channels_BTC: Tensor, window_BWC: Tensor, resets_BT: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys and values by head, after the convolution, and its window after the last step.

        All are in the precision of the weights, since autocast leaves what the convolution returns in another.
        """
        dtype = self.output.weight.dtype
        channels_BTC = channels_BTC.to(dtype)
        if self.conv_CL is not None:
            channels_BTC, window_BWC = short_convolution(channels_BTC, window_BWC, self.conv_CL, resets_BT)
            channels_BTC = functional.silu(channels_BTC).to(dtype)
        return *self.parts(channels_BTC), window_BWC

    def parts(self, channels_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values by head, of any number of steps."""
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)) for part in channels_C.split(self.channels, dim=-1))
        return q, k, v

    def mix(self, o_BTHV: Tensor, gate: Tensor | None, only_last: bool) -> Tensor:
        """The outputs of the layer from those of its heads."""
        if only_last:
            o_BTHV, gate = o_BTHV[:, -1:], None if gate is None else gate[:, -1:]
        y = self.norm(o_BTHV.to(self.output.weight.dtype)).flatten(-2)
        return self.output(y if gate is None else y * self.gate(gate))


def head_sizes(key_size: int | None, value_size: int | None, hidden_size: int, num_heads: int) -> tuple[int, int]:
    """Of a key and of a value, as `head_size`."""
    return head_size(key_size, hidden_size, num_heads), head_size(value_size, hidden_size, num_heads)


def head_size(size: int | None, hidden_size: int, num_heads: int) -> int:
    """The given size, or the share of a head in the hidden size."""
    return size or max(1, hidden_size // num_heads)


def need_two_features(setting: str, size: int | None, hidden_size: int, num_heads: int) -> None:
    """Check the size of a head whose norm or softmax would leave no more of one feature than its sign.

    Raises:
        ValueError: `setting`, "key_size" or "value_size", or the share of a head that stands for it, is 1.
    """
    if head_size(size, hidden_size, num_heads) > 1:
        return
    if size is not None:
        raise ValueError(f"{setting}={size}: must be 2 or more, since normalizing one feature leaves its sign at most")
    of = setting.removesuffix("_size")
    if num_heads == 1:
        raise ValueError(f"hidden_size={hidden_size}: must leave 2 or more features of a {of}")
    raise ValueError(f"num_heads={num_heads}: must leave 2 or more features of a {of} (hidden_size={hidden_size})")
