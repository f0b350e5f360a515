"""The outputs of a random recurrent network, an experiment of Mathews (2016) on sequences of bilinear maps.

Shapes: N examples, T time steps, n features.
"""

import math
from functools import cached_property
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from src.specs import Batch, InputSpec, Objective, Output, OutputSpec
from src.tasks.base import Task
from src.tensors.tensor_train import TensorTrain


class SequenceTeacher(Task):
    r"""What are the outputs of a fixed random network for a sequence?

        h_t^l = N[relu(W^l(h_{t-1}^l, h_t^{l-1}))]         h_t^0 = x_t, h_0^l = 1, y_t the state of the last layer

    Every layer is a purely bilinear recurrence, in tensor-train form with factors from N(0, 1), drawn anew for every
    seed. N scales each state to a root mean square of 1, so the squared error is already relative to the targets.
    Without it, and with the constants of Mathews (2016), the state of the network falls below 1e-10 within four steps,
    and an answer of 0 is right from then on. A state that relu leaves without a positive entry is reset to 1. The
    features of x are uniform in [-√3, √3], with a variance of 1.

    Args:
        seed: seed of all data and of the network.
        sequence_length: T, the number of steps.
        vector_size: n, the number of features of the inputs and of every state.
        rank: both ranks of the tensor trains.
        num_layers: number of layers of the network.
        constant_input: whether all steps of a sequence have the same input.
        train_size: number of training sequences; null for fresh ones at every update.
        val_size: number of validation sequences.
        test_size: number of test sequences.
    """

    objective = Objective("mse")

    def __init__(
        self,
        seed: int,
        *,
        sequence_length: Annotated[int, Ge(1)] = 50,
        vector_size: Annotated[int, Ge(1)] = 32,
        rank: Annotated[int, Ge(1)] = 8,
        num_layers: Annotated[int, Ge(1), Le(1000)] = 2,
        constant_input: bool = False,
        train_size: Annotated[int, Ge(1)] | None = None,
        val_size: Annotated[int, Ge(1)] = 500,
        test_size: Annotated[int, Ge(1)] = 1000,
    ):
        super().__init__(seed, train_size=train_size, val_size=val_size, test_size=test_size)
        self.input_spec = InputSpec("vectors", vector_size)
        self.output_spec = OutputSpec("value", vector_size, every_step=True)
        self.sequence_length = sequence_length
        self.constant_input = constant_input
        sizes = (vector_size, vector_size, vector_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = [TensorTrain(sizes, (rank, rank)) for _ in range(num_layers)]
            for layer in self.layers:
                for factor in layer.parameters():
                    torch.nn.init.normal_(factor).requires_grad_(False)

    def generate(self, num_examples: int, generator: torch.Generator) -> Batch:
        num_inputs = 1 if self.constant_input else self.sequence_length
        inputs_NTn = torch.rand(num_examples, num_inputs, self.input_spec.size, generator=generator)
        inputs_NTn = (math.sqrt(12) * (inputs_NTn - 0.5)).repeat(1, self.sequence_length // num_inputs, 1)
        outputs_NTn = inputs_NTn
        for layer in self.layers:
            h_Nn = torch.ones_like(inputs_NTn[:, 0])
            states = []
            for p_NQ in layer.project(outputs_NTn).unbind(1):
                h_Nn = _scaled(torch.relu(layer.product(h_Nn, p_NQ)))
                states.append(h_Nn)
            outputs_NTn = torch.stack(states, dim=1)
        return Batch(inputs_NTn, outputs_NTn)

    @property
    def floors(self) -> dict[str, dict[str, float]]:
        return {
            "always zero": {"mse": 1.0},
            "the mean of every unit (on the validation set)": {"mse": self._floor_of_means},
        }

    @cached_property
    def _floor_of_means(self) -> float:
        """The error of answering with the mean of every unit: 1 - Σ_j E[y_j]² / n."""
        targets = torch.cat([batch.targets.flatten(0, 1) for batch in self.evaluation("val")])
        return 1 - float(targets.mean(0).square().mean())

    def render(self, batch: Batch, row: int, output: Output) -> str:
        errors = (output.prediction[row] - batch.targets[row]).square().mean(1)
        steps = sorted({0, len(errors) // 2, len(errors) - 1})
        shown = ", ".join(f"{float(errors[t]):.2f} at step {t + 1}" for t in steps)
        return f"squared error {shown}"


def _scaled(h_Nn: Tensor) -> Tensor:
    """Each state scaled to a root mean square of 1; a state of zeros is replaced by ones."""
    size_N1 = h_Nn.square().mean(1, keepdim=True).sqrt()
    return torch.where(size_N1 > 0, h_Nn / size_N1, 1.0)
