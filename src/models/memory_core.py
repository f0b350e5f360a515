"""What the cores with a linear recurrence share: its forms, its start and its sizes.

Shapes: B sequences, T time steps, H heads, K rows and V columns of a memory, D outputs.
"""

from abc import abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from src.models.base import Core
from src.ops.cpu.linear_recurrence import available, linear_recurrence
from src.ops.dispatch import Form, Kernel
from src.ops.inputs import Inputs
from src.ops.linear_recurrence import DeltaTerms, Recurrence, Terms, chunked, in_full_precision, scan
from src.specs import map_state


class MemoryCore(Core):
    r"""A core with a matrix S for every head, which changes linearly from step to step.

        S_t = Diag(w_t) S_{t-1} + a_t (b_tᵀ S_{t-1}) + k_t v_tᵀ,    o_t = S_tᵀ q_t

    w, a, b, k, v and q depend on the inputs, not on S, so that whole sequences can be computed at once; see
    `src.ops.linear_recurrence`. A subclass defines `sequence`, in terms of a form of this recurrence.

    Args:
        input_size: features X of one input vector.
        hidden_size: outputs D.
        num_heads: H.
        memory_size: rows and columns of S.
        num_products: products with S in a step: read, write, and erase if it does.
        learned_start: whether S_0 is learned, from N(0, 1/K), or 0.
        chunk_size: steps of a chunk of the form in plain PyTorch.
        kernel: see `Core`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_heads: int,
        memory_size: tuple[int, int],
        num_products: int,
        learned_start: bool,
        chunk_size: int,
        kernel: Kernel,
    ):
        super().__init__(input_size, hidden_size, kernel)
        self.num_heads = num_heads
        self.memory_size = memory_size
        self.num_products = num_products
        self.chunk_size = chunk_size
        self.start_HKV = None
        if learned_start:
            self.start_HKV = nn.Parameter(torch.randn(num_heads, *memory_size) * memory_size[0] ** -0.5)

    @abstractmethod
    def sequence(
        self, recurrence: Recurrence, p: Any, state: Any, resets_BT: Tensor | None, only_last: bool
    ) -> tuple[Tensor, Any]:
        """Any number of steps: the outputs of all of them [B, T, D], or of the last one [B, 1, D], and the state."""

    def start(self, batch_size: int) -> Tensor:
        """S_0 [B, H, K, V], a copy: a state that is carried on must not change with the weights."""
        if self.start_HKV is None:
            return self.zeros(batch_size, self.num_heads, *self.memory_size)
        return self.start_HKV.expand(batch_size, *self.start_HKV.shape).clone()

    def step(self, p: Any, state: Any) -> tuple[Tensor, Any]:
        """A sequence of one step, with the recurrence as it is defined."""
        y_B1D, state = self.sequence(scan, map_state(lambda tensor: tensor[:, None], p), state, None, False)
        return y_B1D[:, 0], state

    def recur(
        self, recurrence: Recurrence, terms: Terms | DeltaTerms, S_BHKV: Tensor, resets_BT: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The recurrence, with the start of a sequence after a reset."""
        start_BHKV = None if resets_BT is None else self.start(len(S_BHKV))
        return in_full_precision(recurrence, terms, S_BHKV, resets_BT, start_BHKV)

    def forms(self) -> Iterator[Form]:
        """A kernel for all of them, written by hand; none is generated from the step."""

        def on_cpu(inputs: Inputs) -> bool:
            return available(next(self.parameters()))

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
        """The matrices of all heads after the last step, one below the other."""
        _, state = self(p)
        return state.S_BHKV.flatten(1, 2)

    def flops(self, length: int) -> int:
        """As in `Core`, of the products with S."""
        rows, columns = self.memory_size
        return 2 * 3 * length * self.num_heads * rows * columns * self.num_products
