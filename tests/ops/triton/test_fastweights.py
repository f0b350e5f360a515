"""The Triton kernels of fast weights, run by Triton's interpreter and compared with the definition, the scan of `step`.

Shapes: P members, B sequences, T time steps, V symbols, H hidden units.
"""

import itertools
import logging
import os
import re
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from src.config.errors import UserError
from src.config.paths import PROJECT
from src.models.base import gain_and_bias
from src.models.fastweights import FastWeights
from src.ops.inputs import Inputs
from src.ops.triton import calls, fastweights
from tests.ops.cpu.cells import V, assert_equal, make, random_state, random_table, random_vectors, run

LENGTHS = [1, 2, 5, 9]  # in chunks of 4 steps
NORMS = [
    {"layer_norm": True},
    {"layer_norm": False},
    {"layer_norm": True, "layer_norm_preliminary": True},
    {"layer_norm": False, "layer_norm_preliminary": True},
]
GRID = [
    LENGTHS,
    NORMS,
    [0, 1, 2, 3],
    ["sustained", "identity"],
    ["relu", "tanh", "linear"],
    [{}, {"decay": 0.0}, {"decay": 1.0, "fast_lr": 0.05}, {"fast_lr": 0.0}],
    [False, True],
    [False, True],
]


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch):
    """64 numbers per chunk are 4 steps of up to 16 units, so that short sequences have several chunks."""
    monkeypatch.setattr(fastweights, "ON_CHIP", 64)
    assert fastweights.chunk_length(5) == 4


def assert_is_its_definition(length, norms, num_inner_steps, boundary, nonlinearity, memory, carried, by_ids):
    weak = {} if norms["layer_norm"] else {"fast_lr": 0.02}  # without layer norm the memory feeds on itself
    settings = {"boundary": boundary, "nonlinearity": nonlinearity, **norms, **weak, **memory}
    core = make(FastWeights, 5, num_inner_steps=num_inner_steps, **settings)
    table, ids = random_table(core, 2, length) if by_ids else (random_vectors(core, 2, length), None)
    state = random_state(core, 2) if carried else None
    assert_equal(run(core, "fused", table, ids, state), run(core, "reference", table, ids, state))


@pytest.mark.parametrize(
    "chosen",
    [
        (9, {"layer_norm": True}, 1, "sustained", "relu", {}, True, True),
        (5, {"layer_norm": True}, 2, "sustained", "relu", {}, False, True),
        (5, {"layer_norm": False}, 1, "identity", "tanh", {"decay": 0.0}, True, False),
        (5, {"layer_norm": False, "layer_norm_preliminary": True}, 3, "sustained", "linear", {}, False, False),
        (2, {"layer_norm": True, "layer_norm_preliminary": True}, 2, "identity", "relu", {"fast_lr": 0.0}, True, True),
        (1, {"layer_norm": True}, 0, "sustained", "relu", {}, False, True),
        (2, {"layer_norm": False, "layer_norm_preliminary": True}, 0, "identity", "tanh", {"decay": 1.0}, True, False),
    ],
    ids=str,
)
def test_it_is_its_definition(chosen):
    assert_is_its_definition(*chosen)


@pytest.mark.slow
@pytest.mark.parametrize(("length", "norms"), list(itertools.product(LENGTHS, NORMS)), ids=str)
@pytest.mark.parametrize("num_inner_steps", [0, 1, 2, 3])
def test_it_is_its_definition_on_a_grid(length, norms, num_inner_steps):
    for number, chosen in enumerate(itertools.product(*GRID[3:])):
        if number % 16 == (length + num_inner_steps) % 16:
            assert_is_its_definition(length, norms, num_inner_steps, *chosen)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 16, 17, 50, 128])
def test_it_is_its_definition_at_every_width(width, monkeypatch):
    monkeypatch.setattr(fastweights, "ON_CHIP", 4096)
    core = make(FastWeights, width)
    length = fastweights.chunk_length(width) + 1 if width > 16 else 11
    vectors = random_vectors(core, 1, length)
    assert_equal(run(core, "fused", vectors), run(core, "reference", vectors))


def test_in_single_precision_it_is_near():
    core = make(FastWeights, 5)
    vectors = random_vectors(core, 1, 5)
    expected = run(core, "reference", vectors)
    actual = run(core.float(), "fused", vectors.float())
    for name, value in expected.items():
        assert actual[name].dtype == torch.float32
        assert_close(actual[name].double(), value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("many_symbols", [False, True])
def test_the_last_output_alone_with_its_gradients(many_symbols, monkeypatch):
    if many_symbols:
        monkeypatch.setattr(calls, "ONE_HOT_AT_MOST", 0)
    core = make(FastWeights, 5)
    table, ids = random_table(core, 2, 6)
    found = []
    for kernel in ("fused", "reference"):
        core.kernel = kernel
        leaf = table.clone().requires_grad_()
        y_BH, state = core(Inputs(leaf, ids), return_state=False, return_sequence=False)
        assert (state is None) == (kernel == "fused")
        wanted = [leaf, *(p for name, p in core.named_parameters() if not name.startswith("input"))]
        found.append([y_BH, *torch.autograd.grad(y_BH.square().sum(), wanted)])
    assert_close(*found, rtol=1e-10, atol=1e-10)


def members(num_members, **settings):
    """Networks that differ in all weights, λ and η."""
    cores = []
    for number in range(num_members):
        core = make(FastWeights, 5, decay=0.9 - 0.2 * number, fast_lr=0.3 + 0.1 * number, **settings)
        cores.append(core)
    return cores


def stacked(tensors):
    return None if tensors[0] is None else torch.stack(tensors)


@pytest.mark.parametrize("carried", [False, True])
def test_a_population_is_its_members_one_by_one(carried):
    cores = members(2, num_inner_steps=2, layer_norm_preliminary=True)
    tables = [random_vectors(core, 2, 3) if carried else random_table(core, 2, 3)[0] for core in cores]
    ids = None if carried else torch.randint(V, (2, 2, 3))
    states = [random_state(core, 2) if carried else (None, None) for core in cores]
    table_PVH = torch.stack(tables).requires_grad_()
    shares_PBTH = torch.randn(2, 2, 3, 5)

    def weights(core):
        return core.recurrent.weight, gain_and_bias(core.norm), gain_and_bias(core.preliminary_norm)

    W, norms, first_norms = zip(*map(weights, cores), strict=True)
    y_PBTH = fastweights.population(
        Inputs(table_PVH, ids),
        *(stacked(part) for part in zip(*states, strict=True)),
        torch.stack(W),
        *([torch.stack(part) for part in zip(*norm, strict=True)] for norm in (norms, first_norms)),
        nonlinearity="relu",
        num_inner_steps=2,
        sustained=True,
        decay_P=torch.tensor([core.decay for core in cores]),
        fast_lr_P=torch.tensor([core.fast_lr for core in cores]),
    )
    parameters = [[p for name, p in core.named_parameters() if not name.startswith("input")] for core in cores]
    sources = [table_PVH, *itertools.chain(*parameters)]
    d_table, *gradients = torch.autograd.grad((y_PBTH * shares_PBTH).sum(), sources)
    for number, core in enumerate(cores):
        core.kernel = "reference"
        leaf = tables[number].clone().requires_grad_()
        inputs = Inputs(leaf, None if ids is None else ids[number])
        y_BTH, _ = core(inputs, states[number] if carried else None)
        expected = torch.autograd.grad((y_BTH * shares_PBTH[number]).sum(), [leaf, *parameters[number]])
        assert_close(y_PBTH[number], y_BTH, rtol=1e-10, atol=1e-10)
        own = gradients[number * len(parameters[0]) : (number + 1) * len(parameters[0])]
        assert_close([d_table[number], *own], list(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("by_ids", [False, True])
def test_under_vmap_the_mapped_dimension_is_one_of_members(by_ids):
    core, x = make(FastWeights, 5), torch.randn(2, V if by_ids else 3, 3)
    ids = torch.randint(V, (2, 2, 3)) if by_ids else None
    x = x if by_ids else x[:, None].expand(2, 2, 3, 3)
    weights = {name: (p + 0.1 * torch.randn(2, *p.shape)).detach() for name, p in core.named_parameters()}
    weights = {name: tensor.requires_grad_() for name, tensor in weights.items()}

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.core = core

        def forward(self, x, ids, decay):
            self.core.decay = decay
            return self.core(Inputs(self.core.project(x), ids), return_state=False)[0]

    def outputs(weights, x, ids, decay):
        named = {f"core.{name}": tensor for name, tensor in weights.items()}
        return torch.func.functional_call(Network(), named, (x, ids, decay))

    found = []
    for kernel in ("fused", "vectorized"):
        core.kernel = kernel
        mapped = torch.func.vmap(outputs, in_dims=(0, 0, 0 if by_ids else None, 0))
        y_PBTH = mapped(weights, x, ids, torch.tensor([0.9, 0.5]))
        found.append([y_PBTH, *torch.autograd.grad(y_PBTH.square().sum(), list(weights.values()))])
    assert_close(*found, rtol=1e-10, atol=1e-10)


def test_an_id_outside_the_table_gives_nan_in_its_own_sequence():
    core = make(FastWeights, 5)
    table, ids = random_table(core, 3, 4)
    ids[1, 2] = V
    ids[2, 1] = -1
    core.kernel = "fused"
    y_BTH, _ = core(Inputs(table, ids))
    assert y_BTH.isnan().flatten(2).any(2).tolist() == [
        [False] * 4,
        [False, False, True, True],
        [False, True, True, True],
    ]


def test_it_serves_up_to_128_units():
    inputs = Inputs(torch.zeros(2, 3, 5))
    assert fastweights.available(inputs, 128)
    assert not fastweights.available(inputs, 129)
    assert not fastweights.available(Inputs(torch.zeros(2, 3, 5, dtype=torch.float16)), 5)


def test_on_a_cpu_it_is_not_taken(monkeypatch):
    monkeypatch.setattr(calls, "INTERPRETED", False)
    assert not fastweights.available(Inputs(torch.zeros(2, 3, 5)), 5)


def test_what_does_not_fit_is_an_error():
    core = make(FastWeights, 5, kernel="fused")
    with pytest.raises(ValueError, match=r"^inputs of shape \[1, 2, 3, 4\] in torch.float64: expected \[1, 2, 3, 5\]"):
        core(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match=r"^state of shape"):
        core(torch.zeros(2, 3, 5), random_state(core, 3))


def test_a_second_derivative_is_an_error():
    core = make(FastWeights, 5, kernel="fused")
    p_BTH = random_vectors(core, 1, 2).requires_grad_()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(core(p_BTH)[0].pow(3).sum(), p_BTH, create_graph=True)


def test_where_it_fails_one_warning_says_why_and_a_slower_form_is_taken(monkeypatch, caplog):
    def fails(*_, **__):
        raise UserError("no C compiler")

    monkeypatch.setattr(fastweights, "population", fails)
    fastweights._works.cache_clear()
    core, p_BTH = make(FastWeights, 5, kernel="fused"), torch.randn(2, 3, 5)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert_close(core(p_BTH)[0], core.attend(p_BTH, None)[0])
    fastweights._works.cache_clear()
    says = "the Triton kernels are not available, so a slower form is used: no C compiler"
    assert [record.getMessage() for record in caplog.records] == [says]


COMPILE = """
import sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from src.ops.triton import fastweights_kernels as kernels
from src.ops.triton.fastweights import EPSILON, _layout

units, time, inner_steps, architecture, numbers = *map(int, sys.argv[1:5]), sys.argv[5]
absent = set(sys.argv[6:])
for kernel in (kernels.forward_kernel, kernels.backward_kernel):
    settings = _layout(units, time) | {"INNER_STEPS": inner_steps, "SUSTAINED": True, "NONLINEARITY": "tanh"}
    settings |= {"RETURN_SEQUENCE": bool(absent), "EPSILON": EPSILON, "SAVE": True}
    options = {"num_warps": settings.pop("num_warps"), "enable_fp_fusion": settings.pop("enable_fp_fusion")}
    constants = {name: settings[name] for name in kernel.arg_names if name in settings}
    constants |= {name: None for name in absent if name in kernel.arg_names}
    kinds = {"B": "i32", "T": "i32", "V": "i32", "ids": "*i64"} | dict.fromkeys(constants, "constexpr")
    signature = {name: kinds.get(name, f"*{numbers}") for name in kernel.arg_names}
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    made = compile(ASTSource(kernel, signature, places), GPUTarget("cuda", architecture, 32), options)
    print(kernel.__name__, len(made.asm["cubin"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize(
    ("units", "time", "inner_steps", "numbers", "absent"),
    [
        (50, 11, 1, "fp32", "first_gain first_bias initial fast fast_transposed d_a d_initial"),
        (20, 128, 2, "fp32", "ids first_gain first_bias"),
        (100, 32, 0, "fp32", "ids gain bias"),
        (128, 32, 1, "fp32", ""),
        (50, 64, 3, "fp64", ""),
    ],
)
def test_it_compiles_for_a_gpu_without_one(units, time, inner_steps, numbers, absent, architecture, tmp_path):
    arguments = [units, time, inner_steps, architecture, numbers, *absent.split()]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    ended = subprocess.run(
        [sys.executable, "-c", COMPILE, *map(str, arguments)],
        cwd=PROJECT,
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert re.fullmatch(r"forward_kernel \d+\nbackward_kernel \d+\n", ended.stdout)
