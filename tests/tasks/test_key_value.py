import pytest
import torch

from src.specs import Output
from src.tasks.key_value import KeyValue
from tests.tasks.averages import averages


@pytest.mark.parametrize(("setting", "num_pairs"), [("capacity", 9), ("overwriting", 18)])
def test_the_answer_is_the_last_value_of_the_key(setting, num_pairs):
    task = KeyValue(0, setting=setting, num_keys=9)
    batch = task.batch("train", 0, 200)
    assert batch.inputs.shape == (200, num_pairs + 1, 18)
    repeated, pairs = 0, set()
    for row, target in zip(batch.inputs, batch.targets, strict=True):
        keys, values = row[:-1, :9].argmax(1).tolist(), row[:-1, 9:].argmax(1).tolist()
        assert row[:-1].sum() == 2 * num_pairs
        assert row[-1].sum() == 1
        memory = dict(zip(keys, values, strict=True))
        assert target.tolist() == [float(i == memory[int(row[-1].argmax())]) for i in range(9)]
        repeated += len(memory) < num_pairs
        assert setting == "overwriting" or sorted(keys) == sorted(values) == list(range(9))
        pairs |= set(zip(range(num_pairs), keys, values, strict=True))
    assert repeated == (200 if setting == "overwriting" else 0)
    assert all({pair[i] for pair in pairs if pair[0] == 0} == set(range(9)) for i in (1, 2))
    assert len({pair[1:] for pair in pairs}) == 9 * 9  # every key comes with every value


def test_frequent_keys_are_asked_for_more_often():
    """The key is that of a random step: twice as likely if it comes twice as often."""
    task = KeyValue(0, setting="overwriting", num_keys=4)
    batch = task.batch("train", 0, 20_000)
    counts_NK = batch.inputs[:, :-1, :4].sum(1)
    asked_N = batch.inputs[:, -1, :4].argmax(1)
    share = counts_NK[:, 0] / 8
    for count in (1, 2, 3):
        chosen = counts_NK[:, 0] == count
        assert (asked_N[chosen] == 0).float().mean() == pytest.approx(float(share[chosen][0]), abs=0.02)


@pytest.mark.parametrize("setting", ["capacity", "overwriting"])
def test_constant_predictors_are_at_their_floors(setting):
    task = KeyValue(0, setting=setting, num_keys=5)
    batch = task.batch("test", 0, 2000)
    for name, value in (("zeros", 0.0), ("the mean of all values", 0.2)):
        output = Output(torch.full((2000, 5), value), torch.empty(0), None)
        metrics = averages(task.metrics(output, batch))
        for metric, floor in task.floors[name].items():
            assert metrics[metric] == pytest.approx(floor, abs=1e-5 if metric == "squared_error" else 0.03)
