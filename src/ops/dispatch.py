"""Chooses the form that computes a sequence.

A core has several forms of the same recurrence. Each says which inputs it serves, and `choose` takes the fastest one
that serves the given inputs. No other code in the project makes this choice.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

from torch import Tensor

from src.ops.inputs import Inputs
from src.specs import State

Kernel = Literal["auto", "fused", "vectorized", "reference"]
FASTEST_FIRST: tuple[Kernel, ...] = ("fused", "vectorized", "reference")

Compute = Callable[[Inputs, State | None, bool, bool], tuple[Tensor, State | None]]
"""(inputs, initial state, return_state, return_sequence) -> (outputs [B, T, H], or the last one [B, H], state).

Without `return_state`, the state may be None."""


def everything(inputs: Inputs) -> bool:
    """The `serves` of a form that accepts any inputs: always true."""
    return True


class Form(NamedTuple):
    """One way to compute a sequence."""

    kernel: Kernel
    """"fused": a kernel, hand-written or generated; "vectorized": plain PyTorch, faster than one step at a time;
    "reference": the scan."""
    compute: Compute
    serves: Callable[[Inputs], bool] = everything
    """Whether the form can compute these inputs (device, dtype, sizes), and is worth using for them."""


def choose(forms: Iterable[Form], kernel: Kernel, inputs: Inputs) -> Form:
    """The fastest form that serves the inputs and is no faster than `kernel` ("auto": any form).

    If several forms of the same kind serve the inputs, the first is taken.

    Raises:
        ValueError: no form serves the inputs.
    """
    fastest = 0 if kernel == "auto" else FASTEST_FIRST.index(kernel)
    listed = list(forms)
    for kind in FASTEST_FIRST[fastest:]:
        for form in listed:
            if form.kernel == kind and form.serves(inputs):
                return form
    raise ValueError("no form of the core serves these inputs; it needs one that serves all inputs, such as its scan")


def plain(function: Callable[[Any, State | None], tuple[Tensor, State]]) -> Compute:
    """Turn a function of the vectors that always returns all outputs and the state into the `Compute` of a form."""

    def compute(
        inputs: Inputs, state: State | None, return_state: bool, return_sequence: bool
    ) -> tuple[Tensor, State | None]:
        y_BTH, state = function(inputs.vectors, state)
        return (y_BTH if return_sequence else y_BTH[:, -1]), state

    return compute
