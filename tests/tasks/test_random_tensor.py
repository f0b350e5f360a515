import pytest
import torch

from src.specs import Output
from src.tasks.random_tensor import RandomTensor
from tests.tasks.averages import averages
from tests.tasks.largest import largest


@pytest.mark.parametrize(("form", "rank"), [("tensor_train", 3), ("cp", 5)])
def test_targets_are_the_product_with_the_tensor_and_the_floor_its_norm(form, rank):
    task = RandomTensor(1, vector_size=8, form=form, rank=rank, factor_std=0.5, train_size=None)
    batch = task.batch("test", 0, 5000)
    a, b = batch.inputs.unbind(1)
    torch.testing.assert_close(batch.targets, torch.einsum("bi,ijk,bk->bj", a, task.tensor, b), rtol=1e-4, atol=1e-4)
    assert batch.inputs.abs().max() <= 1

    def mse(prediction):
        return averages(task.metrics(Output(prediction, torch.empty(0), None), batch))["mse"]

    (floor,) = task.floors.values()
    assert mse(torch.zeros_like(batch.targets)) == pytest.approx(floor["mse"], rel=0.05)
    inputs = torch.cat([a, b, torch.ones(len(a), 1)], dim=1)
    linear = torch.linalg.lstsq(inputs, batch.targets).solution
    assert mse(inputs @ linear) == pytest.approx(floor["mse"], rel=0.05)
    wrong = task.tensor + 0.1 * torch.randn(8, 8, 8)
    error = float((wrong - task.tensor).square().sum()) / (9 * 8)
    assert mse(torch.einsum("bi,ijk,bk->bj", a, wrong, b)) == pytest.approx(error, rel=0.05)


@pytest.mark.parametrize(("form", "rank", "floor"), [("tensor_train", 16, 0.284), ("cp", 100, 0.111)])
def test_the_floors_of_the_papers_tensors(form, rank, floor):
    """On average n² s⁶ R² / 9 for a tensor train and n² s⁶ R / 9 for CP, with n = 100 and s = 0.1."""
    floors = [RandomTensor(seed, form=form, rank=rank).floors for seed in range(5)]
    values = [value["mse"] for found in floors for value in found.values()]
    assert sum(values) / 5 == pytest.approx(floor, rel=0.1)


def test_the_floor_has_the_scale_of_three_factors():
    one, other = (RandomTensor(0, vector_size=8, factor_std=std).floors.popitem()[1]["mse"] for std in (0.1, 0.2))
    assert other == pytest.approx(2**6 * one)


@pytest.mark.parametrize("form", ["tensor_train", "cp"])
def test_the_floor_needs_only_the_factors(form):
    task = RandomTensor(0, vector_size=50, form=form, rank=3)
    assert largest(lambda: task.floors) <= 50 * 3 * 3


def test_every_seed_has_a_tensor_of_its_own():
    one, again, other = (RandomTensor(seed, vector_size=4).tensor for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
