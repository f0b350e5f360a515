"""The Triton kernels that are generated from steps, run by Triton's interpreter and compared with the scan.

Shapes: P members, B sequences, T time steps, V symbols, X input features, H hidden units.
"""

import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from src.config.errors import UserError
from src.config.paths import PROJECT
from src.models.base import Core
from src.models.lstm import LSTM
from src.models.rnn import RNN
from src.ops.dispatch import choose
from src.ops.generated import form, triton_blocks, triton_lines
from src.ops.generated.form import generated_form, is_generated
from src.ops.generated.triton_kernel import TritonKernel
from src.ops.inputs import Inputs
from src.specs import map_state, state_tensors
from src.training.population import Stacked
from tests.models.cores import MODELS, VARIANTS, WITHOUT_KERNEL, X, example, random_state
from tests.ops.generated.steps import LOWERED, Counter
from tests.ops.generated.test_coverage import assert_kernel_is_the_scan
from tests.training.test_population import update_of

pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # by numpy, where a block is padded
B, T, V = 2, 4, 5
QUICK = {"lstm", "softmax_over_slots"}


def some(kinds, name):
    """All of them, where only those in `QUICK` are not slow."""
    return [pytest.param(k, marks=() if name(k) in QUICK else pytest.mark.slow, id=name(k)) for k in kinds]


def has_integers(core):
    """Whether the state of a core has integers, which kernels for a GPU do not support."""
    return not all(tensor.is_floating_point() for tensor in state_tensors(core.initial_state(1)))


def generated(models):
    """The models whose kernels are generated and run on a GPU."""
    kept = [made for made in models if made.name.split("-")[0] not in WITHOUT_KERNEL]
    kept = [made for made in kept if not has_integers(example(made))]
    return [made for made in kept if any(is_generated(form) for form in example(made).forms())]


def everything(core, kernel, x, ids, state, resets, return_sequence):
    """Outputs, the final state, and all gradients of a functional of both."""
    core.kernel = kernel
    x = x.clone().requires_grad_()
    state = None if state is None else map_state(lambda t: t.clone().requires_grad_(), state)
    inputs = Inputs(core.project(x), ids, resets)
    form = generated_form(core) if kernel == "fused" else choose(core.forms(), kernel, inputs)
    assert form.serves(inputs)
    y, end = form.compute(inputs, state, True, return_sequence)
    results = [y, *state_tensors(end)]
    loss = sum((r * torch.cos(torch.arange(r.numel())).view_as(r)).sum() for r in results)
    sources = [x, *([] if state is None else state_tensors(state)), *core.parameters()]
    return [*results, *torch.autograd.grad(loss, sources, allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("made", some(generated(MODELS), lambda made: made.name))
def test_a_kernel_is_the_scan_of_its_model(made):
    core = made(hidden_size=4)
    resets = torch.tensor([[True, False, True, False], [False, False, False, True]])
    for by_ids, carried, reset, return_sequence in (
        (False, False, None, True),
        (True, False, resets, True),
        (False, True, resets, True),
        (True, True, None, False),
    ):
        x = torch.randn(V, X) if by_ids else torch.randn(B, T, X)
        ids = torch.randint(V, (B, T)) if by_ids else None
        state = random_state(core, B) if carried else None
        cases = [everything(core, k, x, ids, state, reset, return_sequence) for k in ("fused", "reference")]
        assert_close(*cases, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("made", generated(VARIANTS), ids=lambda made: made.name)
def test_a_kernel_is_the_scan_of_every_variant(made):
    core = made(hidden_size=4)
    x_BTX = torch.randn(B, 3, X)
    cases = [everything(core, kernel, x_BTX, None, None, None, True) for kernel in ("fused", "reference")]
    assert_close(*cases, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", some([k for k in LOWERED if not has_integers(k())], lambda kind: kind.__name__))
@pytest.mark.parametrize("in_pieces", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_kernel_is_the_scan_of_its_step(kind, in_pieces, monkeypatch, tmp_path):
    if in_pieces:
        monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
        make_blocks_small(monkeypatch)
    assert_kernel_is_the_scan(kind(), 3)


def make_blocks_small(monkeypatch):
    """Make blocks so small that kernels process them piece by piece."""
    for module in (triton_lines, triton_blocks):
        monkeypatch.setattr(module, "BLOCK", 8)
    monkeypatch.setattr(triton_lines, "IN_REGISTERS", 0)


def test_a_state_of_integers_is_scanned():
    core = Counter(kernel="fused")
    p_BTP = core.project(torch.randn(B, T, core.input_size))
    with pytest.raises(UserError, match="an integer state, which kernels for a GPU do not support"):
        core(p_BTP)
    core.kernel = "auto"
    assert choose(core.forms(), "auto", Inputs(p_BTP)).kernel == "reference"


@pytest.mark.slow
def test_large_blocks_and_matrices_are_done_in_pieces(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    make_blocks_small(monkeypatch)
    core = RNN(X, hidden_size=9)
    x_BTX = torch.randn(1, 2, X)
    cases = [everything(core, kernel, x_BTX, None, None, None, True) for kernel in ("fused", "reference")]
    assert_close(*cases, rtol=1e-10, atol=1e-10)


class Network(nn.Module):
    """A module around a core, so that `functional_call` can replace the weights of the core."""

    def __init__(self, core):
        super().__init__()
        self.core = core
        self.used = None

    def forward(self, x_BTX, as_scan=False, **settings):
        if as_scan:
            return self.core.scan(self.core.project(x_BTX))
        vars(self.core).update(settings)
        inputs = Inputs(self.core.project(x_BTX))
        self.used = choose(self.core.forms(), self.core.kernel, inputs).kernel
        return self.core(inputs, return_state=False)[0]


@pytest.mark.parametrize("made", some(generated(MODELS), lambda made: made.name))
def test_a_population_is_one_kernel(made):
    cores = [made(hidden_size=4) for _ in range(2)]  # with weights and permutations of their own
    network, x_PBTX = Network(cores[0]), torch.randn(2, B, 2, X)
    tensors = [{**dict(core.named_parameters()), **dict(core.named_buffers())} for core in cores]
    stacked = {f"core.{name}": torch.stack([own[name].detach() for own in tensors]) for name in tensors[0]}
    weights = [stacked[f"core.{name}"].requires_grad_() for name, _ in cores[0].named_parameters()]

    def outputs(tensors, x_BTX):
        return torch.func.functional_call(network, tensors, (x_BTX,))

    cores[0].kernel = "fused"
    y_PBTH = torch.func.vmap(outputs)(stacked, x_PBTX)
    assert network.used == "fused"
    found = torch.autograd.grad(y_PBTH.square().sum(), weights, allow_unused=True, materialize_grads=True)
    for number, core in enumerate(cores):
        core.kernel = "reference"
        y_BTH, _ = core(core.project(x_PBTX[number]))
        own = torch.autograd.grad(y_BTH.square().sum(), core.parameters(), allow_unused=True, materialize_grads=True)
        assert_close([y_PBTH[number], *(d[number] for d in found)], [y_BTH, *own], rtol=1e-10, atol=1e-10)


class Leaky(Core):
    """h_t = a h_{t-1} + (1 - a) b x_t."""

    def __init__(self):
        super().__init__(X, X)
        self.leak = 0.9
        self.bias = nn.Parameter(torch.randn(X))

    def initial_state(self, batch_size):
        return self.zeros(batch_size, X)

    def step(self, x_BX, h_BX):
        h_BX = self.leak * h_BX + (1 - self.leak) * self.bias * x_BX
        return h_BX, h_BX


class Raised(Leaky):
    """h_t = (1 + |h_{t-1}|)^a + b x_t, whose exponent has to be a number in a kernel."""

    def step(self, x_BX, h_BX):
        h_BX = (1 + h_BX.abs()) ** self.leak + self.bias * x_BX
        return h_BX, h_BX


def of(name, **settings):
    return partial(next(made for made in MODELS if made.name == name), **settings)


SETTINGS = {
    "leaky": (Leaky, {"leak": (0.9, 0.5)}),
    "cp_gate": (of("cp_gate", hidden_size=4, rank=2), {"gate_bias": (1.0, -0.5)}),
    "tgu": (of("tgu", hidden_size=4, rank=2), {"gate_bias": (1.0, -0.5)}),
    "bilinear": (of("bilinear", hidden_size=4, rank=2), {"scale": (1.0, 0.3)}),
    "fastweights": (of("fastweights", hidden_size=4, rule="delta"), {"decay": (0.9, 0.6), "fast_lr": (0.5, 0.2)}),
    "recurrent_deltanet": (of("recurrent_deltanet", hidden_size=4), {"max_beta": (1.0, 1.5)}),
    "titans": (of("titans", hidden_size=4), {"max_rate": (1.0, 0.4)}),
}
"""Cores with generated kernels, and settings of their steps in which two members differ."""


def of_members(network, settings, used):
    """Outputs and gradients of two members with weights, inputs and settings of their own."""
    core = network.core
    x_PBTX = torch.randn(2, B, 3, core.input_size)
    weights = {f"core.{n}": torch.stack([t.detach(), 0.9 * t.detach()]) for n, t in core.named_parameters()}
    leaves = [x_PBTX.requires_grad_(), *(stacked.requires_grad_() for stacked in weights.values())]
    columns = {key: torch.tensor(values) for key, values in settings.items()}

    def outputs(x_BTX, weights, columns):
        return torch.func.functional_call(network, weights, (x_BTX,), columns)

    y_PBTH = torch.func.vmap(outputs)(x_PBTX, weights, columns)
    assert network.used == used
    results = []
    for member in range(2):
        vars(core).update({key: values[member] for key, values in settings.items()})
        own = {name: stacked[member] for name, stacked in weights.items()}
        x_BTX = x_PBTX[member]
        y_BTH, _ = torch.func.functional_call(network, own, (x_BTX,), {"as_scan": True})
        results.append(y_BTH)
    found = [y_PBTH, *torch.autograd.grad(y_PBTH.square().sum(), leaves)]
    return found, [torch.stack(results), *torch.autograd.grad(torch.stack(results).square().sum(), leaves)]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "leaky" else pytest.mark.slow) for name in SETTINGS]
)
def test_a_population_that_differs_in_settings_is_one_kernel(name):
    make, settings = SETTINGS[name]
    core = make()
    for key, (first, _) in settings.items():
        assert isinstance(getattr(core, key), float)
        setattr(core, key, first)
    assert_close(*of_members(Network(core), settings, "fused"), rtol=1e-10, atol=1e-10)


def test_a_setting_that_a_kernel_needs_as_a_number_is_scanned():
    core = Raised()
    assert_close(*of_members(Network(core), {"leak": (0.9, 0.5)}, "reference"), rtol=1e-10, atol=1e-10)


def test_one_kernel_serves_all_values_of_a_setting_in_a_tensor():
    core, x_BTX = Leaky(), torch.randn(B, 3, X)
    for leak in (0.9, 0.5):
        core.leak = torch.tensor(leak)
        cases = [everything(core, kernel, x_BTX, None, None, None, True) for kernel in ("fused", "reference")]
        assert_close(*cases, rtol=1e-10, atol=1e-10)
    ((_, kernels),) = form._KERNELS[core].values()
    (kernel,) = kernels.values()
    assert kernel.recipe.gradients.count(None) == 1  # a itself; (1 - a) b has a gradient


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch imports a module that it deprecates
def test_runs_that_differ_in_a_setting_are_trained_by_one_kernel():
    common = ["model=cp_gate", "model.rank=2", "task.num_pairs=2", "model.hidden_size=4", "trainer.batch_size=2"]
    common += ["task.train_size=64", "trainer.max_updates=10"]
    own = [["model.gate_bias=1.0"], ["model.gate_bias=-0.5", "seed=1"]]
    alone, together = ([update_of(*common, *more) for more in own] for _ in range(2))
    starts = [update.weights.detach().clone() for update in alone]
    stacked = Stacked(together)
    for _ in range(2):
        stacked()
        for update in alone:
            update.state.model.core.kernel = "reference"
            update()
    ((_, kernels),) = form._KERNELS[stacked.one.model.core].values()
    (kernel,) = kernels.values()
    assert isinstance(kernel, TritonKernel)
    for one, other, start in zip(alone, together, starts, strict=True):
        way = (one.weights - start).norm()
        assert way > 0
        assert (one.weights - other.weights).norm() < 1e-9 * way


@pytest.mark.slow
def test_in_single_precision_it_is_near():
    core, x_BTX = LSTM(X, hidden_size=5), torch.randn(B, T, X)
    expected = everything(core, "reference", x_BTX, None, None, None, True)
    actual = everything(core.float(), "fused", x_BTX.float(), None, None, None, True)
    assert {tensor.dtype for tensor in actual} == {torch.float32}
    assert_close([tensor.double() for tensor in actual], expected, rtol=1e-4, atol=1e-5)


def test_under_autocast_it_goes_on_in_the_precision_of_the_weights():
    core, x_BTX = LSTM(X, hidden_size=5, kernel="fused").float(), torch.randn(B, T, X, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        p = core.project(x_BTX)
        y_BTH, _ = core(p)
    assert (p.dtype, y_BTH.dtype) == (torch.bfloat16, torch.float32)
    assert_close(y_BTH, core.scan(p.float())[0], rtol=1e-5, atol=1e-6)


def test_an_id_outside_the_table_gives_nan_in_its_own_sequence():
    core = LSTM(X, hidden_size=4, kernel="fused")
    ids = torch.randint(V, (3, T))
    ids[1, 2] = V
    ids[2, 1] = -1
    y_BTH, _ = core(Inputs(core.project(torch.randn(V, X)), ids))
    where = [[False] * 4, [False, False, True, True], [False, True, True, True]]
    assert y_BTH.isnan().all(2).tolist() == y_BTH.isnan().any(2).tolist() == where


def test_what_does_not_fit_is_an_error():
    core = LSTM(X, hidden_size=4, kernel="fused")
    with pytest.raises(ValueError, match=r"^inputs of shape \[2, 3, 15\] in torch.float64: expected \[2, 3, 16\]"):
        core(torch.zeros(2, 3, 15))
    with pytest.raises(ValueError, match=r"^state of shape"):
        core(torch.zeros(2, 3, 16), random_state(core, 3))


def test_a_second_derivative_is_an_error():
    core = LSTM(X, hidden_size=4, kernel="fused")
    p_BTP = core.project(torch.randn(1, 2, X))
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(core(p_BTP)[0].pow(3).sum(), p_BTP, create_graph=True)


COMPILE = """
import sys
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from src.ops.generated.derive import derive
from src.ops.generated.triton_kernel import _module
from tests.models.cores import MODELS

torch.manual_seed(0)
name, size, architecture = sys.argv[1], *map(int, sys.argv[2:4])
core = next(made for made in MODELS if made.name == name)(hidden_size=size)
for setting in sys.argv[4:]:
    setattr(core, setting, torch.tensor(getattr(core, setting)))
recipe = derive(core, torch.float32, "gpu")
layout, module = recipe.gpu, _module(recipe.source)
for direction, kernel in enumerate((module.forward_kernel, module.backward_kernel)):
    for absent in (("ids", "resets", "initial", "restart", "d_restart"), ()):
        constants = {"STARTS": not absent, "RETURN_SEQUENCE": not absent, "SCRATCH": layout.scratch[direction]}
        constants |= {n: None for n in kernel.arg_names if n.rstrip("0123456789") in absent}
        kinds = {"ids": "*i64", "resets": "*u8"} | dict.fromkeys(("B", "T", "V", "SLOTS"), "i32")
        kinds |= dict.fromkeys([f"mt{number}_" for number in range(len(recipe.tables))], "*i64")
        kinds |= dict.fromkeys(constants, "constexpr")
        signature = {name: kinds.get(name, "*fp32") for name in kernel.arg_names}
        places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
        options = {"num_warps": layout.num_warps, "enable_fp_fusion": True}
        made = compile(ASTSource(kernel, signature, places), GPUTarget("cuda", architecture, 32), options)
        assert len(made.asm["cubin"]) > 0
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "architecture", "settings"),
    [
        *((made.name, 50, 90, []) for made in generated(MODELS)),
        ("lstm", 128, 90, []),
        ("lstm", 300, 80, []),
        ("gru", 50, 80, []),
        ("fastweights", 50, 90, ["decay", "fast_lr"]),
        ("titans", 50, 90, ["max_rate"]),
    ],
)
def test_it_compiles_for_a_gpu_without_one(name, size, architecture, settings, tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    places = {"TRITON_CACHE_DIR": str(tmp_path), "TORCH_EXTENSIONS_DIR": str(tmp_path), "PYTHONPATH": str(PROJECT)}
    ended = subprocess.run(
        [sys.executable, "-c", COMPILE, name, str(size), str(architecture), *settings],
        cwd=PROJECT,
        env=environment | places,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "done\n"
