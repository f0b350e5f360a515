"""Recovery of a random tensor, an experiment of Mathews (2016) on learning a decomposition by gradient descent.

Shapes: N examples, n features.
"""

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from src.specs import Batch, InputSpec, Objective, Output, OutputSpec
from src.tasks.base import Task
from src.tensors.cp import CP
from src.tensors.tensor_train import TensorTrain


class RandomTensor(Task):
    r"""To which vector does a fixed random tensor map two vectors?

        a, b   ->   y_j = Σ_ik a_i W_ijk b_k              the features of a and b are uniform in [-1, 1]

    The two vectors are the two steps of a sequence. W is drawn anew for every seed, as a decomposition whose factors
    have entries from N(0, s²). With a bilinear map V in place of W, the expected squared error of a feature is
    ‖W - V‖² / (9 n). No linear function of a and b is correlated with y: the best one is 0.

    Args:
        seed: seed of all data and of W.
        vector_size: n, the number of features of each vector.
        form: the decomposition of W.
        rank: the rank of W, or both ranks of a tensor train.
        factor_std: s, the standard deviation of the entries of the factors.
        train_size: number of training pairs; null for fresh ones at every update.
        val_size: number of validation pairs.
        test_size: number of test pairs.
    """

    objective = Objective("mse")

    def __init__(
        self,
        seed: int,
        *,
        vector_size: Annotated[int, Ge(1)] = 100,
        form: Literal["tensor_train", "cp"] = "tensor_train",
        rank: Annotated[int, Ge(1)] = 16,
        factor_std: Annotated[float, Gt(0)] = 0.1,
        train_size: Annotated[int, Ge(1)] | None = None,
        val_size: Annotated[int, Ge(1)] = 2000,
        test_size: Annotated[int, Ge(1)] = 5000,
    ):
        super().__init__(seed, train_size=train_size, val_size=val_size, test_size=test_size)
        self.input_spec = InputSpec("vectors", vector_size)
        self.output_spec = OutputSpec("value", vector_size)
        sizes = (vector_size, vector_size, vector_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.teacher = TensorTrain(sizes, (rank, rank)) if form == "tensor_train" else CP(sizes, rank)
            for factor in self.teacher.parameters():
                torch.nn.init.normal_(factor, std=factor_std).requires_grad_(False)

    @property
    def tensor(self) -> Tensor:
        """W, [n, n, n]."""
        return self.teacher.full()

    def generate(self, num_examples: int, generator: torch.Generator) -> Batch:
        inputs_N2n = 2 * torch.rand(num_examples, 2, self.input_spec.size, generator=generator) - 1
        return Batch(inputs_N2n, self.teacher(*inputs_N2n.unbind(1)))

    @property
    def floors(self) -> dict[str, dict[str, float]]:
        mse = float(self.teacher.square_norm()) / (9 * self.input_spec.size)
        return {"zero, the best linear function": {"mse": mse}}

    def render(self, batch: Batch, row: int, output: Output) -> str:
        shown = " ".join(f"{value:.2f}" for value in batch.targets[row, :5].tolist())
        answer = " ".join(f"{value:.2f}" for value in output.prediction[row, :5].tolist())
        off = float((output.prediction[row] - batch.targets[row]).norm() / batch.targets[row].norm())
        return f"{shown} ...   predicted {answer} ...   off by {100 * off:.0f} % of its norm"

    def labels(self, batch: Batch, row: int) -> list[str]:
        return ["first", "second"]
