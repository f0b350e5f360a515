"""Addition and multiplication of two marked numbers, the tasks of Hochreiter and Schmidhuber (1997) and variants."""

import math
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from src.specs import Batch, InputSpec, Objective, Output, OutputSpec
from src.tasks.base import RIGHT, WRONG, Metrics, Task, fraction

TOLERANCE = 0.04
"""An answer is right if it is at most this far off (Hochreiter and Schmidhuber 1997; Talathi and Vartak 2015)."""
FIRST_STEPS = 10
"""The first mark of the 1997 task is within this many steps of the start."""


class Addition(Task):
    """What is the sum, or the product, of the two marked numbers?

        value   .31  .72  .05  .48  .90  .16
        marker   0    1    0    0    1    0    ->   .72 + .90 = 1.62

    Each step has two inputs, a random value and a marker that is 1 at two steps and 0 elsewhere; the answer is asked
    for at the last step. The positions of the marks depend on the variant:

    - `halves`: one uniform in the first half [0, T // 2), the other uniform in the second [T // 2, T).
    - `anywhere`: any two different steps.
    - `hochreiter1997`: one uniform in the first 10 steps, the other uniform in the rest of the first T // 2. Values
      are uniform in [-1, 1] and the target is 0.5 + (x1 + x2) / 4. Unlike in the paper, all sequences are T long, and
      the first and last steps carry no marker of -1.

    In the other variants, values are uniform in [0, 1]. Le, Jaitly and Hinton (2015) print a squared error of 0.1767
    for always answering 1, but it is 1/6. Talathi and Vartak (2015) print 0.2025 for always answering 0.25 to products,
    but it is 7/144.

    Args:
        seed: seed of all data.
        sequence_length: T, the number of steps.
        operation: what to do with the two numbers.
        variant: the positions of the marks, and for `hochreiter1997` the range of the values.
        train_size: number of training sequences (100,000 in the papers); null for fresh ones at every update.
        val_size: number of validation sequences.
        test_size: number of test sequences (10,000 in the papers).
    """

    input_spec = InputSpec("vectors", 2)
    output_spec = OutputSpec("value", 1)
    objective = Objective("mse")

    def __init__(
        self,
        seed: int,
        *,
        sequence_length: Annotated[int, Ge(2)] = 100,
        operation: Literal["sum", "product"] = "sum",
        variant: Literal["halves", "anywhere", "hochreiter1997"] = "halves",
        train_size: Annotated[int, Ge(1)] | None = 100_000,
        val_size: Annotated[int, Ge(1)] = 10_000,
        test_size: Annotated[int, Ge(1)] = 10_000,
    ):
        super().__init__(seed, train_size=train_size, val_size=val_size, test_size=test_size)
        if variant == "hochreiter1997":
            if operation == "product":
                raise ValueError("operation=product: must be sum with variant=hochreiter1997")
            if sequence_length < 2 * FIRST_STEPS:
                raise ValueError(
                    f"sequence_length={sequence_length}: must be at least {2 * FIRST_STEPS} with variant=hochreiter1997"
                )
        self.sequence_length = sequence_length
        self.operation = operation
        self.variant = variant

    def generate(self, num_examples: int, generator: torch.Generator) -> Batch:
        values = torch.rand(num_examples, self.sequence_length, generator=generator)
        if self.variant == "hochreiter1997":
            values = 2 * values - 1
        marked = self._marked(num_examples, generator)
        markers = torch.zeros_like(values).scatter_(1, marked, 1.0)

        first, second = values.gather(1, marked).split(1, dim=1)
        if self.variant == "hochreiter1997":
            targets = 0.5 + (first + second) / 4
        else:
            targets = first + second if self.operation == "sum" else first * second
        return Batch(torch.stack([values, markers], dim=2), targets)

    def _marked(self, num_examples: int, generator: torch.Generator) -> Tensor:
        """The two marked steps of every example, [N, 2]."""
        half = self.sequence_length // 2

        def uniform(low: int, high: int) -> Tensor:
            return torch.randint(low, high, (num_examples,), generator=generator)

        if self.variant == "halves":
            first, second = uniform(0, half), uniform(half, self.sequence_length)
        else:
            anywhere = self.variant == "anywhere"
            first = uniform(0, self.sequence_length if anywhere else FIRST_STEPS)
            second = uniform(0, (self.sequence_length if anywhere else half) - 1)
            second += second >= first
        return torch.stack([first, second], dim=1)

    def metrics(self, output: Output, batch: Batch) -> Metrics:
        """`mse`, and `error`: the fraction of answers that are not within 0.04 of the target; nan counts as wrong."""
        right = (output.prediction - batch.targets).abs() <= TOLERANCE
        return super().metrics(output, batch) | {"error": fraction(~right)}

    @property
    def floors(self) -> dict[str, dict[str, float]]:
        """The floors of answers with the least squared error; the positions of the marks do not matter."""
        if self.operation == "product":
            mean, one = _product_floors()
        else:
            mean, one = _sum_floors(scale=0.5 if self.variant == "hochreiter1997" else 1.0)
        return {"always the mean": mean, "knows one of the two values": one}

    def render(self, batch: Batch, row: int, output: Output) -> str:
        values, markers = batch.inputs[row].unbind(-1)
        shown = ", ".join(f"{float(values[t]):.3f} at step {t}" for t in markers.nonzero()[:, 0].tolist())
        target, answer = float(batch.targets[row, 0]), float(output.prediction[row, 0])
        sign = RIGHT if abs(answer - target) <= TOLERANCE else WRONG
        return f"{self.operation} of {shown} -> {target:.3f}   predicted {answer:.3f}   {sign}"


def _sum_floors(scale: float) -> tuple[dict[str, float], dict[str, float]]:
    """The floors for targets scale (u + v) + constant, where u and v are uniform in [0, 1].

    u + v - 1 has the density 1 - |z| on [-1, 1], u - 1/2 the density 1 on [-1/2, 1/2].
    """
    tolerance = TOLERANCE / scale
    return (
        {"mse": scale**2 / 6, "error": (1 - tolerance) ** 2},
        {"mse": scale**2 / 12, "error": 1 - 2 * tolerance},
    )


def _product_floors() -> tuple[dict[str, float], dict[str, float]]:
    """The floors for targets u v: P(u v < z) = z - z ln z; with u known, the answer is u / 2, off by u |v - 1/2|."""

    def below(z: float) -> float:
        return z - z * math.log(z)

    return (
        {"mse": 1 / 9 - 1 / 16, "error": 1 - below(0.25 + TOLERANCE) + below(0.25 - TOLERANCE)},
        {"mse": 1 / 36, "error": 1 - below(2 * TOLERANCE)},
    )
