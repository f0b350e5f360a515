"""Selective copying: symbols among blanks, to be repeated in order, after Gu and Dao (2023), "Mamba".

Shapes: N examples, M symbols to copy, B blanks, T steps that hold both.
"""

import math
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor
from torch.nn import functional

from src.specs import Batch, InputSpec, Output, OutputSpec, Split
from src.tasks.base import RIGHT, WRONG, Metrics, Task, fraction
from src.tasks.copying import SYMBOLS
from src.tasks.recall import distinct


class SelectiveCopying(Task):
    """Repeat the symbols, not the blanks between them.

        input    _ 3 _ _ 7 1 _ _ > _ _
        target                   3 7 1

    M symbols stand among B = T - M blanks. Then come the go signal and M - 1 blanks; at these M steps the symbols are
    due in their order. The positions of the blanks depend on `gaps`:

    - `uniform`: all positions of the symbols are equally likely, as in Mamba (arXiv 2312.00752: M = 16, T = 4,096).
    - `inserted`: each blank is placed before a random symbol, as in MAD (arXiv 2403.17844: M = 16, T = 256), so gaps
      differ less from each other, and there is none after the last symbol.
    - `irregular`: the same, but a symbol is chosen with a probability ∝ e^(2z), z ~ N(0, 1), so that a few gaps hold
      most of the blanks.

    Validation and test sequences can be longer than training sequences, so that their gaps are longer, too.

    Args:
        seed: seed of all data.
        gaps: uniform, inserted or irregular, as above.
        sequence_length: T in training; a sequence has T + M steps.
        test_length: T in validation and test; null for the T of training.
        num_symbols: number of different symbols.
        copy_length: M, the number of symbols to copy.
        train_size: number of training sequences; null for fresh ones at every update.
        val_size: number of validation sequences.
        test_size: number of test sequences.
    """

    def __init__(
        self,
        seed: int,
        *,
        gaps: Literal["uniform", "inserted", "irregular"] = "uniform",
        sequence_length: Annotated[int, Ge(1)] = 56,
        test_length: Annotated[int, Ge(1)] | None = None,
        num_symbols: Annotated[int, Ge(2), Le(36)] = 14,
        copy_length: Annotated[int, Ge(1)] = 8,
        train_size: Annotated[int, Ge(1)] | None = None,
        val_size: Annotated[int, Ge(1)] = 1000,
        test_size: Annotated[int, Ge(1)] = 2000,
    ):
        super().__init__(seed, train_size=train_size, val_size=val_size, test_size=test_size)
        for name, length in (("sequence_length", sequence_length), ("test_length", test_length)):
            if length is not None and length < copy_length:
                raise ValueError(f"{name}={length}: must be at least {copy_length}, the number of symbols to copy")
        self.input_spec = InputSpec("tokens", num_symbols + 2)
        self.output_spec = OutputSpec("class", num_symbols, every_step=True)
        self.gaps = gaps
        self.sequence_length = sequence_length
        self.test_length = test_length or sequence_length
        self.num_symbols = num_symbols
        self.copy_length = copy_length

    def generate_for(self, split: Split, num_examples: int, generator: torch.Generator) -> Batch:
        length = self.sequence_length if split == "train" else self.test_length
        blank, go = self.num_symbols, self.num_symbols + 1
        symbols_NM = torch.randint(self.num_symbols, (num_examples, self.copy_length), generator=generator)
        at_NM = self._places(length, num_examples, generator)
        inputs_NT = torch.full((num_examples, length + self.copy_length), blank)
        inputs_NT.scatter_(1, at_NM, symbols_NM)[:, length] = go
        mask_NT = (torch.arange(inputs_NT.shape[1]) >= length).repeat(num_examples, 1)
        return Batch(inputs_NT, functional.pad(symbols_NM, (length, 0)), mask_NT)

    def _places(self, length: int, num_examples: int, generator: torch.Generator) -> Tensor:
        """The step of each symbol, [N, M], in order."""
        num_symbols, num_blanks = self.copy_length, length - self.copy_length
        if self.gaps == "uniform":
            return distinct(num_examples, num_symbols, length, generator).sort(1).values
        shape = num_examples, num_symbols
        weights_NM = torch.ones(shape)
        if self.gaps == "irregular":
            weights_NM = (2 * torch.randn(shape, generator=generator)).exp()
        if num_blanks == 0:
            return torch.arange(num_symbols).repeat(num_examples, 1)
        before_NB = torch.multinomial(weights_NM, num_blanks, replacement=True, generator=generator)
        gaps_NM = torch.zeros(shape, dtype=torch.int64).scatter_add_(1, before_NB, torch.ones_like(before_NB))
        return gaps_NM.cumsum(1) + torch.arange(num_symbols)

    def metrics(self, output: Output, batch: Batch) -> Metrics:
        """`error` and `nll` per symbol, `exact_error` per sequence; `first_error` and `last_error` of one symbol."""
        answers_NM = output.prediction[:, -self.copy_length :].argmax(-1)
        wrong_NM = answers_NM != batch.targets[:, -self.copy_length :]
        return super().metrics(output, batch) | {
            "exact_error": fraction(wrong_NM.any(1)),
            "first_error": fraction(wrong_NM[:, 0]),
            "last_error": fraction(wrong_NM[:, -1]),
        }

    @property
    def floors(self) -> dict[str, dict[str, float]]:
        return {
            "chance": {"error": 1 - 1 / self.num_symbols, "nll": math.log(self.num_symbols)},
            "knows the symbols, not their order": {
                "error": 1 - expected_largest_count(self.copy_length, self.num_symbols) / self.copy_length
            },
        }

    def render(self, batch: Batch, row: int, output: Output) -> str:
        targets = batch.targets[row, -self.copy_length :].tolist()
        answers = output.prediction[row, -self.copy_length :].argmax(-1).tolist()
        target, answer = ("".join(SYMBOLS[symbol] for symbol in symbols) for symbols in (targets, answers))
        shown = "".join(self.labels(batch, row)[: -self.copy_length])
        return f"{shown} -> {target}   predicted {answer}   {RIGHT if answer == target else WRONG}"

    def labels(self, batch: Batch, row: int) -> list[str]:
        names = f"{SYMBOLS[: self.num_symbols]}_>"
        return [names[symbol] for symbol in batch.inputs[row].tolist()]


def expected_largest_count(num_draws: int, num_choices: int) -> float:
    """The expected count of the most frequent of `num_choices` equally likely outcomes in `num_draws` draws.

    For n draws and m choices, P(no count above c) = n! / m^n [x^n] (Σ_{k≤c} x^k / k!)^m, which is summed over c. The
    coefficients 1 / k! are replaced by Poisson probabilities with mean λ = n / m, which are neither too large nor too
    small for a float; the coefficient of x^n is then divided by the probability that the sum of all counts is n.
    """
    n, mean = num_draws, num_draws / num_choices
    poisson = np.array([math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(n + 1)])
    together = math.exp(n * math.log(n) - n - math.lgamma(n + 1))
    expected = float(n)
    for most in range(n):
        product = np.ones(1)
        for _ in range(num_choices):
            product = np.convolve(product, poisson[: most + 1])[: n + 1]
        if len(product) > n:
            expected -= product[n] / together
    return float(expected)
