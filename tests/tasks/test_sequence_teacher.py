import pytest
import torch

from src.specs import Output
from src.tasks.sequence_teacher import SequenceTeacher
from tests.tasks.averages import averages


def test_targets_are_the_states_of_the_network():
    task = SequenceTeacher(0, sequence_length=6, vector_size=5, rank=3, num_layers=3)
    assert [layer.G_JPQ.shape for layer in task.layers] == [(5, 3, 3)] * 3
    batch = task.batch("train", 0, 4)
    expected = batch.inputs
    for layer in task.layers:
        h, states = torch.ones(4, 5), []
        for t in range(6):
            h = torch.relu(torch.einsum("bi,ijk,bk->bj", h, layer.full(), expected[:, t]))
            size = h.square().mean(1, keepdim=True).sqrt()
            h = torch.where(size > 0, h / size, torch.ones(()))
            states.append(h)
        expected = torch.stack(states, dim=1)
    torch.testing.assert_close(batch.targets, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("constant", [False, True])
def test_targets_do_not_die_out_so_that_zero_is_never_a_good_answer(constant):
    task = SequenceTeacher(0, sequence_length=200, constant_input=constant, test_size=100)
    batch = task.batch("test", 0, 100)
    torch.testing.assert_close(batch.targets.square().mean(2), torch.ones(100, 200), rtol=1e-4, atol=1e-4)
    assert (batch.inputs.std(1).max() < 1e-5) == constant
    assert float(batch.inputs.square().mean()) == pytest.approx(1, abs=0.05)
    zero = Output(torch.zeros_like(batch.targets), torch.empty(0), None)
    assert averages(task.metrics(zero, batch))["mse"] == pytest.approx(task.floors["always zero"]["mse"], rel=1e-4)


def test_the_floor_of_means_is_reached_by_the_means():
    task = SequenceTeacher(0, sequence_length=20, val_size=300, test_size=300)
    batch = task.batch("test", 0, 300)
    means = task.batch("val", 0, 300).targets.mean((0, 1)).expand_as(batch.targets)
    _, floor = task.floors.values()
    found = averages(task.metrics(Output(means, torch.empty(0), None), batch))["mse"]
    assert 0.2 < floor["mse"] < 1
    assert found == pytest.approx(floor["mse"], rel=0.05)
