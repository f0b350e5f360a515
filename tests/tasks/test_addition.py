import math

import pytest
import torch
from scipy.stats import chisquare

from src.specs import Output
from src.tasks.addition import Addition
from tests.tasks.averages import averages

VARIANTS = [("halves", "sum"), ("halves", "product"), ("anywhere", "sum"), ("hochreiter1997", "sum")]


def make(**settings) -> Addition:
    return Addition(0, **{"train_size": None, "sequence_length": 20, **settings})


def marked(batch) -> torch.Tensor:
    """The marked steps in ascending order, [N, 2]."""
    assert (batch.inputs[..., 1].sum(1) == 2).all()
    return batch.inputs[..., 1].nonzero()[:, 1].view(-1, 2)


@pytest.mark.parametrize(("variant", "operation"), VARIANTS)
@pytest.mark.parametrize("length", [20, 21])
def test_the_target_follows_from_the_two_marked_values(variant, operation, length):
    batch = make(variant=variant, operation=operation, sequence_length=length).batch("train", 0, 300)
    low = -1 if variant == "hochreiter1997" else 0
    assert batch.inputs.shape == (300, length, 2)
    assert low <= batch.inputs[..., 0].min() < low + 0.01
    assert 0.99 < batch.inputs[..., 0].max() <= 1
    for sequence, target in zip(batch.inputs.tolist(), batch.targets[:, 0].tolist(), strict=True):
        assert all(marker in (0, 1) for _, marker in sequence)
        x, y = (value for value, marker in sequence if marker == 1)
        expected = x * y if operation == "product" else 0.5 + (x + y) / 4 if low == -1 else x + y
        assert target == pytest.approx(expected, abs=1e-6)


def is_uniform(counts: torch.Tensor) -> bool:
    return len(counts) == 1 or chisquare(counts.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("length", [2, 3, 20, 21])
def test_halves_marks_one_step_of_each_half_uniformly(length):
    first, second = marked(make(sequence_length=length).batch("train", 0, 20_000)).unbind(1)
    half = length // 2
    assert first.max() < half <= second.min()
    assert is_uniform(first.bincount(minlength=half))
    counts = second.bincount(minlength=length)
    assert counts.shape == (length,)
    assert is_uniform(counts[half:])


@pytest.mark.parametrize("length", [2, 3, 9])
def test_anywhere_marks_every_pair_of_steps_equally_often(length):
    first, second = marked(make(sequence_length=length, variant="anywhere").batch("train", 0, 20_000)).unbind(1)
    counts = torch.zeros(length, length).index_put_((first, second), torch.ones(20_000), accumulate=True)
    assert is_uniform(counts[*torch.triu_indices(length, length, 1)])


def test_hochreiter1997_marks_one_of_the_first_ten_steps_and_another_of_the_first_half():
    length, size = 41, 40_000
    pairs = marked(make(sequence_length=length, variant="hochreiter1997").batch("train", 0, size))
    counts = torch.zeros(length, length).index_put_(tuple(pairs.t()), torch.ones(size), accumulate=True)
    assert (pairs[:, 0] < 10).all()
    assert (pairs[:, 1] < length // 2).all()
    # Two steps of the first ten can be drawn in either order, so such pairs come twice as often.
    early, late = counts[:10, :10][*torch.triu_indices(10, 10, 1)], counts[:10, 10 : length // 2].flatten()
    assert is_uniform(torch.cat([early / 2, late]))


@pytest.mark.parametrize(("variant", "operation"), VARIANTS)
def test_hand_made_predictors_reach_their_floors(variant, operation):
    size = 200_000
    task = make(variant=variant, operation=operation, test_size=size)
    batch = task.batch("test", 0, size)
    first = batch.inputs[..., 0].gather(1, marked(batch)[:, :1])
    mean = {"sum": 1.0, "product": 0.25}[operation] if variant != "hochreiter1997" else 0.5
    one = {"sum": first + 0.5, "product": first / 2}[operation] if variant != "hochreiter1997" else 0.5 + first / 4
    answers = {"always the mean": torch.full_like(first, mean), "knows one of the two values": one}
    assert set(answers) == set(task.floors)
    for description, floor in task.floors.items():
        metrics = averages(task.metrics(Output(answers[description], torch.empty(0), None), batch))
        assert metrics["mse"] == pytest.approx(floor["mse"], rel=0.015), description
        assert metrics["error"] == pytest.approx(floor["error"], abs=0.005), description


def test_floors_are_the_known_numbers():
    """A sum of two uniform numbers is within 0.04 of its mean with probability 1 - 0.96² = 0.0784."""
    assert make().floors["always the mean"] == pytest.approx({"mse": 1 / 6, "error": 1 - 0.0784})
    product = make(operation="product").floors["always the mean"]
    assert product["mse"] == pytest.approx(7 / 144)
    assert round(1 - product["error"], 3) == 0.111
    assert make(variant="hochreiter1997").floors["always the mean"]["mse"] == pytest.approx(1 / 24)


def test_an_answer_is_wrong_if_more_than_four_hundredths_off_or_no_number():
    task = make()
    batch = task.batch("train", 0, 5)
    off = torch.tensor([[0.0], [0.039], [-0.041], [0.2], [math.nan]])
    output = Output(batch.targets + off, torch.empty(0), None)
    assert averages(task.metrics(output, batch))["error"] == pytest.approx(0.6)
    verdicts = [task.render(batch, row, output).split()[-1] for row in range(5)]
    assert verdicts == ["right", "right", "WRONG", "WRONG", "WRONG"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"operation": "product"}, r"^operation=product: must be sum with variant=hochreiter1997$"),
        ({"sequence_length": 19}, r"^sequence_length=19: must be at least 20 with variant=hochreiter1997$"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make(variant="hochreiter1997", **settings)
