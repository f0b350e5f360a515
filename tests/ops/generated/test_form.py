"""The kernel of a core fits its current settings, wherever it is first called, and is checked against the scan.

Shapes: B sequences, T time steps, X input features, H hidden units.
"""

import copy
import cProfile
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from src.config.errors import UserError
from src.models.rnn import RNN
from src.ops.generated import derive, form
from src.ops.generated.emit import Source
from src.ops.generated.recipe import LoweringError
from src.ops.inputs import Inputs
from tests.ops.generated.cells import B, Leaky, Ordered, T, assert_fused_and_right
from tests.ops.generated.steps import Cell, H, TwoLayers, X

pytestmark = pytest.mark.usefixtures("kept")


class Started(Cell):
    """A cell whose initial state is a parameter or a buffer, copied for every sequence."""

    def __init__(self, trained=True):
        super().__init__()
        del self.rate_H
        rate_H = torch.zeros(H)
        if trained:
            self.rate_H = nn.Parameter(rate_H)
        else:
            self.register_buffer("rate_H", rate_H)

    def initial_state(self, batch_size):
        return self.rate_H.repeat(batch_size, 1)

    def step(self, p, h):
        h = torch.tanh(self.W(h) + p)
        return h, h


class Twice(Cell):
    """A cell with one tensor as both of its initial states."""

    def initial_state(self, batch_size):
        h = self.zeros(batch_size, H)
        return h, h

    def step(self, p, state):
        h, c = state
        h, c = torch.tanh(self.W(h) + p), 0.9 * c + h
        return c, (h, c)


class Scaled:
    """A function with a setting."""

    def __init__(self, factor):
        self.factor = factor

    def apply(self, x):
        """tanh, scaled."""
        return self.factor * torch.tanh(x)


class Set(Cell):
    """A cell with settings that are not single numbers: a list, a tensor and a function."""

    def __init__(self, function=torch.tanh):
        super().__init__()
        self.factors, self.shift_H, self.activation = [0.5, 0.2], torch.full((H,), 0.1), function

    def step(self, p, h):
        h = sum(self.factors) * self.activation(self.W(h) + p + self.shift_H)
        return h, h


def test_a_changed_setting_changes_what_the_kernel_does():
    core = Leaky()
    assert_fused_and_right(core)
    core.decay = 0.3
    assert_fused_and_right(core)
    core.activation = torch.sigmoid
    assert_fused_and_right(core)


def test_a_changed_setting_of_a_part_changes_what_the_kernel_does():
    core = RNN(X, hidden_size=H, layer_norm=True)
    assert_fused_and_right(core)
    core.norm.eps = 0.5
    assert_fused_and_right(core)


def test_a_changed_setting_of_an_inner_core_changes_what_the_kernel_does():
    core = TwoLayers()
    p_BTP = core.project(torch.randn(B, T, X))
    for reset in ("before", "after"):
        core.first.reset_before = reset == "before"
        torch.testing.assert_close(core(p_BTP)[0], core.scan(p_BTP)[0], rtol=0, atol=1e-12)


class OfTwo(Cell):
    """A cell with two matrices and two rates; each pair may also be a single tensor."""

    def __init__(self):
        super().__init__()
        self.other = nn.Linear(H, H)
        self.first, self.second = torch.tensor(0.5), torch.tensor(0.2)

    def step(self, p, h):
        h = torch.tanh(self.first * self.W(h) + self.second * self.other(p))
        return h, h


def test_what_was_one_tensor_may_become_two():
    core = OfTwo()
    tied, rate = core.other.weight, core.second
    core.other.weight, core.second = core.W.weight, core.first
    assert_fused_and_right(core)
    core.other.weight, core.second = tied, rate
    assert_fused_and_right(core)
    x_BTX = torch.randn(B, T, X)
    core(core.project(x_BTX))[0].sum().backward()
    assert core.other.weight.grad.any()


def test_changed_parameters_and_buffers_are_read_at_every_call():
    core = Ordered()
    assert_fused_and_right(core)
    core.W.weight = nn.Parameter(torch.randn(H, H))
    with torch.no_grad():
        core.rate_H.mul_(2)
        core.order_H.copy_(torch.tensor([5, 4, 3, 2, 1, 0]))
    assert_fused_and_right(core)
    core.load_state_dict(Ordered().state_dict())
    assert_fused_and_right(core)
    core.requires_grad_(False).W.weight.requires_grad_()
    assert_fused_and_right(core)
    core.W = nn.Linear(H, H, bias=False)
    assert_fused_and_right(core)


def assert_scanned_alike(core):
    """Compare a core with its scan, without a given state."""
    p_BTP = core.project(torch.randn(B, T, X))
    torch.testing.assert_close(core(p_BTP)[0], core.scan(p_BTP)[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("trained", [False, True])
def test_an_initial_state_that_happens_to_be_zero_is_read_when_it_is_not(trained):
    core = Started(trained)
    with torch.no_grad():
        assert core.is_fused
        assert_scanned_alike(core)
        core.rate_H.fill_(1.0)
        assert_scanned_alike(core)
    if trained:
        core(core.project(torch.randn(B, T, X)))[0].sum().backward()
        assert core.rate_H.grad.all()
    loaded = Started(trained)
    loaded.rate_H.data.fill_(1.0)
    assert_scanned_alike(loaded)


@pytest.mark.parametrize("order_H", [torch.arange(2 * H)[::2] // 2, torch.arange(-3, H)[3:], torch.arange(H).flip(0)])
def test_indices_are_read_where_they_lie_and_can_be_read_first_in_inference(order_H):
    core = Ordered()
    core.order_H = order_H
    with torch.inference_mode():
        core(core.project(torch.randn(B, T, X)))
    assert_fused_and_right(core)


def test_settings_that_are_no_single_numbers_are_seen_to_change():
    core = Set()
    assert_fused_and_right(core)
    core.factors[0] = 0.1
    assert_fused_and_right(core)
    core.shift_H.fill_(0.7)
    assert_fused_and_right(core)
    core.W = nn.Linear(H, H, bias=False)
    assert_fused_and_right(core)
    core.W.bias = nn.Parameter(torch.ones(H))
    assert_fused_and_right(core)


def test_a_function_in_the_place_of_one_that_is_gone_is_another():
    core = Set()
    for number in range(4):
        core.activation = None
        core.activation = Scaled(0.1 * number).apply
        assert_fused_and_right(core)


def test_a_method_of_an_object_is_not_taken_for_that_of_another(kept):
    for factor in (1.0, 3.0):
        assert_fused_and_right(Set(Scaled(factor).apply))
    assert not kept.exists()


def test_one_tensor_may_be_two_states():
    assert Twice().is_fused
    assert_scanned_alike(Twice())


@pytest.mark.parametrize(
    "around",
    [
        cProfile.Profile,
        torch.inference_mode,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.autograd.set_detect_anomaly(True),
    ],
    ids=["profiled", "inference", "autocast", "anomaly"],
)
def test_what_happens_to_be_around_the_first_call_decides_nothing(around):
    core = Leaky()
    with around():
        assert core.is_fused
    assert_fused_and_right(core)
    assert_fused_and_right(Leaky())


def test_weights_that_overflow_decide_nothing():
    core = RNN(X, hidden_size=H, nonlinearity="linear").float()
    core.recurrent.weight.data.fill_(1e30)
    assert core.is_fused
    assert RNN(X, hidden_size=H, nonlinearity="linear").float().is_fused


def test_threads_may_call_for_the_first_time_at_once():
    cores = [Leaky(0.1 * number) for number in range(4)]
    with ThreadPoolExecutor(len(cores)) as pool:
        assert all(pool.map(lambda core: core.is_fused, cores))


def test_a_setting_that_requires_a_gradient_has_no_kernel():
    core = Leaky(torch.tensor(0.5, requires_grad=True))
    core.kernel = "fused"
    with pytest.raises(UserError, match="decay: a setting that requires a gradient; make it a parameter"):
        core(core.project(torch.randn(B, T, X)))


def test_inputs_of_different_shapes_are_an_error():
    core = Leaky()
    p_BTP = core.project(torch.randn(B, T, X))
    with pytest.raises(ValueError, match=r"^resets of shape \[1, 4\]: expected \[3, 4\]$"):
        core(Inputs(p_BTP, resets=torch.zeros(1, T, dtype=torch.bool)))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda core: pickle.loads(pickle.dumps(core))])
@pytest.mark.parametrize("used", [False, True])
def test_a_copy_of_a_core_has_its_own_kernel(duplicate, used):
    core = Leaky()
    if used:
        assert_fused_and_right(core)
    other = duplicate(core)
    other.decay = 0.2
    for each in (other, core):
        assert_fused_and_right(each)
    p_BTP = core.project(torch.randn(B, T, X))
    assert not torch.equal(core(p_BTP)[0], other(p_BTP)[0])


def test_a_kernel_is_forgotten_with_its_core():
    core = Leaky()
    assert_fused_and_right(core)
    known = len(form._KERNELS)
    del core
    assert len(form._KERNELS) == known - 1


def test_a_kernel_that_disagrees_with_the_scan_is_refused(monkeypatch, caplog, kept):
    emit = derive.emit

    def wrong(plan, scalar):
        source = emit(plan, scalar)
        assert "hyperbolic_tangent<S>" in source.text
        return Source(source.text.replace("hyperbolic_tangent<S>", "sigmoid<S>"), *source[1:])

    monkeypatch.setattr(derive, "emit", wrong)
    core = Leaky()
    with caplog.at_level(logging.DEBUG, logger="src.ops.generated"):
        assert not core.is_fused
    (said,) = (record.getMessage() for record in caplog.records if "Leaky" in record.getMessage())
    assert "its results differ from those of the step" in said
    p_BTP = core.project(torch.randn(B, T, X))
    assert torch.equal(core(p_BTP)[0], core.scan(p_BTP)[0])


def test_a_wrong_gradient_alone_is_refused_too(monkeypatch):
    emit = derive.emit

    def wrong(plan, scalar):
        source = emit(plan, scalar)
        forward, backward = source.text.split("void backward(Places")
        assert "all<S>(1) - " in backward
        return Source(f"{forward}void backward(Places{backward.replace('all<S>(1) - ', 'all<S>(2) - ')}", *source[1:])

    monkeypatch.setattr(derive, "emit", wrong)
    core = Leaky()
    assert not core.is_fused


class Scarcely(Cell):
    """A cell that mixes the sequences of a batch, but only if numbers are large."""

    def step(self, p, h):
        h = self.W(h) + p
        return h, 50 * h / h.norm().clamp(min=50)


class Undefined(Cell):
    """A cell with outputs that are nan or infinite."""

    def step(self, p, h):
        h = torch.tanh(self.W(h) + p)
        return torch.cat([p.sqrt(), 1 / p.relu(), h], 1), h


def test_a_new_kernel_is_compared_on_large_numbers_too_and_where_the_scan_is_undefined():
    assert not Scarcely().is_fused
    assert Undefined().is_fused


@pytest.mark.parametrize("undefined", [torch.inf, torch.nan])
def test_what_is_undefined_in_the_scan_hides_nothing_else(undefined):
    expected = [torch.tensor([undefined, 1.0])] * 2
    form._refuse_another(expected, expected, 1, 1e-8)
    for number in (0, 1):
        actual = list(expected)
        actual[number] = torch.tensor([undefined, 1.1])
        with pytest.raises(LoweringError, match="mixes sequences"):
            form._refuse_another(expected, actual, 1, 1e-8)
