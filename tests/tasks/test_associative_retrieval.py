import itertools
import math
from collections import Counter

import pytest
import torch

from src.specs import Output
from src.tasks.associative_retrieval import LETTERS, SYMBOLS, AssociativeRetrieval
from tests.tasks.averages import averages


def make(**settings) -> AssociativeRetrieval:
    return AssociativeRetrieval(0, **{"train_size": None, "test_size": 5000, **settings})


@pytest.mark.parametrize(("num_pairs", "replace_digits"), [(1, True), (4, True), (26, True), (4, False), (10, False)])
def test_the_target_is_the_digit_next_to_the_letter_asked_for(num_pairs, replace_digits):
    batch = make(num_pairs=num_pairs, replace_digits=replace_digits).batch("train", 0, 300)
    asked_places = set()
    for symbols, target in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        text = "".join(SYMBOLS[symbol] for symbol in symbols)
        assert len(text) == 2 * num_pairs + 3
        letters, digits, end = text[: 2 * num_pairs : 2], text[1 : 2 * num_pairs : 2], text[2 * num_pairs :]
        assert end[:2] == "??"
        assert set(letters) <= set(LETTERS)
        assert len(set(letters)) == num_pairs
        assert replace_digits or len(set(digits)) == num_pairs
        assert int(digits[letters.index(end[2])]) == target
        asked_places.add(letters.index(end[2]))
    assert asked_places == set(range(num_pairs))


def test_of_the_training_set_as_many_sequences_are_evaluated_as_there_are_to_validate_on():
    task = make(train_size=3000, val_size=1700)
    assert [len(batch.inputs) for batch in task.evaluation("train")] == [1000, 700]


def test_every_pair_is_asked_for_equally_often():
    inputs = make().batch("train", 0, 10_000).inputs
    share = (inputs[:, :8:2] == inputs[:, -1:]).double().mean(0)
    assert share.tolist() == pytest.approx([0.25] * 4, abs=0.02)


@pytest.mark.parametrize("train_size", [None, 1000])
def test_a_curriculum_begins_with_the_first_pairs_of_the_same_sequences(train_size):
    whole = make(num_pairs=13, train_size=train_size)
    task = make(num_pairs=13, train_size=train_size, curriculum_updates=24)
    lengths = []
    for index in (0, 2, 13, 23, 24, 100):
        batch, complete = task.batch("train", index, 200), whole.batch("train", index, 200)
        num_pairs = (batch.inputs.shape[1] - 3) // 2
        lengths.append(num_pairs)
        assert batch.inputs[:, : 2 * num_pairs].equal(complete.inputs[:, : 2 * num_pairs])
        letters, digits = batch.inputs[:, : 2 * num_pairs : 2], batch.inputs[:, 1 : 2 * num_pairs : 2]
        places = (letters == batch.inputs[:, -1:]).int()
        assert (places.sum(1) == 1).all()
        assert places.any(0).all()
        of_whole = (complete.inputs[:, :26:2] == complete.inputs[:, -1:]).int().argmax(1)
        assert places.argmax(1).equal(of_whole * num_pairs // 13)  # at the same relative place
        assert digits[places.bool()].sub(len(LETTERS)).equal(batch.targets)
    assert lengths == [1, 2, 7, 12, 13, 13]
    assert task.batch("train", 24, 200).inputs.equal(whole.batch("train", 24, 200).inputs)
    assert task.batch("val", 0, 200).inputs.equal(whole.batch("val", 0, 200).inputs)


def enumerate_digits(num_pairs: int) -> dict[str, float]:
    """The floors by their definitions, averaged over all 10^K draws of the digits."""
    error = nll = uniform_error = uniform_nll = 0.0
    draws = list(itertools.product(range(10), repeat=num_pairs))
    for draw in draws:
        counts = Counter(draw).values()
        error += 1 - max(counts) / num_pairs
        nll -= sum(n / num_pairs * math.log(n / num_pairs) for n in counts)
        uniform_error += 1 - 1 / len(counts)
        uniform_nll += math.log(len(counts))
    totals = {"error": error, "nll": nll, "uniform_error": uniform_error, "uniform_nll": uniform_nll}
    return {name: total / len(draws) for name, total in totals.items()}


@pytest.mark.parametrize("num_pairs", [1, 2, 3, 4, 5])
def test_floors_agree_with_an_enumeration_of_all_digits(num_pairs):
    expected, floors = enumerate_digits(num_pairs), make(num_pairs=num_pairs).floors
    bayes, uniform = floors["knows the digits, not the binding"], floors["uniform over the digits seen"]
    assert bayes["error"] == pytest.approx(expected["error"], abs=1e-9)
    assert bayes["nll"] == pytest.approx(expected["nll"], abs=1e-9)
    assert uniform["error"] == pytest.approx(expected["uniform_error"], abs=1e-9)
    assert uniform["nll"] == pytest.approx(expected["uniform_nll"], abs=1e-9)


@pytest.mark.parametrize(
    ("num_pairs", "error", "nll"), [(2, 45.00, 0.624), (3, 57.00, 0.963), (4, 61.65, 1.187), (5, 64.24, 1.349)]
)
def test_floors_are_the_known_numbers(num_pairs, error, nll):
    floors = make(num_pairs=num_pairs).floors
    floor = floors["knows the digits, not the binding"]
    assert round(100 * floor["error"], 2) == error
    assert round(floor["nll"], 3) == nll
    if num_pairs == 4:
        assert round(floors["uniform over the digits seen"]["nll"], 3) == 1.217
        assert round(floors["linear in the digit counts"]["nll"], 3) == 1.426


def test_distinct_digits_leave_a_choice_of_k():
    floor = make(num_pairs=4, replace_digits=False).floors["knows the digits, not the binding"]
    assert floor == {"error": 0.75, "nll": math.log(4)}


def digit_counts(inputs: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(inputs, len(SYMBOLS))[:, :, len(LETTERS) : len(LETTERS) + 10].sum(1).double()


@pytest.mark.parametrize("replace_digits", [True, False])
def test_a_predictor_from_the_digits_counts_reaches_the_floor(replace_digits):
    task = make(test_size=40_000, replace_digits=replace_digits)
    batch = task.batch("test", 0, 40_000)
    metrics = averages(task.metrics(Output((digit_counts(batch.inputs) + 1e-12).log(), torch.empty(0), None), batch))
    floor = task.floors["knows the digits, not the binding"]
    assert metrics["nll"] == pytest.approx(floor["nll"], abs=0.015)
    assert metrics["error"] == pytest.approx(floor["error"], abs=0.012)


def test_the_best_slope_on_the_counts_reaches_its_floor():
    task = make(test_size=40_000)
    batch = task.batch("test", 0, 40_000)
    counts = digit_counts(batch.inputs)
    nll = [task.criterion(slope * counts, batch) for slope in torch.linspace(1.5, 2.7, 25)]
    assert float(min(nll)) == pytest.approx(task.floors["linear in the digit counts"]["nll"], abs=0.015)


def test_too_many_pairs_for_distinct_digits_are_refused():
    with pytest.raises(ValueError, match=r"^num_pairs=12: must be at most 10 with replace_digits=false$"):
        make(num_pairs=12, replace_digits=False)


def test_the_picture_shows_the_sequence_and_both_answers():
    task = make(num_pairs=2)
    batch = task.batch("train", 0, 1)
    target = int(batch.targets[0])
    text = "".join(SYMBOLS[symbol] for symbol in batch.inputs[0].tolist())
    for answer, sign in ((target, "right"), ((target + 1) % 10, "WRONG")):
        logits = torch.full((1, 10), -50.0)
        logits[0, answer] = 50
        line = task.render(batch, 0, Output(logits, torch.empty(0), None))
        assert line == f"{text} -> {target}   predicted {answer} (p=1.000)   {sign}"


def test_examples_show_wrong_answers_where_there_are_any():
    task = AssociativeRetrieval(0, val_size=100)
    (batch,) = task.evaluation("val")
    answers = batch.targets.clone()
    answers[[17, 50]] = (answers[[17, 50]] + 1) % 10
    output = Output(20.0 * torch.nn.functional.one_hot(answers, 10), None, None)
    assert task.examples(batch, output, 6) == [0, 1, 2, 3, 17, 50]
    answers.copy_((batch.targets + 1) % 10)
    output = Output(20.0 * torch.nn.functional.one_hot(answers, 10), None, None)
    assert task.examples(batch, output, 6) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("right", "shown"),
    [([50], [0, 1, 2, 3, 4, 50]), ([17, 50, 60, 70], [0, 1, 2, 17, 50, 60]), ([0, 1, 2, 3], [0, 1, 2, 4, 5, 6])],
)
def test_examples_show_right_answers_where_there_are_any(right, shown):
    task = AssociativeRetrieval(0, val_size=100)
    (batch,) = task.evaluation("val")
    answers = (batch.targets + 1) % 10
    answers[right] = batch.targets[right]
    output = Output(20.0 * torch.nn.functional.one_hot(answers, 10), None, None)
    assert task.examples(batch, output, 6) == shown
    assert task.examples(batch, output, 1) == right[:1]
    assert task.examples(batch, output, 0) == []
