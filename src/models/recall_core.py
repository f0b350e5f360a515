"""The base class of cores whose memory is not a linear recurrence: the layer of `LinearCore` around their own step.

Shapes: B sequences, T time steps, H heads, K key features, V value features, G gates of all heads.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from src.models.linear_core import LinearCore, LinearInput
from src.ops.dispatch import Form, everything
from src.ops.generated.form import generated_form
from src.ops.inputs import Inputs
from src.ops.linear_recurrence import Terms
from src.ops.precision import without_autocast


class RecallState(NamedTuple):
    """The memory of every head, whatever it consists of, and the inputs that the convolution still needs."""

    memory: Any
    window_BWC: Any
    """None without a convolution."""


class RecallCore(LinearCore, ABC):
    """The layer of `LinearCore` around a memory that a subclass defines by one step, `recall`.

        q, k, v         as in `LinearCore`
        o_t, memory_t   = recall(q_t, k_t, v_t, gates_t, memory_{t-1})
        y_t             = W_o (RMSNorm(o_t) ⊙ SiLU(W_g x_t))                  a norm for every head, an optional gate

    On a CPU the fastest form is the kernel generated from the step, if one can be generated. A subclass with a form of
    whole sequences in plain PyTorch that is faster than the scan overrides `recall_all`.
    """

    serves = staticmethod(everything)
    """Whether `recall_all` can compute given inputs."""

    @abstractmethod
    def empty(self, batch_size: int) -> Any:
        """The memory before the first step: tensors, batch first, in a named tuple."""

    @abstractmethod
    def recall(self, q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, gates_BG: Any, memory: Any) -> tuple[Tensor, Any]:
        """One step: what is read [B, H, V], and the next memory."""

    recall_all: Any = None
    """(q, k, v, gates, memory, resets, is_empty) -> what is read at all steps [B, T, H, V], and the next memory.

    `is_empty` says whether the memory is the one before the first step. None if there is no such form."""

    def recall_each(self, q: Tensor, k: Tensor, v: Tensor, gates: Any, memory: Any) -> tuple[Tensor, Any]:
        """All steps, one after another, by `recall`."""
        outputs = []
        for t in range(q.shape[1]):
            o_BHV, memory = self.recall(q[:, t], k[:, t], v[:, t], None if gates is None else gates[:, t], memory)
            outputs.append(o_BHV)
        return torch.stack(outputs, dim=1), memory

    def initial_state(self, batch_size: int) -> RecallState:
        """The empty memory, and a window of zeros."""
        return RecallState(self.empty(batch_size), None if self.conv_CL is None else self.empty_window(batch_size))

    def step(self, p: LinearInput, state: RecallState) -> tuple[Tensor, RecallState]:
        """One step of the equations in the class docstring, in which `recall` reads and writes the memory."""
        channels_BC, window_BWC = p.channels_C, state.window_BWC
        if self.conv_CL is not None:
            seen_BLC = torch.cat([window_BWC, channels_BC[:, None]], dim=1)
            channels_BC, window_BWC = functional.silu((seen_BLC * self.conv_CL.t()).sum(1)), seen_BLC[:, 1:]
        o_BHV, memory = self.recall(*self.parts(channels_BC), p.gates_G, state.memory)
        gate = None if p.output_gate is None else p.output_gate[:, None]
        return self.mix(o_BHV[:, None], gate, False)[:, 0], RecallState(memory, window_BWC)

    def _compute(
        self, recurrence: Any, inputs: Inputs, state: Any, return_state: bool, return_sequence: bool
    ) -> tuple[Tensor, Any]:
        return super()._compute(
            partial(recurrence, is_empty=state is None), inputs, state, return_state, return_sequence
        )

    def sequence(
        self, recurrence: Any, p: LinearInput, state: Any, resets_BT: Tensor | None, only_last: bool
    ) -> tuple[Tensor, Any]:
        """All steps, computed by `recurrence`, which is `recall_all`."""
        q, k, v, window_BWC = self.heads(p.channels_C, state.window_BWC, resets_BT)
        with without_autocast(q):
            gates = None if p.gates_G is None else p.gates_G.to(q.dtype)
            o_BTHV, memory = recurrence(q, k, v, gates, state.memory, resets_BT)
        return self.mix(o_BTHV, p.output_gate, only_last), RecallState(memory, window_BWC)

    def terms(self, q: Tensor, k: Tensor, v: Tensor, gates: Any) -> Terms:
        """Not implemented, since the memory is not a linear recurrence."""
        raise NotImplementedError

    def forms(self) -> Iterator[Form]:
        yield generated_form(self)
        if self.recall_all is not None:
            yield Form("vectorized", partial(self._compute, self.recall_all), self.serves)
        yield Form("reference", self._scanned)

    @torch.no_grad()
    def memory(self, p: Any) -> Tensor | None:
        """The first matrix of every head after the last step, one below the other."""
        return self(p)[1].memory[0].flatten(1, 2)
