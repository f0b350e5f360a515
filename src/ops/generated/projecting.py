"""The projection of the inputs inside the kernel, so that the projected inputs of a long sequence need no memory.

Shapes: B sequences, T time steps, X input features, P projected features.
"""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import optree
import torch
from torch import Tensor, nn

from src.ops.cpu import calls
from src.ops.dispatch import Form
from src.ops.generated.form import generated_form, is_generated
from src.ops.inputs import Inputs
from src.specs import State

LARGE = 2**19
"""Size of the projected inputs, in bytes, from which they are computed step by step. Measured: fresh memory is slow."""
FEW = 4
"""If P is less than this many times X, they are not: little memory is saved, and a single large product is faster."""


class Projecting(nn.Module):
    """The recurrence of a core on inputs before projection: each step projects one input, then runs the core's step.

    Outside a kernel, the projected inputs [B, T, P] and their gradient are each written and read once. For pixels,
    where one feature becomes four hundred for an LSTM of 100 units, that costs more than the recurrence.

    Args:
        core: the core, whose parameters are used.
    """

    def __init__(self, core: Any):
        super().__init__()
        self.core = core
        self.input_size = core.input_size

    @property
    def kernel(self) -> str:
        """The fastest form that may be used, as in the core."""
        return self.core.kernel

    @cached_property
    def num_projected(self) -> int:
        """P, the projected features of one input."""
        with torch.no_grad():
            x_X = next(self.core.parameters()).new_zeros(self.input_size)
            return sum(tensor.numel() for tensor in optree.tree_leaves(self.core.project(x_X)))

    def serves(self, x_BTX: Tensor) -> bool:
        """Whether a kernel can compute these inputs, and is faster than one that starts from projected ones."""
        if self.kernel not in ("auto", "fused") or not calls.available(x_BTX):
            return False
        by_itself = next((form for form in self.core.forms() if form.kernel == "fused"), None)
        if by_itself is None or not is_generated(by_itself):
            return False
        batch, time, features = x_BTX.shape
        room = batch * time * self.num_projected * x_BTX.element_size()
        if room < LARGE or self.num_projected < FEW * features:
            return False
        return generated_form(self).serves(Inputs(x_BTX))

    def forward(
        self, inputs: Inputs, state: State | None, return_state: bool, return_sequence: bool
    ) -> tuple[Tensor, State | None]:
        """Compute a sequence, like the `compute` of a `Form`."""
        return generated_form(self).compute(inputs, state, return_state, return_sequence)

    def forms(self) -> Iterable[Form]:
        """The forms of the core: where it is faster without a kernel, so is this recurrence."""
        return self.core.forms()

    def project(self, x: Tensor) -> Tensor:
        """The identity."""
        return x

    def initial_state(self, batch_size: int) -> State:
        """The initial state of the core."""
        return self.core.initial_state(batch_size)

    def step(self, x_BX: Tensor, state: State) -> tuple[Tensor, State]:
        """A step of the core, after projecting its input."""
        return self.core.step(self.core.project(x_BX), state)

    def scan(self, x_BTX: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """What the kernel is compared with: the scan of the core over projected inputs."""
        return self.core.scan(self.core.project(x_BTX), state)
