import math
from collections import Counter

import pytest
import torch
from torch.nn import functional

from src.specs import Output
from src.tasks.mqar import MQAR
from tests.tasks.averages import averages


def certain(answers_NT, task):
    return Output(functional.one_hot(answers_NT, task.num_values).float() * 100, torch.empty(0), None)


@pytest.mark.parametrize("random_fillers", [False, True])
@pytest.mark.parametrize(
    ("variant", "num_passes"), [("plain", 1), ("plain", 2), ("forgetting", 1), ("compositional", 1)]
)
def test_every_key_comes_again_once_where_its_last_value_is_due(variant, num_passes, random_fillers):
    task = MQAR(2, variant=variant, num_passes=num_passes, random_fillers=random_fillers, num_slots=20)
    batch = task.batch("train", 0, 40)
    length = 2 if variant == "compositional" else 1
    num_writes = 16 * num_passes + 8 * (variant == "forgetting")
    assert batch.inputs.shape[1] == (length + 1) * (num_writes + 20)
    for inputs, targets, mask in zip(batch.inputs.tolist(), batch.targets.tolist(), batch.mask.tolist(), strict=True):
        memory = {}
        for start in range(0, num_writes * (length + 1), length + 1):
            memory[tuple(inputs[start : start + length])] = inputs[start + length] - task.first_value
        asked = [t for t, counts in enumerate(mask) if counts]
        keys = [tuple(inputs[t - length + 1 : t + 1]) for t in asked]
        assert sorted(keys) == sorted(memory)
        assert len(memory) == len(set(memory.values())) == 16
        assert [targets[t] for t in asked] == [memory[key] for key in keys]
        assert all((t - num_writes * (length + 1)) % (length + 1) == length - 1 for t in asked)
        rest = [s for t, s in enumerate(inputs) if t >= num_writes * (length + 1) and t not in asked]
        if not random_fillers and length == 1:
            assert set(rest) == {0}
        if variant == "compositional":
            assert all(len({key[half] for key in memory}) == 4 for half in (0, 1))
            assert all(1 <= key[0] <= 64 < key[1] <= 128 for key in memory)
    fillers = batch.inputs[:, num_writes * (length + 1) :][~batch.mask[:, num_writes * (length + 1) :]]
    assert not random_fillers or (fillers.min(), fillers.max()) == (0, task.input_spec.size - 1)


def test_slots_are_drawn_one_after_the_other_without_replacement():
    """With two slots of three: the probability of each ordered pair, computed by hand."""
    task = MQAR(0, num_pairs=2, num_slots=3, slot_power=0.5, random_fillers=False)
    slots = task._slots(40_000, torch.Generator().manual_seed(0))
    p = [1.0, 2**-0.5, 3**-0.5]
    p = [value / sum(p) for value in p]
    found = Counter(map(tuple, slots.tolist()))
    for a in range(3):
        for b in set(range(3)) - {a}:
            assert found[a, b] / 40_000 == pytest.approx(p[a] * p[b] / (1 - p[a]), abs=0.01)


def test_errors_are_divided_by_age_and_by_update():
    task = MQAR(0)
    batch = task.batch("test", 0, 100)
    oldest = (batch.inputs[:, :, None] == batch.inputs[:, None, :8:2]).any(2)
    wrong = certain(torch.where(oldest, (batch.targets + 1) % 64, batch.targets), task)
    metrics = averages(task.metrics(wrong, batch))
    assert (metrics["oldest_error"], metrics["newest_error"], metrics["error"]) == (1, 0, 0.25)

    task = MQAR(0, variant="forgetting", num_updates=4)
    batch = task.batch("test", 0, 100)
    updated = (batch.inputs[:, :, None] == batch.inputs[:, None, 32:40:2]).any(2)
    wrong = certain(torch.where(updated, (batch.targets + 1) % 64, batch.targets), task)
    metrics = averages(task.metrics(wrong, batch))
    assert (metrics["kept_error"], metrics["updated_error"], metrics["error"]) == (0, 1, 0.25)
    assert metrics["error"] == task.floors["remembers the first value of a key"]["error"]


def test_half_of_a_key_is_worth_its_floor():
    task = MQAR(0, variant="compositional", random_fillers=False)
    batch = task.batch("test", 0, 2000)
    logits = torch.zeros(2000, batch.inputs.shape[1], 64)
    at_NK = batch.mask.nonzero()[:, 1].view(2000, 16)
    keys_NW, values_NW = batch.inputs[:, 1:48:3], batch.inputs[:, 2:48:3] - task.first_value
    same_NKW = (batch.inputs.gather(1, at_NK)[:, :, None] == keys_NW[:, None]).float()
    possible_NKV = torch.einsum("nkw,nwv->nkv", same_NKW, functional.one_hot(values_NW, 64).float())
    logits.scatter_(1, at_NK[..., None].expand(-1, -1, 64), 100 * possible_NKV)
    metrics = averages(task.metrics(Output(logits, torch.empty(0), None), batch))
    floor = task.floors["knows half of each key"]
    assert floor == pytest.approx({"error": 3 / 4, "nll": math.log(4)})
    assert metrics["nll"] == pytest.approx(floor["nll"], rel=1e-4)
    assert metrics["error"] == pytest.approx(floor["error"], abs=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_slots": 15}, "num_slots=15: must be at least 16"),
        ({"variant": "compositional", "num_pairs": 8}, "num_pairs=8: must be a square number"),
        ({"variant": "forgetting", "num_updates": 17}, "num_updates=17: must be at most 16"),
        ({"num_keys": 8}, "num_pairs=16: must be at most 8"),
        ({"num_values": 8}, "num_values=8: must be at least 16"),
        ({"variant": "compositional", "num_pairs": 25, "num_keys": 4}, "num_pairs=25: must be at most 16"),
        ({"variant": "compositional", "num_values": 3}, "num_values=3: must be at least 16"),
    ],
)
def test_sizes_that_do_not_fit_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        MQAR(0, **settings)


def test_an_example_is_shown_with_its_answers():
    task = MQAR(0, num_pairs=1, num_slots=2, random_fillers=False)
    batch = task.batch("train", 0, 1)
    labels = task.labels(batch, 0)
    assert labels[0][0] == "k"
    assert labels[2:].count("_") == 3
    line = task.render(batch, 0, certain(batch.targets, task))
    assert line == f"{labels[0]}->{labels[1]}   predicted {labels[1]}   right"
