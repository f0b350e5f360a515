"""The base class of cores with a linear recurrence: its forms, its initial state and its sizes.

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
    r"""A core with a matrix S for every head, updated by a linear recurrence.

        S_t = Diag(w_t) S_{t-1} + a_t (b_tᵀ S_{t-1}) + k_t v_tᵀ,    o_t = S_tᵀ q_t

    w, a, b, k, v and q depend on the inputs but not on S, so whole sequences can be computed at once; see
    `src.ops.linear_recurrence`. A subclass defines `sequence`, which takes a form of this recurrence as an argument.

    Args:
        input_size: number of input features, X.
        hidden_size: number of output features, D.
        num_heads: number of heads, H.
        memory_size: rows and columns of S.
        num_products: number of products with S per step: to read, to write and, if the core does, to erase.
        learned_start: whether S_0 is learned, starting from N(0, 1/K); otherwise it is 0.
        chunk_size: steps per chunk in the plain PyTorch form.
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
        """Any number of steps: the outputs of all steps [B, T, D], or of the last one [B, 1, D], and the state."""

    def start(self, batch_size: int) -> Tensor:
        """A copy of S_0 [B, H, K, V]: a state that is carried over must not change when the weights do."""
        if self.start_HKV is None:
            return self.zeros(batch_size, self.num_heads, *self.memory_size)
        return self.start_HKV.expand(batch_size, *self.start_HKV.shape).clone()

    def step(self, p: Any, state: Any) -> tuple[Tensor, Any]:
        """One step: a sequence of length 1, computed by `scan`, the definition of the recurrence."""
        y_B1D, state = self.sequence(scan, map_state(lambda tensor: tensor[:, None], p), state, None, False)
        return y_B1D[:, 0], state

    def recur(
        self, recurrence: Recurrence, terms: Terms | DeltaTerms, S_BHKV: Tensor, resets_BT: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Run the recurrence, which starts from S_0 again after a reset."""
        start_BHKV = None if resets_BT is None else self.start(len(S_BHKV))
        return in_full_precision(recurrence, terms, S_BHKV, resets_BT, start_BHKV)

    def forms(self) -> Iterator[Form]:
        """One hand-written kernel serves all of these cores; none is generated from the step."""

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
        """The operations of the products with S, counted as in `Core`."""
        rows, columns = self.memory_size
        return 2 * 3 * length * self.num_heads * rows * columns * self.num_products
