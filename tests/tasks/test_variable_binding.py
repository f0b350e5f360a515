import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from src.specs import Output
from src.tasks.variable_binding import VariableBinding, _different_codes, _ended_together
from tests.tasks.averages import averages


def make(**settings) -> VariableBinding:
    return VariableBinding(0, **{"sequence_length": 12, "num_items": 3, "num_bits": 5, **settings})


def predicted(prediction: torch.Tensor) -> Output:
    return Output(prediction, torch.empty(0), None)


def is_uniform(counts: torch.Tensor) -> bool:
    return chisquare(counts.numpy()).pvalue > 1e-4


def read(task: VariableBinding, sequence: list[list[float]]) -> tuple[list[list[float]], list[list[int]]]:
    """The patterns of all steps, and the items flagged at each of them."""
    num_bits, num_items = task.num_bits, task.num_items
    flagged = []
    for step in sequence:
        assert len(step) == num_bits + num_items
        assert all(flag in (0, 1) for flag in step[num_bits:])
        flagged.append([i for i in range(num_items) if step[num_bits + num_items - 1 - i] == 1])
    return [step[:num_bits] for step in sequence], flagged


def holds_numbers(task: VariableBinding, patterns: list[list[float]], written: set[int]) -> None:
    """Check that patterns are numbers or bits, and that without noise they are only at the steps `written`."""
    for step, pattern in enumerate(patterns):
        assert all(0 <= number <= 1 for number in pattern)
        assert task.real_patterns or all(number in (0, 1) for number in pattern)
        assert task.noise or step in written or not any(pattern)


SETTINGS = [
    {"noise": noise, "real_patterns": real, "num_items": num_items, "sequence_length": length}
    for noise, real in itertools.product([False, True], repeat=2)
    for num_items, length in [(2, 5), (3, 12), (4, 13)]
]


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("variant", ["recall", "order"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_recall_and_order_ask_for_a_flagged_item(settings, variant, offset):
    task = make(variant=variant, offset=offset, **settings)
    batch = task.batch("train", 0, 200)
    end = task.sequence_length - 1
    for sequence, target in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        patterns, flagged = read(task, sequence)
        step = {i: t for t in range(end) for i in flagged[t]}
        assert sorted(i for t in range(end) for i in flagged[t]) == list(range(task.num_items))
        written = {t + offset for t in step.values()}
        assert len(written) == task.num_items
        assert end not in written
        assert offset == 0 or not written & set(step.values())
        if variant == "recall":
            (asked,) = flagged[end]
            assert target == patterns[step[asked] + offset]
        else:
            assert flagged[end] == []
            matching = [i for i in step if patterns[step[i] + offset] == patterns[end]]
            assert matching == [target]
            written.add(end)
        holds_numbers(task, patterns, written)


@pytest.mark.parametrize(
    "settings", [*SETTINGS, {"min_keep": 3, "max_keep": 6}, {"min_keep": 0, "max_keep": 2}, {"sequence_length": 6}]
)
def test_continuous_asks_for_a_pattern_when_its_flag_goes_off(settings):
    task = make(variant="continuous", **{"sequence_length": 14, **settings, "num_items": 2})
    length = task.sequence_length
    least, most = settings.get("min_keep", 1) + 2, settings.get("max_keep", length)
    batch = task.batch("train", 0, 300)
    for sequence, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        patterns, flagged = read(task, sequence)
        expected = np.zeros((length, task.num_bits))
        starts = []
        for item in range(task.num_items):
            on = [t for t in range(length) if item in flagged[t]]
            assert on == list(range(on[0], on[-1] + 1))
            assert len(on) <= most
            assert len(on) >= least or on[-1] == length - 2
            assert on[-1] <= length - 2
            starts.append(on[0])
            expected[on[-1] + 1] += patterns[on[0] + 1]
        assert len(set(starts)) == task.num_items
        assert max(starts) < length // 2
        np.testing.assert_allclose(targets, np.minimum(expected, 1), atol=1e-6)
        holds_numbers(task, patterns, {start + 1 for start in starts})


@pytest.mark.parametrize("num_items", [1, 2])
@pytest.mark.parametrize("offset", [0, 1])
def test_all_sets_of_flagged_steps_are_equally_likely(num_items, offset):
    size, length = 20_000, 9
    task = make(sequence_length=length, num_items=num_items, offset=offset)
    batch = task.batch("train", 0, size)
    steps = batch.inputs[:, :-1, task.num_bits :].argmax(1)
    code = (steps * length ** torch.arange(num_items)).sum(1)
    allowed = [
        steps
        for steps in itertools.permutations(range(length - 1 - offset), num_items)
        if offset == 0 or all(abs(a - b) > 1 for a, b in itertools.combinations(steps, 2))
    ]
    counts = code.bincount()
    assert (counts > 0).sum() == len(allowed)
    assert is_uniform(counts[counts > 0])


@pytest.mark.parametrize("variant", ["recall", "order"])
def test_every_item_is_asked_for_equally_often(variant):
    task = make(variant=variant)
    batch = task.batch("train", 0, 20_000)
    asked = batch.targets if variant == "order" else batch.inputs[:, -1, task.num_bits :].argmax(1)
    assert is_uniform(asked.bincount(minlength=3))


def test_patterns_are_fair_and_differ_from_row_to_row():
    task = make(variant="continuous", num_bits=30, num_items=2)
    batch = task.batch("train", 0, 2000)
    starts = batch.inputs[..., 30:].argmax(1)
    patterns = batch.inputs[torch.arange(2000)[:, None], starts + 1, :30]
    assert abs(float(patterns.mean()) - 0.5) < 0.01
    assert len(patterns.flatten(0, 1).unique(dim=0)) == 4000


def test_delays_of_the_flags_are_uniform():
    task = make(variant="continuous", sequence_length=40, num_items=2, min_keep=2, max_keep=9)
    on = task.batch("train", 0, 10_000).inputs[..., task.num_bits :].sum(1).long().flatten()
    assert on.unique().tolist() == [4, 5, 6, 7, 8, 9]
    assert is_uniform(on.bincount()[4:])


@pytest.mark.parametrize(("num_items", "num_codes"), [(2, 2), (3, 4), (2, 7)])
def test_different_patterns_are_drawn_fairly(num_items, num_codes):
    codes = _different_codes(20_000, num_items, num_codes, torch.Generator().manual_seed(0))
    tuples, counts = codes.unique(dim=0, return_counts=True)
    assert sorted(map(tuple, tuples.tolist())) == list(itertools.permutations(range(num_codes), num_items))
    assert is_uniform(counts)


def enumerate_ended(length: int, num_items: int, shortest: int, longest: int) -> np.ndarray:
    """The probability that c items end together at each step, by enumerating all starts and delays."""
    total = np.zeros((length, num_items + 1))
    starts = list(itertools.combinations(range(length // 2), num_items))
    delays = list(itertools.product(range(shortest, longest + 1), repeat=num_items))
    for start, delay in itertools.product(starts, delays):
        asked = [min(s + d, length - 2) + 1 for s, d in zip(start, delay, strict=True)]
        for t in range(length):
            total[t, asked.count(t)] += 1
    return total / (len(starts) * len(delays))


@pytest.mark.parametrize("case", [(3, 1, 2, 2), (8, 1, 2, 7), (8, 2, 2, 7), (9, 3, 1, 8), (8, 4, 2, 4), (10, 3, 2, 4)])
def test_the_probability_of_ending_together_agrees_with_an_enumeration(case):
    np.testing.assert_allclose(_ended_together(*case), enumerate_ended(*case), atol=1e-12)


@pytest.mark.parametrize(
    ("length", "num_items", "nats"),
    [(100, 1, 5.545), (100, 2, 10.56), (100, 3, 15.25), (200, 2, 10.59), (200, 3, 15.32)],
)
def test_floors_of_continuous_agree_with_simulated_numbers(length, num_items, nats):
    task = make(variant="continuous", sequence_length=length, num_items=num_items, num_bits=8)
    # The numbers are from 6000 simulated rows, with a standard error of up to 0.035.
    assert task.floors["knows when, not what"]["nats"] == pytest.approx(nats, abs=0.001 if num_items == 1 else 0.09)


def test_floors_of_one_item_are_closed_forms():
    floors = make(variant="continuous", sequence_length=100, num_items=1, num_bits=8).floors
    assert floors["knows when, not what"]["nats"] == pytest.approx(8 * math.log(2))
    rate = 0.5 / 100
    entropy = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
    assert floors["the same answer at every step"] == pytest.approx(
        {"error": 0.5, "nll": entropy, "nats": 800 * entropy}
    )
    assert make(variant="order", num_items=4).floors["chance"] == {"error": 0.75, "nll": math.log(4)}
    assert make(num_bits=2).floors["chance"] == {"error": 0.5, "nll": math.log(2), "exact_error": 0.75}
    assert make(real_patterns=True).floors["chance"] == {"mse": 1 / 12}


def num_asked(task: VariableBinding, batch) -> torch.Tensor:
    """How many patterns are asked for at every step, [N, T, 1]."""
    flags = batch.inputs[..., task.num_bits :]
    ended = (flags[:, :-1] - flags[:, 1:] == 1).sum(2)
    return torch.nn.functional.pad(ended, (1, 0))[..., None]


@pytest.mark.parametrize("real_patterns", [False, True])
def test_predictors_that_know_when_or_nothing_reach_the_floors_of_continuous(real_patterns):
    size = 20_000
    task = make(variant="continuous", num_items=3, real_patterns=real_patterns, test_size=size)
    batch = task.batch("test", 0, size)
    asked = num_asked(task, batch)
    constant = batch.targets.mean().expand_as(batch.targets)
    if real_patterns:
        means = torch.tensor([1 - 1 / math.factorial(c + 1) for c in range(4)])
        answers = {"the same answer at every step": constant, "knows when, not what": means[asked].expand_as(constant)}
    else:
        rate = (1 - 0.5**asked).clamp(min=1e-9).expand_as(constant)
        answers = {"the same answer at every step": constant.logit(), "knows when, not what": rate.logit()}
    assert set(answers) == set(task.floors)
    for description, floor in task.floors.items():
        metrics = averages(task.metrics(predicted(answers[description]), batch))
        assert metrics == pytest.approx(floor, rel=0.02), description


@pytest.mark.parametrize("real_patterns", [False, True])
@pytest.mark.parametrize("num_items", [1, 2, 3, 4])
def test_a_predictor_that_knows_the_patterns_reaches_the_floor_of_recall(num_items, real_patterns):
    size = 20_000
    task = make(num_items=num_items, real_patterns=real_patterns, test_size=size)
    batch = task.batch("test", 0, size)
    steps = batch.inputs[:, :-1, task.num_bits :].argmax(1)
    mean = batch.inputs[torch.arange(size)[:, None], steps, : task.num_bits].mean(1)
    answer = mean if real_patterns else mean.clamp(1e-6, 1 - 1e-6).logit()
    metrics = averages(task.metrics(predicted(answer), batch))
    for name, value in task.floors["knows the patterns, not the binding"].items():
        assert metrics[name] == pytest.approx(value, abs=0.01), name


def test_error_of_continuous_counts_the_steps_asked_for_and_nothing_else():
    task = make(variant="continuous", num_items=2)
    batch = task.batch("train", 0, 50)
    asked = num_asked(task, batch) > 0
    right = 20 * (2 * batch.targets - 1)
    assert averages(task.metrics(predicted(torch.where(asked, right, -right)), batch))["error"] == 0
    assert averages(task.metrics(predicted(torch.where(asked, -right, right)), batch))["error"] == 1
    metrics = averages(task.metrics(predicted(torch.zeros_like(right)), batch))
    assert metrics["nats"] == pytest.approx(12 * 5 * math.log(2), rel=1e-5)


def test_one_wrong_bit_makes_a_pattern_wrong():
    task = make()
    batch = task.batch("train", 0, 4)
    logits = 20 * (2 * batch.targets - 1)
    logits[1, 2] *= -1
    metrics = averages(task.metrics(predicted(logits), batch))
    assert metrics["error"] == pytest.approx(1 / 20)
    assert metrics["exact_error"] == 0.25
    assert [task.render(batch, row, predicted(logits)).split()[-1] for row in range(3)] == ["right", "WRONG", "right"]


def test_the_picture_shows_what_was_asked_and_both_answers():
    for variant in ("recall", "order", "continuous"):
        task = make(variant=variant, num_items=2)
        batch = task.batch("train", 0, 1)
        if variant == "order":
            right = 20.0 * torch.nn.functional.one_hot(batch.targets, 2)
            shown = f"-> {int(batch.targets)}   predicted {int(batch.targets)} (p=1.000)   right"
        else:
            right = 20 * (2 * batch.targets - 1)
            pattern = (
                batch.targets[0] if variant == "recall" else batch.targets[0][num_asked(task, batch)[0, :, 0] > 0][0]
            )
            bits = "".join(str(int(bit)) for bit in pattern)
            shown = f"-> {bits}   predicted {bits}   right" if variant == "recall" else f"{bits} predicted {bits} at "
        assert shown in task.render(batch, 0, predicted(right))
        assert task.render(batch, 0, predicted(-right)).endswith("WRONG")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_items": 12}, "num_items=12: must be at most 11 "),
        ({"num_items": 6, "offset": 1}, "num_items=6: must be at most 5 "),
        ({"num_items": 7, "variant": "continuous"}, "num_items=7: must be at most 6 "),
        ({"num_items": 1, "variant": "order"}, "num_items=1: must be at least 2 "),
        ({"num_items": 3, "num_bits": 1, "variant": "order"}, "num_items=3: must be at most 2 "),
        ({"offset": 1, "variant": "continuous"}, "offset=1: "),
        ({"min_keep": 2}, "min_keep=2: "),
        ({"max_keep": 5}, "max_keep=5: "),
        ({"max_keep": 5, "min_keep": 4, "variant": "continuous"}, r"max_keep=5: must be at least min_keep \+ 2 = 6"),
        ({"min_keep": 11, "variant": "continuous"}, r"sequence_length=12: must be at least min_keep \+ 2 = 13"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_items": 11},
        {"num_items": 5, "offset": 1},
        {"num_items": 6, "variant": "continuous"},
        {"num_items": 2, "num_bits": 1, "variant": "order"},
        {"min_keep": 10, "variant": "continuous"},
        {"sequence_length": 3, "num_items": 1, "variant": "continuous"},
        {"sequence_length": 3, "num_items": 1, "offset": 1},
    ],
)
def test_settings_at_their_limits_work(settings):
    task = make(**settings)
    assert task.batch("train", 0, 50).inputs.shape == (50, task.sequence_length, task.num_bits + task.num_items)
    assert task.floors
