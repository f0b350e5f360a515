import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

from src.specs import Output
from src.tasks.selective_copying import SelectiveCopying, expected_largest_count
from tests.tasks.averages import averages

GAPS = ["uniform", "inserted", "irregular"]


@pytest.mark.parametrize("gaps", GAPS)
@pytest.mark.parametrize(("length", "copy_length"), [(20, 4), (4, 4), (30, 1)])
def test_the_symbols_are_due_in_their_order_after_the_sign_to_go(gaps, length, copy_length):
    task = SelectiveCopying(0, gaps=gaps, sequence_length=length, num_symbols=5, copy_length=copy_length)
    batch = task.batch("train", 0, 100)
    for inputs, targets, mask in zip(batch.inputs.tolist(), batch.targets.tolist(), batch.mask.tolist(), strict=True):
        assert inputs[length:] == [6] + [5] * (copy_length - 1)
        assert 6 not in inputs[:length]
        symbols = [symbol for symbol in inputs[:length] if symbol != 5]
        assert targets[length:] == symbols
        assert len(symbols) == copy_length
        assert mask == [False] * length + [True] * copy_length
        assert gaps == "uniform" or inputs[length - 1] != 5


def longest_gaps(gaps):
    task = SelectiveCopying(0, gaps=gaps, sequence_length=108)
    is_symbol = task.batch("test", 0, 1000).inputs[:, :108] < 14
    at = is_symbol.nonzero()[:, 1].view(1000, 8).double()
    return at.diff(dim=1).amax(1).mean()


def test_gaps_differ_more_and_more():
    inserted, uniform, irregular = (longest_gaps(gaps) for gaps in ("inserted", "uniform", "irregular"))
    assert 13.5 < inserted < uniform - 5 < irregular - 20
    simulated, random = [], np.random.default_rng(0)
    for z in random.standard_normal((1000, 8)):
        gaps = random.multinomial(100, np.exp(2 * z) / np.exp(2 * z).sum())
        simulated.append(1 + gaps[1:].max())  # the first gap is not between two symbols
    assert float(irregular) == pytest.approx(np.mean(simulated), rel=0.05)


def test_all_places_are_equally_likely():
    """Ten places for two symbols: each of 45 pairs in 1000 of 45,000 examples, within five standard deviations."""
    places = SelectiveCopying(0, copy_length=2, sequence_length=10)._places(10, 45_000, torch.Generator())
    counts = np.unique(places.numpy(), axis=0, return_counts=True)[1]
    assert len(counts) == 45
    assert abs(counts - 1000).max() < 5 * 1000**0.5


def test_the_test_can_be_longer():
    task = SelectiveCopying(0, sequence_length=20, test_length=60)
    assert task.batch("train", 0, 2).inputs.shape[1] == 28
    assert task.batch("val", 0, 2).inputs.shape[1] == 68


def test_errors_of_symbols_and_sequences():
    task = SelectiveCopying(0)
    batch = task.batch("test", 0, 4)
    logits = functional.one_hot(batch.targets, 14).float()
    logits[0, -1] *= -1
    metrics = averages(task.metrics(Output(logits, torch.empty(0), None), batch))
    assert {name: metrics[name] for name in ("error", "exact_error", "first_error", "last_error")} == {
        "error": 1 / 32,
        "exact_error": 1 / 4,
        "first_error": 0,
        "last_error": 1 / 4,
    }


def test_the_floor_of_the_most_frequent_symbol():
    """Compared with all draws of 4 symbols from 3."""
    draws = itertools.product(range(3), repeat=4)
    assert expected_largest_count(4, 3) == pytest.approx(np.mean([max(map(d.count, d)) for d in draws]))
    assert expected_largest_count(1, 9) == 1
    task = SelectiveCopying(0, num_symbols=3, copy_length=4)
    batch = task.batch("test", 0, 5000)
    counts = functional.one_hot(batch.targets[:, -4:], 3).sum(1).float()
    output = Output(counts[:, None].repeat(1, batch.inputs.shape[1], 1), torch.empty(0), None)
    floor = task.floors["knows the symbols, not their order"]["error"]
    assert averages(task.metrics(output, batch))["error"] == pytest.approx(floor, abs=0.01)


@pytest.mark.parametrize("key", ["sequence_length", "test_length"])
def test_symbols_that_do_not_fit_are_named(key):
    with pytest.raises(ValueError, match=f"{key}=7: must be at least 8"):
        SelectiveCopying(0, **{key: 7})


def test_the_floor_of_long_sequences():
    """Compared with a simulation, since factorials and powers for so many draws do not fit into a float."""
    draws = np.random.default_rng(0).integers(0, 36, (2000, 300))
    largest = np.mean([np.bincount(row).max() for row in draws])
    assert expected_largest_count(300, 36) == pytest.approx(largest, rel=0.01)
