"""Recipes are kept on disk, and used again only for the same core.

Shapes: B sequences, T time steps, H hidden units.
"""

import importlib.util
import logging
import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from src.models.rnn import RNN
from src.ops.generated import form, recipe, trace
from src.ops.inputs import Inputs
from src.training.fast_updates import flat_parameters
from tests.models.cores import FILES, of_file
from tests.ops.generated.cells import Leaky, Ordered, assert_fused_and_right
from tests.ops.generated.steps import Cell, H, X

pytestmark = pytest.mark.usefixtures("kept")
F64 = torch.float64


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


class Masked(Cell):
    """A cell whose units read only half of the others, through a softmax."""

    def step(self, p, h):
        h = torch.tanh(h @ self.W.weight.masked_fill(self.is_odd_H, -torch.inf).softmax(1).T + p)
        return h, h


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

    def tied(*names):
        core = Leaky()
        core.A, core.B, core.C = (nn.Linear(H, H) for _ in range(3))
        for name in names:
            getattr(core, name).weight = core.C.weight
        return core

    cores = [
        Leaky(), Leaky(torch.tensor(0.9)), Leaky(torch.tensor(0.9, requires_grad=True)), Leaky(0.95), Leaky(1),
        Leaky(True), Leaky(activation=torch.relu), Ordered(), wider(), buffer(), Leaky().eval(), Leaky().float(),
        RNN(X, hidden_size=5), RNN(X, hidden_size=6), RNN(X, hidden_size=5, nonlinearity="relu"), tied(), tied("A"),
        tied("B"), tied("A", "B"),
    ]  # fmt: skip
    keys = [recipe._key(core, F64, "cpu") for core in cores] + [recipe._key(cores[0], torch.float32, "cpu")]
    assert None not in keys
    assert len(set(keys)) == len(keys)
    assert recipe._key(Leaky(), F64, "cpu") == keys[0]


def test_the_recipe_of_every_model_is_kept():
    assert [file.stem for file in FILES if recipe._key(of_file(file)(), F64, "cpu") is None] == []


def test_a_private_setting_counts_and_a_class_made_in_a_function_is_not_kept():
    keys = [recipe._key(Private(decay), F64, "cpu") for decay in (0.9, 0.5)]
    assert None not in keys
    assert keys[0] != keys[1]

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
    assert before is not None
    assert recipe._key(core, F64, "cpu") == before


def test_the_choice_among_its_forms_does_not_make_another_core(traced):
    core = Leaky()
    assert_fused_and_right(core)
    core.kernel = "fused"
    assert_fused_and_right(core)
    other = Leaky()
    other.kernel = "fused"
    assert_fused_and_right(other)
    assert len(traced) == 1


def test_an_attribute_of_a_part_counts_whatever_its_name():
    keys = set()
    for size in (3, 5):
        core = Leaky()
        core.W.kernel = size
        keys.add(recipe._key(core, F64, "cpu"))
    assert len(keys) == 2


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
    before = recipe._key(core, F64, "cpu")
    assert recipe._key(core, F64, "cpu") == before
    with open(tmp_path / "made_up_core.py", "a") as file:
        file.write("# changed\n")
    assert recipe._key(core, F64, "cpu") not in (None, before)
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


def test_the_code_of_a_step_is_part_of_the_key_if_its_file_was_edited_after_it_was_imported(tmp_path, monkeypatch):
    (tmp_path / "made_up_helpers.py").write_text("import torch\ndef activation(a):\n    return torch.tanh(a)\n")
    (tmp_path / "made_up_core.py").write_text(USERS.format(helpers="made_up_helpers"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    core = importlib.import_module("made_up_core").Mine()
    (tmp_path / "made_up_helpers.py").write_text("import torch\ndef activation(a):\n    return torch.relu(a)\n")
    before = recipe._key(core, F64, "cpu")
    for name in ("made_up_helpers", "made_up_core"):
        importlib.reload(sys.modules[name])
    core = sys.modules["made_up_core"].Mine()
    assert recipe._key(core, F64, "cpu") not in (None, before)
    assert recipe._key(core, F64, "cpu") == recipe._key(sys.modules["made_up_core"].Mine(), F64, "cpu")
    for name in ("made_up_helpers", "made_up_core"):
        sys.modules.pop(name, None)


def test_classes_of_one_name_have_kernels_of_their_own():
    def step(activation, scale=1.0):
        def of(self, p, h):
            h = scale * activation(self.W(h) + p)
            return h, h

        return of

    def tanh(self, p, h, scale=0.5):
        h = scale * torch.tanh(self.W(h) + p)
        return h, h

    def relu(self, p, h, scale=0.5):
        h = scale * torch.relu(self.W(h) + p)
        return h, h

    def quarter(self, p, h, scale=0.25):
        h = scale * torch.relu(self.W(h) + p)
        return h, h

    def executed(activation):
        names = {"activation": activation}
        exec("def step(self, p, h):\n    h = activation(self.W(h) + p)\n    return h, h", names)
        return names["step"]

    steps = [tanh, relu, quarter, step(torch.tanh), step(torch.relu), step(torch.relu, 0.5)]
    steps += [executed(torch.sigmoid), executed(torch.sin)]
    for one in steps:
        assert_fused_and_right(type("Made", (Cell,), {"step": one})())


def test_a_step_that_replaces_that_of_its_class_is_used():
    kind = type("Made", (Cell,), {"step": Leaky.step, "decay": 0.9, "activation": staticmethod(torch.tanh)})
    core = kind()
    assert_fused_and_right(core)
    kind.step = Ordered.step
    assert_fused_and_right(core)


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


def test_numbers_without_an_end_are_kept(traced):
    for _ in range(2):
        assert_fused_and_right(Masked())
    assert len(traced) == 1


def test_what_cannot_be_traced_now_is_tried_again_in_another_process(kept, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("busy")

    with monkeypatch.context() as context:
        context.setattr(trace, "functionalize", broken)
        assert not Leaky().is_fused
    assert not kept.exists()
    assert Leaky().is_fused
