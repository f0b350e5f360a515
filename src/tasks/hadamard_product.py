"""The elementwise product of two vectors, as in the experiments of Mathews (2016) on learning a tensor decomposition.

Shapes: N examples, n features.
"""

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le

from src.specs import Batch, InputSpec, Objective, Output, OutputSpec
from src.tasks.base import Task


class HadamardProduct(Task):
    r"""What is the product of each feature of the first vector with the same feature of the second?

        1 0 1 1
        1 1 0 1   ->   1 0 0 1

    The two vectors are the two steps of a sequence. The tensor of this bilinear map has a CP rank of n. The mean
    squared error of any bilinear map with a CP rank of at most R is at least `rank_floor`, which for binary values is
    (3/16) (1 - R/n); the best map is at most about 1/(16 n) above it. With n = 1 the task is scalar multiplication,
    where only a model that multiplies extrapolates to a larger scale.

    Args:
        seed: seed of all data.
        vector_size: n, the number of features of each vector.
        values: binary (0 or 1 with equal probability) or uniform in [0, 1].
        scale: factor by which all values are multiplied.
        permuted: whether the products come in a different order, fixed for each seed.
        num_distinct: number of independent values of each vector, which a fixed random map, one for each of the two
            vectors, copies to n features; null for n independent values.
        train_size: number of training pairs; null for fresh ones at every update.
        val_size: number of validation pairs.
        test_size: number of test pairs.
    """

    objective = Objective("mse")

    def __init__(
        self,
        seed: int,
        *,
        vector_size: Annotated[int, Ge(1)] = 50,
        values: Literal["binary", "uniform"] = "binary",
        scale: Annotated[float, Gt(0), Le(1e8)] = 1.0,  # above this, errors overflow in float32
        permuted: bool = False,
        num_distinct: Annotated[int, Ge(1)] | None = None,
        train_size: Annotated[int, Ge(1)] | None = None,
        val_size: Annotated[int, Ge(1)] = 2000,
        test_size: Annotated[int, Ge(1)] = 5000,
    ):
        super().__init__(seed, train_size=train_size, val_size=val_size, test_size=test_size)
        if num_distinct is not None and num_distinct > vector_size:
            raise ValueError(f"num_distinct={num_distinct}: must be at most vector_size={vector_size}")
        self.input_spec = InputSpec("vectors", vector_size)
        self.output_spec = OutputSpec("value", vector_size)
        self.binary = values == "binary"
        self.scale = scale
        self.num_values = num_distinct or vector_size
        fixed = torch.Generator().manual_seed(seed)
        every = torch.arange(vector_size)
        self.places_2n = torch.stack([every, every])
        if num_distinct is not None:
            self.places_2n = torch.randint(num_distinct, (2, vector_size), generator=fixed)
        self.order_n = torch.randperm(vector_size, generator=fixed) if permuted else every

    def generate(self, num_examples: int, generator: torch.Generator) -> Batch:
        values_N2v = torch.rand(num_examples, 2, self.num_values, generator=generator)
        if self.binary:
            values_N2v = values_N2v.round()
        inputs_N2n = self.scale * values_N2v.gather(2, self.places_2n.expand(num_examples, -1, -1))
        return Batch(inputs_N2n, inputs_N2n.prod(1)[:, self.order_n])

    @property
    def floors(self) -> dict[str, dict[str, float]]:
        mean, square = self._moments()
        variance = square - mean**2
        return {
            "always zero": {"mse": square**2},
            "always the mean": {"mse": square**2 - mean**4},
            "knows one of the two vectors": {"mse": square * variance},
            "the best linear function of both vectors": {"mse": variance**2},
        }

    def rank_floor(self, rank: int) -> float:
        """The least mean squared error of predictions confined to a space of this dimension, however they are computed.

        It is the sum of all but the `rank` largest eigenvalues of E[y yᵀ], where y is the target, divided by n.
        """
        mean, square = self._moments()
        same_2nn = self.places_2n[:, :, None] == self.places_2n[:, None]
        moments_nn = (mean**2 + (square - mean**2) * same_2nn.double()).prod(0)
        eigenvalues_n = torch.linalg.eigvalsh(moments_nn)
        return float(eigenvalues_n[: max(len(eigenvalues_n) - rank, 0)].sum() / len(eigenvalues_n))

    def _moments(self) -> tuple[float, float]:
        """E[a] and E[a²] of one value."""
        return self.scale / 2, self.scale**2 / (2 if self.binary else 3)

    def render(self, batch: Batch, row: int, output: Output) -> str:
        shown = " ".join(f"{value:.2f}" for value in batch.targets[row, :5].tolist())
        answer = " ".join(f"{value:.2f}" for value in output.prediction[row, :5].tolist())
        off = float((output.prediction[row] - batch.targets[row]).abs().max())
        return f"{shown} ...   predicted {answer} ...   off by {off:.2f} at most"

    def labels(self, batch: Batch, row: int) -> list[str]:
        return ["first", "second"]
