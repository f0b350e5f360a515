"""Induction heads, the task of Olsson et al. (2022) as posed by Gu and Dao (2023), "Mamba".

Shapes: N examples, T time steps.
"""

import math
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from src.specs import Batch, InputSpec, Output, OutputSpec, Split
from src.tasks.base import RIGHT, WRONG, Metrics, Task, fraction


class InductionHeads(Task):
    """Which symbol followed the special one at its first occurrence?

        4 1 ! 7 2 2 5 0 3 !   ->   7

    Among random symbols, the special symbol `!` occurs once at a random step and again as the last of T symbols (arXiv
    2312.00752, section 4.1.2: 16 symbols and T = 256 in training, longer sequences in the test). Here validation and
    test sequences have T, 2T, 4T, ... steps up to `test_length`, equally often; `error_at_<t>` is the error at t steps.

    Args:
        seed: seed of all data.
        num_symbols: number of different symbols besides the special one.
        sequence_length: T, the number of steps, in training.
        test_length: largest number of steps allowed in validation and test sequences; null for T only.
        train_size: number of training sequences; null for fresh ones at every update.
        val_size: number of validation sequences.
        test_size: number of test sequences.
    """

    def __init__(
        self,
        seed: int,
        *,
        num_symbols: Annotated[int, Ge(2)] = 16,
        sequence_length: Annotated[int, Ge(3)] = 64,
        test_length: Annotated[int, Ge(3)] | None = 256,
        train_size: Annotated[int, Ge(1)] | None = None,
        val_size: Annotated[int, Ge(1)] = 600,
        test_size: Annotated[int, Ge(1)] = 1500,
    ):
        super().__init__(seed, train_size=train_size, val_size=val_size, test_size=test_size)
        if test_length is not None and test_length < sequence_length:
            raise ValueError(f"test_length={test_length}: must be at least {sequence_length}, the length of training")
        self.input_spec = InputSpec("tokens", num_symbols + 1)
        self.output_spec = OutputSpec("class", num_symbols)
        self.num_symbols = num_symbols
        self.test_lengths = [sequence_length]
        while self.test_lengths[-1] * 2 <= (test_length or sequence_length):
            self.test_lengths.append(self.test_lengths[-1] * 2)

    def generate(self, num_examples: int, generator: torch.Generator) -> Batch:
        lengths_N = torch.full((num_examples,), self.test_lengths[0])
        return self._generate(lengths_N, generator)._replace(lengths=None)

    def generate_for(self, split: Split, num_examples: int, generator: torch.Generator) -> Batch:
        if split == "train" or len(self.test_lengths) == 1:
            return self.generate(num_examples, generator)
        number_N = torch.arange(num_examples) % len(self.test_lengths)
        return self._generate(torch.tensor(self.test_lengths)[number_N], generator)

    def _generate(self, lengths_N: Tensor, generator: torch.Generator) -> Batch:
        num_examples, special = len(lengths_N), self.num_symbols
        inputs_NT = torch.randint(self.num_symbols, (num_examples, int(lengths_N.max())), generator=generator)
        first_N = (torch.rand(num_examples, generator=generator) * (lengths_N - 2)).long()
        row_N = torch.arange(num_examples)
        inputs_NT[row_N, first_N] = special
        inputs_NT[row_N, lengths_N - 1] = special
        return Batch(inputs_NT, inputs_NT[row_N, first_N + 1], lengths=lengths_N)

    def metrics(self, output: Output, batch: Batch) -> Metrics:
        """`error` and `nll`; with several lengths, also `error_at_<t>` for each length t in the batch."""
        metrics = super().metrics(output, batch)
        if batch.lengths is None:
            return metrics
        wrong_N = output.prediction.argmax(-1) != batch.targets
        found = batch.lengths.unique().tolist()
        return metrics | {f"error_at_{length}": fraction(wrong_N[batch.lengths == length]) for length in found}

    @property
    def floors(self) -> dict[str, dict[str, float]]:
        return {"chance": {"error": 1 - 1 / self.num_symbols, "nll": math.log(self.num_symbols)}}

    def render(self, batch: Batch, row: int, output: Output) -> str:
        target, answer = int(batch.targets[row]), int(output.prediction[row].argmax())
        length = batch.inputs.shape[1] if batch.lengths is None else int(batch.lengths[row])
        shown = " ".join(self.labels(batch, row)[:length])
        return f"{shown} -> {target}   predicted {answer}   {RIGHT if answer == target else WRONG}"

    def labels(self, batch: Batch, row: int) -> list[str]:
        return ["!" if symbol == self.num_symbols else str(symbol) for symbol in batch.inputs[row].tolist()]
