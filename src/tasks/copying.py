"""Copying after a delay, the task of Hochreiter and Schmidhuber (1997) as posed by Arjovsky, Shah and Bengio (2016)."""

import math
from typing import Annotated

import torch
from annotated_types import Ge, Le

from src.specs import Batch, InputSpec, Objective, Output, OutputSpec
from src.tasks.base import RIGHT, WRONG, Metrics, Task, fraction

SYMBOLS = "0123456789abcdefghijklmnopqrstuvwxyz"
BLANK = "_"
GO = ">"


class Copying(Task):
    """Repeat the symbols after a delay.

        input    3 7 1 _ _ _ _ > _ _ _
        target   _ _ _ _ _ _ _ _ 3 7 1

    Shown with 3 symbols and a delay of T = 5; the papers copy 10 symbols from an alphabet of 8. The symbols are
    followed by T - 1 blanks, the go signal, and as many blanks as symbols: T + 20 steps in the papers. The answer is
    a symbol or a blank at every step, and all steps count in the loss.

    Args:
        seed: seed of all data.
        sequence_length: T, the number of steps from the last symbol to the go signal; a sequence has T + 2 copy_length
            steps.
        num_symbols: number of different symbols.
        copy_length: number of symbols to copy.
        train_size: number of training sequences; null for fresh ones at every update.
        val_size: number of validation sequences.
        test_size: number of test sequences.
    """

    objective = Objective("nll")

    def __init__(
        self,
        seed: int,
        *,
        sequence_length: Annotated[int, Ge(1)] = 100,
        num_symbols: Annotated[int, Ge(2), Le(36)] = 8,
        copy_length: Annotated[int, Ge(1)] = 10,
        train_size: Annotated[int, Ge(1)] | None = None,
        val_size: Annotated[int, Ge(1)] = 2000,
        test_size: Annotated[int, Ge(1)] = 5000,
    ):
        super().__init__(seed, train_size=train_size, val_size=val_size, test_size=test_size)
        self.input_spec = InputSpec("tokens", num_symbols + 2)
        self.output_spec = OutputSpec("class", num_symbols + 1, every_step=True)
        self.sequence_length = sequence_length
        self.num_symbols = num_symbols
        self.copy_length = copy_length
        self.symbols = SYMBOLS[:num_symbols] + BLANK + GO

    def generate(self, num_examples: int, generator: torch.Generator) -> Batch:
        symbols = torch.randint(self.num_symbols, (num_examples, self.copy_length), generator=generator)
        blank = self.symbols.index(BLANK)
        blanks = torch.full((num_examples, self.sequence_length + self.copy_length), blank)
        inputs = torch.cat([symbols, blanks], dim=1)
        inputs[:, -self.copy_length - 1] = self.symbols.index(GO)
        return Batch(inputs, torch.cat([blanks, symbols], dim=1))

    def metrics(self, output: Output, batch: Batch) -> Metrics:
        """`nll`: nats per step, over all steps; `error`: the fraction of symbols not copied."""
        answers = output.prediction[:, -self.copy_length :].argmax(-1)
        wrong = answers != batch.targets[:, -self.copy_length :]
        return super().metrics(output, batch) | {"error": fraction(wrong)}

    @property
    def floors(self) -> dict[str, dict[str, float]]:
        num_steps = self.sequence_length + 2 * self.copy_length
        symbol_share = self.copy_length / num_steps
        what = symbol_share * math.log(self.num_symbols)
        when = -symbol_share * math.log(symbol_share) - (1 - symbol_share) * math.log(1 - symbol_share)
        return {
            "the same answer at every step": {"error": 1.0, "nll": when + what},
            "knows when, not what": {"error": 1 - 1 / self.num_symbols, "nll": what},
        }

    def render(self, batch: Batch, row: int, output: Output) -> str:
        targets = batch.targets[row, -self.copy_length :].tolist()
        answers = output.prediction[row, -self.copy_length :].argmax(-1).tolist()
        target, answer = ("".join(self.symbols[symbol] for symbol in symbols) for symbols in (targets, answers))
        sign = RIGHT if answer == target else WRONG
        return f"{target} after {self.sequence_length} steps   predicted {answer}   {sign}"

    def labels(self, batch: Batch, row: int) -> list[str]:
        return [self.symbols[symbol] for symbol in batch.inputs[row].tolist()]
