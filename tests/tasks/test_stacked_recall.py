import pytest
import torch
from torch.nn import functional

from src.specs import Output
from src.tasks.stacked_recall import StackedRecall
from tests.tasks.averages import averages
from tests.tasks.largest import largest


def logits_of(answers_NK, task):
    """Logits of certain answers at the steps where an answer is due."""
    logits = functional.one_hot(answers_NK, task.num_values).float() * 100
    return functional.pad(logits, (0, 0, task.num_writes, 0))


def output_of(logits):
    return Output(logits, torch.empty(0), None)


@pytest.mark.parametrize(("num_passes", "num_updates"), [(1, 0), (2, 0), (1, 3), (2, 8)])
def test_every_key_is_asked_for_once_and_the_answer_is_its_last_value(num_passes, num_updates):
    task = StackedRecall(3, num_passes=num_passes, num_updates=num_updates)
    batch = task.batch("train", 0, 50)
    num_writes = num_passes * 8 + num_updates
    assert batch.inputs.shape == (50, num_writes + 8, 64)
    assert torch.equal(batch.mask, (torch.arange(num_writes + 8) >= num_writes).repeat(50, 1))
    keys_NT = torch.cdist(batch.inputs[..., :32], task.keys_VD[None]).argmin(2).tolist()
    values_NT = torch.cdist(batch.inputs[..., 32:], task.values_VE[None]).argmin(2).tolist()
    assert batch.inputs[:, num_writes:, 32:].abs().max() == 0
    is_oldest_NK = (batch.inputs[:, num_writes:, :32] == batch.inputs[:, :1, :32]).all(-1)
    assert is_oldest_NK.any(0).all()  # the queries have an order of their own
    again_NUD = batch.inputs[:, num_passes * 8 : num_writes, :32]
    is_updated_NK = (again_NUD[:, :, None] == batch.inputs[:, None, :8, :32]).all(-1).any(1)
    assert is_updated_NK.any(0).all() == (num_updates > 0)  # any key can be updated
    assert is_updated_NK.sum() == 50 * num_updates
    for keys, values, targets in zip(keys_NT, values_NT, batch.targets.tolist(), strict=True):
        memory = {}
        for t in range(num_writes):
            assert values[t] != memory.get(keys[t]) or 8 <= t < num_passes * 8
            memory[keys[t]] = values[t]
        assert sorted(keys[num_writes:]) == sorted(memory)
        assert len(memory) == 8
        assert len(set(values[:num_writes])) == 8 + num_updates
        assert targets[num_writes:] == [memory[key] for key in keys[num_writes:]]


def test_the_embeddings_are_fixed_by_the_seed_and_on_the_unit_sphere():
    one, same, other = (StackedRecall(seed) for seed in (0, 0, 1))
    assert torch.equal(one.keys_VD, same.keys_VD)
    assert torch.equal(one.values_VE, same.values_VE)
    assert not torch.equal(one.keys_VD, other.keys_VD)
    assert torch.linalg.vector_norm(one.batch("train", 0, 5).inputs[:, :8, :32], dim=2) == pytest.approx(1, abs=1e-6)


def test_errors_are_divided_by_age_and_by_update():
    task = StackedRecall(0, num_pairs=10)
    batch = task.batch("test", 0, 300)
    right = batch.targets[:, 10:]
    is_first_written = (batch.inputs[:, 10:, None, :32] == batch.inputs[:, None, :2, :32]).all(-1).any(2)
    output = output_of(logits_of(torch.where(is_first_written, (right + 1) % 64, right), task))
    metrics = averages(task.metrics(output, batch))
    assert metrics["error"] == pytest.approx(0.2)
    assert metrics["oldest_error"] == pytest.approx(2 / 3)  # the oldest quarter of ten pairs is three of them
    assert metrics["newest_error"] == 0

    task = StackedRecall(0, num_pairs=10, num_updates=4)
    batch = task.batch("test", 0, 300)
    first = (torch.cdist(batch.inputs[:, 14:, :32], batch.inputs[:, :10, :32]) < 1e-3).int().argmax(2)
    old = torch.cdist(batch.inputs[:, :10, 32:], task.values_VE[None]).argmin(2).gather(1, first)
    metrics = averages(task.metrics(output_of(logits_of(old, task)), batch))
    assert metrics["kept_error"] == 0
    assert metrics["updated_error"] == 1
    assert metrics["error"] == task.floors["remembers the first value of a key"]["error"] == pytest.approx(0.4)


@pytest.mark.parametrize("num_updates", [0, 3, 8])
def test_a_network_that_knows_the_values_only_is_at_the_floor(num_updates):
    task = StackedRecall(0, num_updates=num_updates)
    batch = task.batch("test", 0, 4000)
    values_NW = torch.cdist(batch.inputs[:, : 8 + num_updates, 32:], task.values_VE[None]).argmin(2)
    updated = num_updates / 8
    share_W = torch.tensor([(1 - updated) / 8] * 8 + [1 / 8] * num_updates)
    shares_NV = torch.full((4000, 64), 1e-9).scatter_add_(1, values_NW, share_W.repeat(4000, 1))
    logits = shares_NV.log()[:, None].repeat(1, 16 + num_updates, 1)
    metrics = averages(task.metrics(output_of(logits), batch))
    floor = task.floors["knows the values, not the binding"]
    assert metrics["nll"] == pytest.approx(floor["nll"], rel=0.01)
    assert metrics["error"] == pytest.approx(floor["error"], abs=0.01)


@pytest.mark.parametrize(
    ("num_passes", "floor"), [(1, "adds the values of a key"), (2, "remembers the first value of a key")]
)
def test_a_memory_that_adds_is_at_its_floor(num_passes, floor):
    """An old value that was written twice outweighs the new one; two equal ones each are right half the time."""
    task = StackedRecall(0, num_passes=num_passes, num_updates=3)
    batch, num_writes = task.batch("test", 0, 50), task.num_writes
    written_NWD, asked_NKD = batch.inputs[..., :32].split([num_writes, 8], dim=1)
    same_NKW = (asked_NKD[:, :, None] == written_NWD[:, None]).all(-1).float()
    values_NW = (batch.inputs[:, :num_writes, 32:] @ task.values_VE.t()).argmax(2)
    sums_NKV = same_NKW @ functional.one_hot(values_NW, 64).float()
    likeliest_NKV = sums_NKV == sums_NKV.amax(2, keepdim=True)
    right_NK = likeliest_NKV.gather(2, batch.targets[:, num_writes:, None])[..., 0] / likeliest_NKV.sum(2)
    assert 1 - right_NK.mean().item() == pytest.approx(task.floors[floor]["error"])
    assert ("adds the values of a key" in task.floors) == (num_passes == 1)


def test_metrics_take_no_more_memory_than_the_predictions_and_the_pairs_of_keys():
    task = StackedRecall(0, num_pairs=20)
    batch = task.batch("test", 0, 5)
    output = output_of(logits_of(batch.targets[:, 20:], task))
    assert largest(lambda: task.metrics(output, batch)) <= output.prediction.numel()


def test_an_example_is_shown_with_its_answers():
    task = StackedRecall(0, num_pairs=2)
    batch = task.batch("train", 0, 1)
    output = output_of(logits_of(batch.targets[:, 2:], task))
    line = task.render(batch, 0, output)
    assert line.endswith("right")
    a, b = batch.targets[0, 2:].tolist()
    assert f"predicted v{a} v{b}" in line
    assert all(f"v{value}" in "".join(task.labels(batch, 0)[:2]) for value in (a, b))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_pairs": 65}, "num_pairs=65: must be at most 64"),
        ({"num_updates": 9}, "num_updates=9: must be at most 8"),
        ({"num_values": 10, "num_updates": 3}, "num_values=10: must be at least 11"),
    ],
)
def test_sizes_that_do_not_fit_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        StackedRecall(0, **settings)
