"""A kernel that projects the inputs itself has the same results as one that starts from projected inputs.

Shapes: B sequences, T time steps, X input features.
"""

import copy
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from src.benchmarks.updates import Yardstick
from src.models.attention import Attention
from src.models.fastweights import FastWeights
from src.models.fastweights_multilevel import FastWeightsMultilevel
from src.models.gru import GRU
from src.models.irnn import IRNN
from src.models.lstm import LSTM
from src.models.sequence import SequenceModel
from src.ops.generated import projecting
from src.specs import InputSpec, OutputSpec, state_tensors

B, T, H = 3, 21, 8
slow = pytest.mark.slow
each_core = pytest.mark.parametrize(
    ("kind", "features"),
    [(IRNN, 1), pytest.param(IRNN, 2, marks=slow), pytest.param(GRU, 2, marks=slow), pytest.param(LSTM, 1, marks=slow)],
)


def network(kind, features, **settings):
    torch.manual_seed(1)
    spec = OutputSpec("value", 2, every_step=settings.pop("every_step", False))
    model = SequenceModel(InputSpec("vectors", features), spec, lambda n: kind(n, hidden_size=H), **settings)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


def results(model, x_BTX, **given):
    output = model(x_BTX, **given)
    found = [output.prediction, output.hidden_BTH, *state_tensors(output.state)]
    loss = sum((result * torch.cos(torch.arange(result.numel())).view_as(result)).sum() for result in found)
    sources = [x_BTX, *model.parameters()]
    return [*found, *torch.autograd.grad(loss, sources, allow_unused=True, materialize_grads=True)]


@pytest.fixture
def inside(monkeypatch):
    """Project inside the kernel, however short the sequences are; count how often that is done."""
    runs, forward = [], projecting.Projecting.forward
    monkeypatch.setattr(projecting, "LARGE", 0)
    monkeypatch.setattr(projecting.Projecting, "forward", lambda *args: runs.append(1) or forward(*args))
    return runs


@each_core
@pytest.mark.parametrize("every_step", [False, True])
def test_a_kernel_that_projects_is_one_that_starts_from_projected_inputs(kind, features, every_step, inside):
    model = network(kind, features, every_step=every_step)
    x_BTX = torch.randn(B, T, features, requires_grad=True)
    resets_BT = torch.rand(B, T) < 0.2
    for given in ({}, {"resets": resets_BT}, {"state": model.core.initial_state(B)}):
        found = results(model, x_BTX, **given)
        assert inside.pop()
        apart = copy.deepcopy(model)
        apart.core.kernel = "reference"
        assert_close(found, results(apart, x_BTX, **given), rtol=1e-10, atol=1e-10)
        assert not inside


def test_a_copy_of_a_network_projects_with_its_own_weights(inside):
    model = network(IRNN, 1)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.core.input.weight.zero_()
        x_BTX = torch.randn(B, T, 1)
        assert torch.equal(copied(x_BTX).prediction, copied(0 * x_BTX).prediction)
        assert not torch.equal(model(x_BTX).prediction, copied(x_BTX).prediction)
    assert inside
    assert dict(copied.named_parameters()).keys() == dict(model.named_parameters()).keys()
    assert not any("projecting" in name for name in model.state_dict())


def test_another_core_projects_with_its_own_weights(inside):
    model, other = network(IRNN, 1), network(GRU, 1)
    x_BTX = torch.randn(B, T, 1)
    model(x_BTX)
    model.core = other.core
    model.head = other.head
    assert torch.equal(model(x_BTX).prediction, other(x_BTX).prediction)
    assert len(inside) == 3


def test_who_watches_the_core_sees_its_call(inside):
    model, seen = network(IRNN, 1), []
    watching = model.core.register_forward_hook(lambda core, given, result: seen.append(result))
    x_BTX = torch.randn(B, T, 1)
    watched = model(x_BTX).prediction
    assert len(seen) == 1
    assert not inside
    watching.remove()
    assert_close(model(x_BTX).prediction, watched)
    assert inside


@pytest.mark.parametrize("settings", [{"expansion_size": 5}, {"input_dropout": 0.5}])
def test_what_comes_between_the_inputs_and_the_core_is_not_left_out(settings, inside):
    network(IRNN, 1, **settings)(torch.randn(B, T, 1))
    assert not inside


def test_a_core_that_is_faster_otherwise_stays_as_it_is(inside):
    for kind in (FastWeights, FastWeightsMultilevel, Attention, partial(Yardstick, layer=torch.nn.GRU)):
        network(kind, 1)(torch.randn(B, T, 1))
    assert not inside


def test_short_sequences_and_wide_inputs_are_projected_outside(inside, monkeypatch):
    network(IRNN, 5)(torch.randn(B, T, 5))
    assert not inside
    monkeypatch.setattr(projecting, "LARGE", B * T * H * 8)  # the bytes of T steps in float64
    network(IRNN, 1)(torch.randn(B, T - 1, 1))
    assert not inside
    network(IRNN, 1)(torch.randn(B, T, 1))
    assert inside
