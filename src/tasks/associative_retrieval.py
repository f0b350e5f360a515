"""Associative retrieval, the task of Ba et al. (2016), section 4.1."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Annotated

import torch
from annotated_types import Ge, Le

from src.config.schema import Neutral
from src.specs import Batch, InputSpec, Output, OutputSpec, Split
from src.tasks.base import RIGHT, WRONG, Task
from src.tasks.recall import distinct

LETTERS = "abcdefghijklmnopqrstuvwxyz"
DIGITS = "0123456789"
SYMBOLS = LETTERS + DIGITS + "?"


class AssociativeRetrieval(Task):
    """Which digit came with the letter?

        c 9 k 8 j 3 f 1 ? ? c   ->   9

    A sequence consists of `num_pairs` pairs of a letter and a digit, two question marks and one of the letters: 2K + 3
    tokens. Its letters are distinct, its digits need not be, and each pair is equally likely to be asked for. The paper
    does not state K; its failed runs stay at 61.65 % error, which is the floor of K = 4 with repeated digits.

    Args:
        seed: seed of all data.
        num_pairs: K, the number of pairs.
        replace_digits: whether each digit is drawn independently; otherwise the digits of a sequence are distinct too.
        curriculum_updates: number of first updates over which the number of pairs in the training sequences grows from
            1 to K; the last pairs are left out until then. The pair that is asked for moves to a position in the same
            proportion, so that some positions are asked for up to twice as often as others. 0 for no curriculum.
        train_size: number of training sequences (100,000 in the paper); null for fresh ones at every update.
        val_size: number of validation sequences (10,000 in the paper).
        test_size: number of test sequences (20,000 in the paper).
    """

    input_spec = InputSpec("tokens", len(SYMBOLS))
    output_spec = OutputSpec("class", len(DIGITS))

    def __init__(
        self,
        seed: int,
        *,
        num_pairs: Annotated[int, Ge(1), Le(26)] = 4,
        replace_digits: bool = True,
        curriculum_updates: Annotated[int, Ge(0), Neutral(0)] = 0,
        train_size: Annotated[int, Ge(1)] | None = 100_000,
        val_size: Annotated[int, Ge(1)] = 10_000,
        test_size: Annotated[int, Ge(1)] = 20_000,
    ):
        super().__init__(seed, train_size=train_size, val_size=val_size, test_size=test_size)
        if not replace_digits and num_pairs > len(DIGITS):
            raise ValueError(f"num_pairs={num_pairs}: must be at most {len(DIGITS)} with replace_digits=false")
        self.num_pairs = num_pairs
        self.replace_digits = replace_digits
        self.curriculum_updates = curriculum_updates

    def batch(self, split: Split, index: int, batch_size: int) -> Batch:
        batch = super().batch(split, index, batch_size)
        if split != "train" or index >= self.curriculum_updates:
            return batch
        num_pairs = 1 + index * (self.num_pairs - 1) // self.curriculum_updates
        letters, digits = batch.inputs[:, :-3].unflatten(1, (self.num_pairs, 2)).unbind(2)
        asked = (letters == batch.inputs[:, -1:]).int().argmax(1, keepdim=True) * num_pairs // self.num_pairs
        kept = [batch.inputs[:, : 2 * num_pairs], batch.inputs[:, -3:-1], letters.gather(1, asked)]
        return Batch(torch.cat(kept, dim=1), digits.gather(1, asked)[:, 0] - len(LETTERS))

    def generate(self, num_examples: int, generator: torch.Generator) -> Batch:
        shape = (num_examples, self.num_pairs)
        letters = distinct(num_examples, self.num_pairs, len(LETTERS), generator)
        if self.replace_digits:
            digits = torch.randint(len(DIGITS), shape, generator=generator)
        else:
            digits = distinct(num_examples, self.num_pairs, len(DIGITS), generator)
        asked = torch.randint(self.num_pairs, (num_examples, 1), generator=generator)

        pairs = torch.stack([letters, digits + len(LETTERS)], dim=2).flatten(1)
        marks = torch.full((num_examples, 2), SYMBOLS.index("?"))
        inputs = torch.cat([pairs, marks, letters.gather(1, asked)], dim=1)
        return Batch(inputs, digits.gather(1, asked)[:, 0])

    @property
    def floors(self) -> dict[str, dict[str, float]]:
        """The floors, computed exactly for any number of pairs from the ways in which digits can repeat."""
        if not self.replace_digits:
            return {
                "chance": {"error": 0.9, "nll": math.log(10)},
                "knows the digits, not the binding": _distinct_floor(self.num_pairs),
            }
        return {
            "chance": {"error": 0.9, "nll": math.log(10)},
            "linear in the digit counts": {"nll": _count_linear_nll(self.num_pairs)},
            "uniform over the digits seen": _uniform_floor(self.num_pairs),
            "knows the digits, not the binding": _bayes_floor(self.num_pairs),
        }

    def render(self, batch: Batch, row: int, output: Output) -> str:
        target = int(batch.targets[row])
        probabilities = output.prediction[row].softmax(-1)
        answer = int(probabilities.argmax())
        sign = RIGHT if answer == target else WRONG
        shown = "".join(self.labels(batch, row))
        return f"{shown} -> {target}   predicted {answer} (p={float(probabilities[answer]):.3f})   {sign}"

    def labels(self, batch: Batch, row: int) -> list[str]:
        return [SYMBOLS[symbol] for symbol in batch.inputs[row].tolist()]


def _repetitions(num_pairs: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every way in which `num_pairs` independent digits can repeat: counts of the digits seen, and the probability."""

    def partitions(total: int, largest: int, parts: int) -> Iterator[tuple[int, ...]]:
        if total == 0:
            yield ()
        elif parts > 0:
            for first in range(min(total, largest), 0, -1):
                for rest in partitions(total - first, first, parts - 1):
                    yield (first, *rest)

    for counts in partitions(num_pairs, num_pairs, len(DIGITS)):
        which = math.perm(len(DIGITS), len(counts))
        for equal in Counter(counts).values():
            which //= math.factorial(equal)
        orders = math.factorial(num_pairs)
        for count in counts:
            orders //= math.factorial(count)
        yield counts, which * orders / len(DIGITS) ** num_pairs


def _bayes_floor(num_pairs: int) -> dict[str, float]:
    """Predict each digit with its frequency among the digits seen, the best prediction without the binding."""
    error = nll = 0.0
    for counts, probability in _repetitions(num_pairs):
        shares = [count / num_pairs for count in counts]
        error += probability * (1 - max(shares))
        nll -= probability * sum(share * math.log(share) for share in shares)
    return {"error": error, "nll": nll}


def _uniform_floor(num_pairs: int) -> dict[str, float]:
    """Predict each digit seen with the same probability, however often it was seen."""
    error = nll = 0.0
    for counts, probability in _repetitions(num_pairs):
        error += probability * (1 - 1 / len(counts))
        nll += probability * math.log(len(counts))
    return {"error": error, "nll": nll}


def _count_linear_nll(num_pairs: int) -> float:
    """The nll of the best softmax whose logits are proportional to the counts of the digits."""
    from scipy.optimize import minimize_scalar

    cases = list(_repetitions(num_pairs))

    def nll(slope: float) -> float:
        total = 0.0
        for counts, probability in cases:
            unseen = len(DIGITS) - len(counts)
            normalizer = math.log(unseen + sum(math.exp(slope * count) for count in counts))
            total += probability * (normalizer - slope * sum(count * count for count in counts) / num_pairs)
        return total

    return float(minimize_scalar(nll, bounds=(0, 20), method="bounded").fun)


def _distinct_floor(num_pairs: int) -> dict[str, float]:
    """Predict each digit seen with the same probability; all of them are different."""
    return {"error": 1 - 1 / num_pairs, "nll": math.log(num_pairs)}
