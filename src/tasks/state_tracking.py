"""The word problem of finite groups, after Merrill, Petty and Sabharwal (2024), "The Illusion of State in State-Space
Models".

Shapes: N examples, T time steps, G elements of the group.
"""

import itertools
import math
from functools import cache
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from src.specs import Batch, InputSpec, Output, OutputSpec, Split
from src.tasks.base import RIGHT, WRONG, Metrics, Task, fraction

SHOWN = 20
"""The largest number of steps of an example that are shown."""
Group = Literal["parity", "Z3", "Z5", "Z60", "S3", "A4xZ5", "A5", "S5"]


class StateTracking(Task):
    """What is the product of all elements so far?

        parity   1 0 1 1 0   ->   1 1 0 1 1

    The symbols are the elements of a group, all equally likely, and the answer at step t is x_1 x_2 ... x_t, applied
    from left to right: a permutation that is the composition of t permutations. The groups are parity (two elements),
    the cyclic groups Z3, Z5 and Z60, the permutations of three and of five objects (S3, S5), the even permutations of
    five objects (A5), and A4 × Z5. A5 and S5 are not solvable: no circuit of constant depth composes their elements,
    unless TC⁰ = NC¹ (arXiv 2404.08819). An answer is due at every step, so each prefix is an example too.

    Validation and test sequences have `test_length` steps, so the model is selected by its errors beyond the training
    length; `error_at_<t>` is the error after t steps.

    Args:
        seed: seed of all data.
        group: one of the groups above.
        sequence_length: T, the number of steps, in training.
        test_length: T in validation and test; null for the training length.
        train_size: number of training sequences; null for fresh ones at every update.
        val_size: number of validation sequences.
        test_size: number of test sequences.
    """

    def __init__(
        self,
        seed: int,
        *,
        group: Group = "parity",
        sequence_length: Annotated[int, Ge(1)] = 20,
        test_length: Annotated[int, Ge(1)] | None = 160,
        train_size: Annotated[int, Ge(1)] | None = None,
        val_size: Annotated[int, Ge(1)] = 500,
        test_size: Annotated[int, Ge(1)] = 2000,
    ):
        super().__init__(seed, train_size=train_size, val_size=val_size, test_size=test_size)
        self.product_GG = product_table(group)
        size = len(self.product_GG)
        self.input_spec = InputSpec("tokens", size)
        self.output_spec = OutputSpec("class", size, every_step=True)
        self.sequence_length = sequence_length
        self.test_length = test_length or sequence_length

    def generate_for(self, split: Split, num_examples: int, generator: torch.Generator) -> Batch:
        length = self.sequence_length if split == "train" else self.test_length
        inputs_NT = torch.randint(self.input_spec.size, (num_examples, length), generator=generator)
        products = [inputs_NT[:, 0]]
        for x_N in inputs_NT[:, 1:].unbind(1):
            products.append(self.product_GG[products[-1], x_N])
        return Batch(inputs_NT, torch.stack(products, dim=1))

    def metrics(self, output: Output, batch: Batch) -> Metrics:
        """`error` and `nll` of all steps; `error_at_<t>` after T, 2T, 4T, ... steps, where T is the training length."""
        wrong_NT = output.prediction.argmax(-1) != batch.targets
        lengths, length = [], self.sequence_length
        while length <= wrong_NT.shape[1]:
            lengths.append(length)
            length *= 2
        return super().metrics(output, batch) | {f"error_at_{t}": fraction(wrong_NT[:, t - 1]) for t in lengths}

    @property
    def floors(self) -> dict[str, dict[str, float]]:
        """Chance, and knowledge of the largest commutative quotient: for S3 and S5, whether the permutation is even."""
        size, num_commutators = len(self.product_GG), len(commutator_subgroup(self.product_GG))
        floors = {"chance": {"error": 1 - 1 / size, "nll": math.log(size)}}
        if 1 < num_commutators < size:
            nll = math.log(num_commutators)
            floors["knows the commutative quotient"] = {"error": 1 - 1 / num_commutators, "nll": nll}
        return floors

    def render(self, batch: Batch, row: int, output: Output) -> str:
        targets, answers = batch.targets[row].tolist(), output.prediction[row].argmax(-1).tolist()
        first = next((t for t, pair in enumerate(zip(answers, targets, strict=True), 1) if pair[0] != pair[1]), None)
        rest = " ..." * (len(targets) > SHOWN)
        whole = batch.inputs[row].tolist(), targets, answers
        shown = [" ".join(map(str, symbols[:SHOWN])) + rest for symbols in whole]
        where = f"   first error at step {first} of {len(targets)}   {WRONG}" if first else f"   {RIGHT}"
        return f"{shown[0]} -> {shown[1]}   predicted {shown[2]}{where}"

    def labels(self, batch: Batch, row: int) -> list[str]:
        return [str(symbol) for symbol in batch.inputs[row].tolist()]


@cache
def product_table(group: Group) -> Tensor:
    """The number of the product of every two elements, [G, G]; element 0 is the identity.

    An element is a permutation, and the product p q applies p first: (p q)(i) = q(p(i)).
    """
    elements = _elements(group)
    number = {element: index for index, element in enumerate(elements)}
    return torch.tensor([[number[tuple(q[i] for i in p)] for q in elements] for p in elements])


def _elements(group: Group) -> list[tuple[int, ...]]:
    """The permutations of a group, the identity first."""
    if group == "parity":
        return _cyclic(2)
    if group == "A4xZ5":
        return [a + tuple(4 + i for i in z) for a in _even(4) for z in _cyclic(5)]
    size = int(group[1:])
    if group[0] == "Z":
        return _cyclic(size)
    return _even(size) if group[0] == "A" else list(itertools.permutations(range(size)))


def _cyclic(size: int) -> list[tuple[int, ...]]:
    return [tuple((i + shift) % size for i in range(size)) for shift in range(size)]


def _even(size: int) -> list[tuple[int, ...]]:
    """Permutations with an even number of inversions."""
    return [
        p for p in itertools.permutations(range(size)) if sum(a > b for a, b in itertools.combinations(p, 2)) % 2 == 0
    ]


def commutator_subgroup(product_GG: Tensor) -> Tensor:
    """The products of commutators a b a⁻¹ b⁻¹, sorted: in a commutative quotient they are all the identity."""
    inverse_G = (product_GG == 0).int().argmax(1)
    ab_GG = product_GG
    inverse_of_ba_GG = inverse_G[product_GG.t()]
    found = product_GG[ab_GG, inverse_of_ba_GG].unique()
    while True:
        larger = product_GG[found[:, None], found].unique()
        if len(larger) == len(found):
            return found
        found = larger
