"""What models and tasks share: batches, losses, objectives and states."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from src.specs import Batch, InputSpec, Objective, Output, OutputSpec, Step, map_state, state_tensors

OUTPUT = Output(torch.zeros(1, 1), torch.zeros(1, 1), None)


def test_the_loss_is_the_sum_of_its_parts_with_their_gradients():
    parts = {
        name: torch.tensor(value, requires_grad=True) for name, value in [("nll", 2.0), ("norm", 0.5), ("l2", 0.25)]
    }
    step = Step({name: (k + 1) * part for k, (name, part) in enumerate(parts.items())}, OUTPUT)
    assert step.loss.item() == 2.0 + 2 * 0.5 + 3 * 0.25
    step.loss.backward()
    assert [part.grad.item() for part in parts.values()] == [1, 2, 3]


def test_a_single_part_is_the_loss_itself():
    part = torch.tensor(2.0)
    assert Step({"nll": part}, OUTPUT).loss is part


def test_the_sum_leaves_the_parts_as_they_are():
    step = Step({"nll": torch.tensor(2.0), "norm": torch.tensor(0.5)}, OUTPUT)
    assert step.loss.item() == step.loss.item() == 2.5
    assert {name: part.item() for name, part in step.losses.items()} == {"nll": 2.0, "norm": 0.5}


@pytest.mark.parametrize("full", [False, True])
def test_rows_of_a_batch_are_rows_of_everything_in_it(full):
    rest = (torch.rand(5, 3) < 0.5, torch.tensor([1, 2, 3, 2, 1])) if full else (None, None)
    batch = Batch(torch.randn(5, 3, 2), torch.randn(5, 3, 1), *rest)
    for rows in (slice(1, 4), torch.tensor([4, 0, 0])):
        for taken, tensor in zip(batch.take(rows), batch, strict=True):
            assert (taken is None) == (tensor is None)
            assert tensor is None or torch.equal(taken, tensor[rows])
    assert all(tensor is None or tensor.is_meta for tensor in batch.to(torch.device("meta")))


@pytest.mark.parametrize(("higher_is_better", "better", "worse"), [(False, 0.1, 0.3), (True, 0.3, 0.1)])
def test_an_objective_knows_its_direction(higher_is_better, better, worse):
    objective = Objective("metric", higher_is_better)
    assert objective.improves(better, worse)
    assert not objective.improves(worse, better)
    assert not objective.improves(better, better)
    assert not objective.improves(math.nan, worse)
    assert objective.improves(worse, math.nan)
    assert not objective.improves(math.nan, math.nan)
    assert objective.reached(better, worse)
    assert objective.reached(better, better)
    assert not objective.reached(worse, better)
    assert not objective.reached(math.nan, worse)


def test_specs_say_what_they_are():
    assert str(InputSpec("tokens", 37)) == "tokens of 37"
    assert str(OutputSpec("class", 10)) == "class of 10 at the last step"
    assert str(OutputSpec("bits", 8, every_step=True)) == "bits of 8 at every step"
    assert str(OutputSpec("policy", 3, every_step=True)) == "policy of 3 at every step"


def test_a_policy_has_one_output_more_for_its_value():
    assert OutputSpec("policy", 3).num_outputs == 4
    assert OutputSpec("class", 3).num_outputs == 3


class Pair(NamedTuple):
    """Two tensors."""

    a: Tensor
    b: Tensor


@pytest.mark.parametrize(
    "state",
    [
        torch.ones(2),
        (torch.ones(2), torch.zeros(2, 3)),
        Pair(torch.ones(2), torch.zeros(2, 3)),
        {"x": [Pair(torch.ones(2), torch.zeros(2, 3)), torch.arange(2)], "a": (torch.ones(2),)},
    ],
)
def test_a_state_of_any_nesting_is_mapped_tensor_by_tensor(state):
    doubled = map_state(lambda tensor: 2 * tensor, state)
    assert type(doubled) is type(state)
    pairs = list(zip(state_tensors(doubled), state_tensors(state), strict=True))
    assert all(torch.equal(twice, once + once) and twice.dtype == once.dtype for twice, once in pairs)
    again = iter(state_tensors(doubled))
    assert all(
        a is b
        for a, b in zip(state_tensors(map_state(lambda _: next(again), state)), state_tensors(doubled), strict=True)
    )
