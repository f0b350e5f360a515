"""Recipes: kept on disk and found again for the same core alone; a core that changes gets another kernel.

Shapes: B sequences, T time steps, H hidden units.
"""

import copy
import cProfile
import importlib.util
import logging
import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from src.config.errors import UserError
from src.models.rnn import RNN
from src.ops.generated import derive, form, recipe, trace
from src.ops.generated.emit import Source
from src.ops.inputs import Inputs
from src.training.fast_updates import flat_parameters
from tests.ops.generated.steps import Cell, H, TwoLayers, X

B, T = 3, 4
F64 = torch.float64


class Leaky(Cell):
    """h_t = d h_{t-1} + g(W h_{t-1} + p_t), with g = tanh."""

    def __init__(self, decay=0.9, activation=torch.tanh):
        super().__init__()
        self.decay, self.activation = decay, activation

    def step(self, p, h):
        h = self.decay * h + self.activation(self.W(h) + p)
        return h, h


class Private(Cell):
    """h_t = d h_{t-1} + tanh(W h_{t-1} + p_t), with d in an attribute that begins with an underscore."""

    def __init__(self, decay):
        super().__init__()
        self._decay = decay

    def step(self, p, h):
        h = self._decay * h + torch.tanh(self.W(h) + p)
        return h, h


class Sorted(Cell):
    """h_t = sort(h_{t-1}), which has no kernel."""

    def step(self, p, h):
        return p, torch.sort(h).values


class Ordered(Cell):
    """With an order of the units that is a buffer, and one that is computed from parameters."""

    def step(self, p, h):
        h = torch.tanh(self.W(h)[:, self.order_H] + p * torch.exp(self.rate_H))
        return h, h


class Started(Cell):
    """With an initial state that is trained, or a buffer, and a copy of it for every sequence."""

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
    """With one tensor as both of its states."""

    def initial_state(self, batch_size):
        h = self.zeros(batch_size, H)
        return h, h

    def step(self, p, state):
        h, c = state
        h, c = torch.tanh(self.W(h) + p), 0.9 * c + h
        return c, (h, c)


class Masked(Cell):
    """Of units that look at half of the others."""

    def step(self, p, h):
        h = torch.tanh(h @ self.W.weight.masked_fill(self.is_odd_H, -torch.inf).softmax(1).T + p)
        return h, h


class Scaled:
    """A function with a setting."""

    def __init__(self, factor):
        self.factor = factor

    def apply(self, x):
        """tanh, scaled."""
        return self.factor * torch.tanh(x)


class Set(Cell):
    """With settings that are no single numbers."""

    def __init__(self, function=torch.tanh):
        super().__init__()
        self.factors, self.shift_H, self.activation = [0.5, 0.2], torch.full((H,), 0.1), function

    def step(self, p, h):
        h = sum(self.factors) * self.activation(self.W(h) + p + self.shift_H)
        return h, h


@pytest.fixture(autouse=True)
def kept(monkeypatch, tmp_path):
    """The folder of the recipes, empty; what is compiled stays where it is."""
    folder = tmp_path / "recipes"
    monkeypatch.setattr(recipe, "recipe_folder", lambda on: folder)
    return folder


@pytest.fixture
def traced(monkeypatch):
    """The cores that are traced."""
    cores, trace = [], derive.trace
    monkeypatch.setattr(derive, "trace", lambda core: cores.append(core) or trace(core))
    return cores


def assert_fused_and_right(core):
    assert core.is_fused
    p_BTP, h_BH = core.project(torch.randn(B, T, X)), 0.3 * torch.randn(B, H)
    results = []
    for run in (core, core.scan):
        y_BTH, _ = run(p_BTP, h_BH)
        weights = [p for name, p in core.named_parameters() if name in ("W.weight", "recurrent.weight")]
        results.append([y_BTH.detach(), *torch.autograd.grad(y_BTH.square().sum(), weights)])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


def test_a_recipe_is_kept_and_used_without_tracing(kept, traced):
    assert_fused_and_right(Leaky())
    assert len(traced) == len(list(kept.iterdir())) == 1
    assert_fused_and_right(Leaky())
    assert len(traced) == 1


def test_what_it_says_of_constants_is_kept_too(traced):
    for _ in range(2):
        assert_fused_and_right(Ordered())
    assert len(traced) == 1


def test_a_refusal_is_kept_too(traced, caplog):
    with caplog.at_level(logging.DEBUG, logger="src.ops.generated"):
        for _ in range(2):
            assert not Sorted().is_fused
    assert len(traced) == 1
    first, second = (record.getMessage() for record in caplog.records if "no kernel" in record.getMessage())
    assert first == second
    assert "aten.sort" in first


def test_a_refusal_that_was_kept_names_the_file_where_the_step_is_now(traced, tmp_path, monkeypatch):
    messages = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        text = USERS.replace("from {helpers} import activation", "").replace(
            "activation(self.W(h) + p)", "torch.sort(h).values"
        )
        (tmp_path / folder / "made_up_core.py").write_text(text)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(tmp_path / folder)
            core = importlib.import_module("made_up_core").Mine()
            messages.append(form._kernel_of(core, Inputs(torch.zeros(1, 1, 1, dtype=F64))))
        sys.modules.pop("made_up_core")
    assert len(traced) == 1
    assert messages == [
        f"aten.sort.default in line 8 of {tmp_path / folder / 'made_up_core.py'}: h = torch.sort(h).values"
        for folder in ("one", "two")
    ]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: os.truncate(path, 100),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_bytes(bytes(range(256))),
        lambda path: path.write_text(path.read_text().replace("hyperbolic_tangent", "exponential")),
        lambda path: path.write_text("{}"),
    ],
    ids=["truncated", "empty", "garbage", "changed", "another"],
)
def test_a_damaged_recipe_is_made_again(damage, kept, traced):
    assert_fused_and_right(Leaky())
    (path,) = kept.iterdir()
    whole = path.read_bytes()
    damage(path)
    assert_fused_and_right(Leaky())
    assert len(traced) == 2
    assert path.read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_not_in_the_way(kept, traced):
    kept.write_text("a file")
    for _ in range(2):
        assert_fused_and_right(Leaky())
    assert len(traced) == 2


def test_it_is_filed_by_all_that_it_depends_on():
    def wider():
        core = Leaky()
        core.W = nn.Linear(H, H + 1)
        return core

    def buffer():
        core = Leaky()
        core.register_buffer("more", torch.zeros(2))
        return core

    cores = [
        Leaky(), Leaky(0.95), Leaky(1), Leaky(True), Leaky(activation=torch.relu), Ordered(), wider(), buffer(),
        Leaky().eval(), Leaky().float(), RNN(X, hidden_size=5), RNN(X, hidden_size=6),
        RNN(X, hidden_size=5, nonlinearity="relu"),
    ]  # fmt: skip
    keys = [recipe._key(core, F64, "cpu") for core in cores] + [recipe._key(cores[0], torch.float32, "cpu")]
    assert None not in keys
    assert len(set(keys)) == len(keys)
    assert recipe._key(Leaky(), F64, "cpu") == keys[0]


def test_a_private_setting_counts_and_a_class_made_in_a_function_is_not_kept():
    assert recipe._key(Private(0.9), F64, "cpu") != recipe._key(Private(0.5), F64, "cpu") is not None

    def made(decay):
        class Local(Cell):
            def step(self, p, h):
                h = decay * h + torch.tanh(self.W(h) + p)
                return h, h

        return Local()

    assert recipe._key(made(0.9), F64, "cpu") is None


def test_training_does_not_make_another_core():
    core = Leaky()
    before = recipe._key(core, F64, "cpu")
    flat_parameters(core)
    assert recipe._key(core, F64, "cpu") == before is not None


def test_a_norm_that_changes_its_settings_is_another_core():
    keys = set()
    for eps in (1e-5, 1e-3):
        core = RNN(X, hidden_size=5, layer_norm=True)
        core.norm.eps = eps
        keys.add(recipe._key(core, F64, "cpu"))
    assert len(keys) == 2


USERS = """
import torch
from {helpers} import activation
from tests.ops.generated.steps import Cell

class Mine(Cell):
    def step(self, p, h):
        h = activation(self.W(h) + p)
        return h, h
"""


def test_the_sources_of_a_users_modules_are_part_of_the_key(tmp_path, monkeypatch):
    sources = {"made_up_helpers": "from torch import tanh as activation", "made_up_core": USERS}
    for name, text in sources.items():
        (tmp_path / f"{name}.py").write_text(text.format(helpers="made_up_helpers"))
    monkeypatch.syspath_prepend(tmp_path)
    for name in sources:
        monkeypatch.delitem(sys.modules, name, raising=False)
    core = importlib.import_module("made_up_core").Mine()
    keys = [recipe._key(core, F64, "cpu"), recipe._key(core, F64, "cpu")]
    assert keys[0] == keys[1]
    for name in sources:
        if name == "made_up_helpers":  # of which the core knows nothing but a function of torch
            continue
        with open(tmp_path / f"{name}.py", "a") as file:
            file.write("# changed\n")
        keys.append(recipe._key(core, F64, "cpu"))
    assert len(set(keys)) == len(keys) - 1
    assert None not in keys
    for name in sources:
        sys.modules.pop(name, None)


def test_the_sources_of_this_package_are_part_of_the_key(monkeypatch):
    package = Path(recipe.__file__).parent
    keys, read = {recipe._key(Leaky(), F64, "cpu")}, Path.read_bytes
    names = [path.name for path in package.glob("*.py")]
    assert {"rules.py", "plan.py", "emit.py"} < set(names)
    for name in names:
        monkeypatch.setattr(Path, "read_bytes", lambda path, name=name: read(path) + (path.name == name) * b"#")
        keys.add(recipe._key(Leaky(), F64, "cpu"))
    assert len(keys) == 1 + len(names)


def test_the_source_of_a_function_that_a_step_calls_is_part_of_the_key(tmp_path, monkeypatch):
    (tmp_path / "made_up_helpers.py").write_text("import torch\ndef activation(a):\n    return torch.tanh(a)\n")
    (tmp_path / "made_up_core.py").write_text(USERS.format(helpers="made_up_helpers"))
    monkeypatch.syspath_prepend(tmp_path)
    core = importlib.import_module("made_up_core").Mine()
    before = recipe._key(core, F64, "cpu")
    with open(tmp_path / "made_up_helpers.py", "a") as file:
        file.write("# changed\n")
    assert recipe._key(core, F64, "cpu") not in (None, before)
    for name in ("made_up_helpers", "made_up_core"):
        sys.modules.pop(name, None)


def test_a_core_with_a_function_that_has_no_name_is_not_kept_but_works(kept, traced):
    for slope in (0.1, 0.7):
        assert_fused_and_right(Leaky(activation=lambda a, slope=slope: slope * torch.tanh(a)))
    assert len(traced) == 2
    assert not kept.exists()


def test_a_core_without_a_source_file_is_not_kept_but_works(kept):
    namespace = {"Leaky": Leaky, "__name__": "__made_up__"}
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("__made_up__", loader=None))
    sys.modules["__made_up__"] = module
    try:
        exec("class Typed(Leaky): pass", namespace)
        assert_fused_and_right(namespace["Typed"]())
    finally:
        del sys.modules["__made_up__"]
    assert not kept.exists()


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
    """Without a given state."""
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
def test_indices_are_read_where_they_lie(order_H):
    core = Ordered()
    core.order_H = order_H
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
    for number in range(12):
        core.activation = None
        core.activation = Scaled(0.1 * number).apply
        assert_fused_and_right(core)


def test_a_method_of_an_object_is_not_taken_for_that_of_another(kept):
    for factor in (1.0, 3.0):
        assert_fused_and_right(Set(Scaled(factor).apply))
    assert not kept.exists()


def test_numbers_without_an_end_are_kept(traced):
    for _ in range(2):
        assert_fused_and_right(Masked())
    assert len(traced) == 1


def test_one_tensor_may_be_two_states():
    assert Twice().is_fused
    assert_scanned_alike(Twice())


@pytest.mark.parametrize(
    "around",
    [
        cProfile.Profile,
        torch.inference_mode,
        lambda: torch.autocast("cpu", torch.bfloat16),
    ],
    ids=["profiled", "inference", "autocast"],
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


def test_what_cannot_be_traced_now_is_tried_again_in_another_process(kept, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("busy")

    with monkeypatch.context() as context:
        context.setattr(trace, "functionalize", broken)
        assert not Leaky().is_fused
    assert not kept.exists()
    assert Leaky().is_fused


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
    assert "a kernel of it gives something else" in said
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
