import itertools
import math

import pytest
import torch
from torch.nn import functional

from src.specs import Output
from src.tasks.state_tracking import StateTracking, commutator_subgroup, product_table
from tests.tasks.averages import averages

SIZES = {"parity": 2, "Z3": 3, "Z5": 5, "Z60": 60, "S3": 6, "A4xZ5": 60, "A5": 60, "S5": 120}
COMMUTATORS = {"parity": 1, "Z3": 1, "Z5": 1, "Z60": 1, "S3": 3, "A4xZ5": 4, "A5": 60, "S5": 60}


@pytest.mark.parametrize("group", SIZES)
def test_the_table_is_that_of_a_group_of_the_right_size_and_structure(group):
    product = product_table(group)
    size = SIZES[group]
    assert product.shape == (size, size)
    assert torch.equal(product[0], torch.arange(size))
    assert torch.equal(product[:, 0], torch.arange(size))
    assert all(sorted(line) == list(range(size)) for line in [*product.tolist(), *product.t().tolist()])
    a, b, c = torch.randint(size, (3, 500), generator=torch.Generator().manual_seed(0))
    assert torch.equal(product[product[a, b], c], product[a, product[b, c]])
    assert (product == product.t()).all() == (group in ("parity", "Z3", "Z5", "Z60"))
    assert len(commutator_subgroup(product)) == COMMUTATORS[group]


def test_the_state_is_the_composition_of_permutations():
    """Three things are moved around by one permutation after another."""
    task = StateTracking(0, group="S3", sequence_length=9)
    batch = task.batch("train", 0, 50)
    elements = list(itertools.permutations(range(3)))
    for symbols, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        where = [0, 1, 2]
        for symbol, target in zip(symbols, targets, strict=True):
            where = [elements[symbol][place] for place in where]
            assert elements.index(tuple(where)) == target


def test_parity_is_the_sum_modulo_two():
    batch = StateTracking(0).batch("train", 0, 20)
    assert torch.equal(batch.targets, batch.inputs.cumsum(1) % 2)


def test_validation_and_test_are_longer_than_training_and_errors_are_given_by_length():
    task = StateTracking(0, group="Z3", sequence_length=5, test_length=23, val_size=400, test_size=400)
    assert task.batch("train", 0, 4).inputs.shape == (4, 5)
    (batch,) = task.evaluation("val")
    assert batch.inputs.shape == next(iter(task.evaluation("test"))).inputs.shape == (400, 23)
    answers = batch.targets.clone()
    answers[:, 10:] = (answers[:, 10:] + 1) % 3
    metrics = averages(task.metrics(Output(functional.one_hot(answers, 3).float(), torch.empty(0), None), batch))
    assert {name: value for name, value in metrics.items() if "_at_" in name} == {
        "error_at_5": 0.0,
        "error_at_10": 0.0,
        "error_at_20": 1.0,
    }
    assert metrics["error"] == pytest.approx(13 / 23)


def test_whoever_knows_the_sign_is_at_the_floor_of_the_commutative_quotient():
    task = StateTracking(0, group="S3", test_length=20, test_size=2000)
    (batch, _) = task.evaluation("test")
    even = commutator_subgroup(task.product_GG)
    is_even = torch.isin(torch.arange(6), even)
    sign = is_even[batch.inputs].logical_not().cumsum(1) % 2 == 0
    logits = torch.where(sign[..., None] == is_even, 0.0, -100.0)
    metrics = averages(task.metrics(Output(logits, torch.empty(0), None), batch))
    floor = task.floors["knows the commutative quotient"]
    assert floor == pytest.approx({"error": 2 / 3, "nll": math.log(3)})
    assert metrics["nll"] == pytest.approx(floor["nll"], rel=1e-5)
    assert metrics["error"] == pytest.approx(floor["error"], abs=0.01)


def test_the_first_error_is_shown():
    task = StateTracking(0, sequence_length=8, test_length=None)
    batch = task.batch("val", 0, 1)
    logits = functional.one_hot(batch.targets, 2).float()
    assert task.render(batch, 0, Output(logits, torch.empty(0), None)).endswith("right")
    logits[0, 4] = logits[0, 4].flip(0)
    assert task.render(batch, 0, Output(logits, torch.empty(0), None)).endswith("first error at step 5 of 8   WRONG")


@pytest.mark.parametrize(("length", "sign"), [(20, ""), (21, " ...")])
def test_a_sequence_that_is_not_shown_to_its_end_says_so(length, sign):
    task = StateTracking(0, sequence_length=length)
    batch = task.batch("train", 0, 1)._replace(targets=torch.ones(1, length, dtype=torch.int64))
    line = task.render(batch, 0, Output(functional.one_hot(batch.targets, 2).float(), torch.empty(0), None))
    ones = " ".join("1" * 20) + sign
    assert line.endswith(f"{sign} -> {ones}   predicted {ones}   right")
