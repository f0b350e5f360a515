"""The layer around a linear recurrence, shared by most cores: queries, keys, values, norm and gate of the outputs.

Shapes: B sequences, T time steps, X input features, H heads, K key features, V value features, C channels of queries,
keys and values, W steps of a window, G numbers from which gates are computed, D outputs.
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
    """The contribution of the input."""

    channels_C: Tensor
    """Queries, keys and values of all heads, before the convolution."""
    gates_G: Tensor | None
    """The numbers from which the gates are computed."""
    output_gate: Tensor | None
    """The output gate before its nonlinearity, [..., H V]."""


class LinearState(NamedTuple):
    """The memory of every head, and the inputs of the last steps, which the convolution still needs."""

    S_BHKV: Tensor
    window_BWC: Tensor


class LinearCore(MemoryCore):
    r"""A layer around a linear recurrence; a subclass defines its w, a, b, k, v and q in `terms`.

        q, k, v  = W x                           for H heads, without a bias
        q, k, v  = SiLU(convolution(q, k, v))    causal, each channel with its own weights over the last steps
        S_t      = Diag(w_t) S_{t-1} + a_t (b_tᵀ S_{t-1}) + k_t v_tᵀ          for every head
        y_t      = W_o (RMSNorm(S_tᵀ q_t) ⊙ SiLU(W_g x_t))                    a norm for every head, an optional gate

    Weights have torch's default initialization, unless a cell says otherwise.

    Args:
        input_size: number of input features, X.
        hidden_size: number of output features, D.
        num_heads: number of heads, H.
        key_size: features per query and key, K; None for D / H, rounded down, at least 1.
        value_size: features per value, V, 2 or more, since the outputs are normalized; None for D / H likewise.
        conv_size: steps spanned by the convolution; 0 for neither convolution nor SiLU.
        output_gate: whether there is an output gate.
        learned_start: see `MemoryCore`.
        chunk_size: see `MemoryCore`.
        kernel: see `Core`.
        gates: maps the input to the numbers from which the gates are computed; None for no gates.
        num_products: see `MemoryCore`.
        num_writes: number of keys and values per head and step.
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
        """The terms of the recurrence, from queries and keys [B, T, H, K], values [B, T, H, V] and gates [B, T, G]."""

    def read_out(self, o_BTHV: Tensor, terms: Any) -> Tensor:
        """The outputs of the heads before their norm, from what the queries read; by default they are the same."""
        return o_BTHV

    def make_norm(self) -> nn.Module:
        """The norm of the outputs of a head."""
        return nn.RMSNorm(self.value_size, eps=1e-5)

    def gate(self, gate: Tensor) -> Tensor:
        """Apply the nonlinearity of the output gate."""
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
        """The inputs of the convolution before the first step: zeros."""
        width = 0 if self.conv_CL is None else self.conv_CL.shape[1] - 1
        return self.zeros(batch_size, width, sum(self.channels))

    def sequence(
        self, recurrence: Recurrence, p: LinearInput, state: Any, resets_BT: Tensor | None, only_last: bool
    ) -> tuple[Tensor, Any]:
        """The equations in the class docstring."""
        q, k, v, window_BWC = self.heads(p.channels_C, state.window_BWC, resets_BT)
        terms = self.terms(q, k, v, p.gates_G)
        o_BTHV, S_BHKV = self.recur(recurrence, terms, state.S_BHKV, resets_BT)
        return self.mix(self.read_out(o_BTHV, terms), p.output_gate, only_last), LinearState(S_BHKV, window_BWC)

    def heads(
        self, channels_BTC: Tensor, window_BWC: Tensor, resets_BT: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys and values by head, after the convolution, and the window after the last step.

        All are converted to the precision of the weights, since under autocast the convolution returns another one.
        """
        dtype = self.output.weight.dtype
        channels_BTC = channels_BTC.to(dtype)
        if self.conv_CL is not None:
            channels_BTC, window_BWC = short_convolution(channels_BTC, window_BWC, self.conv_CL, resets_BT)
            channels_BTC = functional.silu(channels_BTC).to(dtype)
        return *self.parts(channels_BTC), window_BWC

    def parts(self, channels_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split channels into queries, keys and values by head, for any number of steps."""
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)) for part in channels_C.split(self.channels, dim=-1))
        return q, k, v

    def mix(self, o_BTHV: Tensor, gate: Tensor | None, only_last: bool) -> Tensor:
        """Compute the outputs of the layer from the outputs of its heads."""
        if only_last:
            o_BTHV, gate = o_BTHV[:, -1:], None if gate is None else gate[:, -1:]
        y = self.norm(o_BTHV.to(self.output.weight.dtype)).flatten(-2)
        return self.output(y if gate is None else y * self.gate(gate))


def head_sizes(key_size: int | None, value_size: int | None, hidden_size: int, num_heads: int) -> tuple[int, int]:
    """The sizes of a key and of a value, see `head_size`."""
    return head_size(key_size, hidden_size, num_heads), head_size(value_size, hidden_size, num_heads)


def head_size(size: int | None, hidden_size: int, num_heads: int) -> int:
    """The given size, or if it is None, the share of the hidden size that falls to one head."""
    return size or max(1, hidden_size // num_heads)


def need_two_features(setting: str, size: int | None, hidden_size: int, num_heads: int) -> None:
    """Check that a norm or softmax acts on two features or more, since it leaves at most the sign of a single one.

    Raises:
        ValueError: `setting`, "key_size" or "value_size", is 1, or the share of the hidden size in its place is.
    """
    if head_size(size, hidden_size, num_heads) > 1:
        return
    if size is not None:
        raise ValueError(f"{setting}={size}: must be 2 or more, since normalizing one feature leaves at most its sign")
    of = setting.removesuffix("_size")
    if num_heads == 1:
        raise ValueError(f"hidden_size={hidden_size}: must give each {of} 2 or more features")
    raise ValueError(f"num_heads={num_heads}: must leave each {of} 2 or more features (hidden_size={hidden_size})")
