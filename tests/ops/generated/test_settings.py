"""A kernel depends on everything that its step reads, and a step that does more than a kernel can has none.

Shapes: B sequences, T time steps, X input features, H hidden units.
"""

import importlib
import random
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from src.ops.generated import form, recipe
from src.ops.generated.trace import trace
from src.ops.inputs import Inputs
from tests.ops.generated.cells import B, Leaky, T, assert_fused_and_right
from tests.ops.generated.steps import Cell, H, X

pytestmark = pytest.mark.usefixtures("kept")
DECAY = 0.9
RATES = [0.5, 0.2]


@dataclass
class Rates:
    """Settings in an object."""

    slow: float = 0.9


class Everywhere(Cell):
    """A cell with settings in its file, in its class and in an attribute."""

    decay = 0.9

    def __init__(self, where=None):
        super().__init__()
        self.where = where

    def step(self, p, h):
        h = DECAY * h + sum(RATES) * self.decay * torch.tanh(self.W(h) + p)
        return h, h


@pytest.fixture
def made(monkeypatch):
    """The cores for which a kernel would be built; none is built, since that takes time."""
    cores = []
    monkeypatch.setattr(form, "_make", lambda core, *_: (cores.append(core) or "not made", frozenset()))
    return cores


def inputs_of(core):
    return Inputs(core.project(torch.randn(B, T, X)))


def in_a_closure(decay=0.9):
    def activation(a):
        return decay * torch.tanh(a)

    def change(_):
        nonlocal decay
        decay = 0.1

    return activation, change


def set_item(key, value):
    """A function that changes an item of the setting `where`."""

    def change(core):
        core.where[key] = value

    return change


CHANGES = {
    "an attribute of a namespace": (SimpleNamespace(decay=0.9), lambda core: setattr(core.where, "decay", 0.1)),
    "of a dataclass": (Rates(), lambda core: setattr(core.where, "slow", 0.1)),
    "of an object in a list": ([Rates()], lambda core: setattr(core.where[0], "slow", 0.1)),
    "of the object of a method": (Rates().__repr__, lambda core: setattr(core.where.__self__, "slow", 0.1)),
    "of an argument of a function": (partial(max, Rates()), lambda core: setattr(core.where.args[0], "slow", 0.1)),
    "an item of a set": ({1}, lambda core: core.where.add(2)),
    "of an array": (np.ones(H), set_item(0, 0.1)),
    "of a tensor": (torch.ones(H), lambda core: core.where.data.fill_(0.1)),
    "a number in a tensor in a list": ([torch.tensor(0.9)], set_item(0, torch.tensor(0.1))),
    "a variable of a closure": in_a_closure(),
    "a buffer": (None, lambda core: setattr(core, "is_odd_H", torch.full((H,), 0.5))),
    "the shape of a parameter": (None, lambda core: setattr(core, "E_KH", nn.Parameter(torch.ones(9, H)))),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_changed_in_its_place_makes_another_kernel(name, made):
    where, change = CHANGES[name]
    core = Everywhere(where)
    for expected in (1, 2):
        for _ in range(2):
            form._kernel_of(core, inputs_of(core))
        assert len(made) == expected
        change(core)


def test_variables_of_a_module_and_of_a_class_are_read_at_every_call(monkeypatch):
    core = Everywhere()
    assert_fused_and_right(core)
    keys = {recipe._key(core, torch.float64, "cpu")}
    monkeypatch.setattr(sys.modules[__name__], "DECAY", 0.3)
    keys.add(recipe._key(core, torch.float64, "cpu"))
    assert_fused_and_right(core)
    RATES[0] = 0.1
    keys.add(recipe._key(core, torch.float64, "cpu"))
    monkeypatch.setattr(Everywhere, "decay", 0.1)
    keys.add(recipe._key(core, torch.float64, "cpu"))
    assert_fused_and_right(core)
    RATES[0] = 0.5
    assert len(keys) == 4
    assert None not in keys


USER = """
import torch
from tests.ops.generated.steps import Cell
from made_up_helpers import Tools

class Mine(Cell):
    def step(self, p, h):
        h = Tools.apply(self.W(h) + p)
        return h, h
"""
HELPERS = """
import torch
SCALE = {scale}
UNUSED = {unused}
class Tools:
    @staticmethod
    def apply(a):
        return SCALE * torch.tanh(a)
"""


def test_what_the_functions_of_other_files_read_is_part_of_the_key_of_a_recipe(tmp_path, monkeypatch):
    (tmp_path / "made_up_core.py").write_text(USER)
    (tmp_path / "made_up_helpers.py").write_text(HELPERS.format(scale=0.5, unused=1))
    monkeypatch.syspath_prepend(tmp_path)
    core = importlib.import_module("made_up_core").Mine()
    helpers = sys.modules["made_up_helpers"]
    before = recipe._key(core, torch.float64, "cpu")
    helpers.UNUSED = 2
    assert recipe._key(core, torch.float64, "cpu") == before
    helpers.SCALE = 0.1
    assert recipe._key(core, torch.float64, "cpu") not in (None, before)
    for name in ("made_up_core", "made_up_helpers"):
        sys.modules.pop(name)


COUNT = 0


class Reasoned(Cell):
    """A cell whose step applies `like`, a function that may rule out a kernel."""

    def __init__(self, like):
        super().__init__()
        self.like = like
        self.register_buffer("seen", torch.zeros(()))
        self.level = torch.tensor(0.0)
        self.all = []

    def step(self, p, h):
        h = self.like(self, torch.tanh(self.W(h) + p))
        return h, h


def without_gradients(self, h):
    with torch.no_grad():
        return h / h.norm(dim=1, keepdim=True).clamp(min=20)


def in_inference(self, h):
    with torch.inference_mode():
        return 2 * h


def hooked(self, h):
    if h.requires_grad:
        h.register_hook(lambda d: 0.5 * d)
    return h


def hooked_always(self, h):
    h.register_hook(lambda d: 0.5 * d)
    return h


def counted_in_a_buffer(self, h):
    self.seen.add_(1.0)
    return h


def a_new_buffer(self, h):
    self.seen = self.seen + 1
    return h


def a_new_level(self, h):
    self.level = self.level + 1
    return h


def a_diagnostic(self, h):
    self.last = h
    return h


def a_longer_list(self, h):
    self.all.append(h)
    return h


def counted_in_a_file(self, h):
    global COUNT
    COUNT += 1
    return h


def chance(self, h):
    return random.random() * h


def chance_of_numpy(self, h):
    return float(np.random.rand()) * h


def nothing_else(self, h):
    return h


EFFECTS = {
    without_gradients: "no_grad in a step",
    in_inference: "no_grad in a step",
    hooked: "a branch on whether there are gradients",
    hooked_always: "a tensor hook",
    counted_in_a_buffer: "the step changes seen",
    a_new_buffer: "the step changes seen",
    a_new_level: "the step changes level",
    a_diagnostic: "the step changes last",
    a_longer_list: "the step changes all",
    counted_in_a_file: "the step changes .*COUNT",
    chance: "random numbers from Python or NumPy",
    chance_of_numpy: "random numbers from Python or NumPy",
}


@pytest.mark.parametrize("like", EFFECTS, ids=lambda like: like.__name__)
def test_a_step_that_does_more_than_compute_has_no_kernel_and_is_traced_once(like, traced):
    core = Reasoned(like)
    inputs = inputs_of(core)
    before = random.getstate(), np.random.get_state()[2], core.seen.item(), core.level.item(), set(vars(core))
    reason = form._kernel_of(core, inputs)
    assert isinstance(reason, str)
    assert re.search(EFFECTS[like], reason)
    assert before == (
        random.getstate(), np.random.get_state()[2], core.seen.item(), core.level.item(), set(vars(core))
    )  # fmt: skip
    for _ in range(3):
        with suppress(RuntimeError):  # from a hook of a tensor without a gradient
            core.scan(inputs.table)
        assert form._kernel_of(core, inputs) == reason
    assert len(traced) == 1


def test_variables_of_closures_with_one_name_are_told_apart():
    for core in (Everywhere(), Everywhere([in_a_closure(decay)[0] for decay in (0.9, 0.5)])):
        assert len(trace(core).states) == 1


def test_a_diagnostic_that_is_switched_off_is_no_reason():
    core = Reasoned(a_diagnostic)
    assert not core.is_fused
    core.scan(inputs_of(core).table)
    core.like = nothing_else
    assert not core.is_fused  # the tensor that it left behind requires a gradient
    core.last = None
    assert core.is_fused


class Opaque:
    """An object with a setting that is not in its dictionary."""

    __slots__ = ("decay",)


REFUSED = {
    "where: a setting that requires a gradient; make it a parameter": torch.ones(H, requires_grad=True),
    "where: an object of Opaque, whose changes would go unnoticed": Opaque(),
    "where: a module that is not registered in the core; use nn.ModuleList": [nn.Tanh()],
    "where: an array of more than 4096 numbers; make it a buffer": np.zeros(5000),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_setting_of_which_a_change_or_a_gradient_would_be_lost_has_no_kernel(reason):
    core = Everywhere(REFUSED[reason])
    assert form._kernel_of(core, inputs_of(core)) == reason


@pytest.mark.parametrize("hook", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"])
def test_a_part_with_hooks_has_no_kernel_as_long_as_it_has_them(hook, kept):
    core, other = Leaky(), Leaky()
    assert core.is_fused
    for each in (core, other):
        handle = getattr(each.W, f"register_{hook}")(lambda *_: None)
        assert "hooks" in form._kernel_of(each, inputs_of(each))
        handle.remove()
        assert each.is_fused
    core.register_forward_hook(lambda *_: None)
    assert core.is_fused
