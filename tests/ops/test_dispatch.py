"""The choice of a form: the fastest one that is allowed and serves the inputs, chosen in one place only.

Shapes: B sequences, T time steps, X input features, H hidden units.
"""

import re
from pathlib import Path

import pytest
import torch
from torch.autograd import forward_ad
from torch.testing import assert_close

from src.models.fastweights import FastWeights
from src.ops.cpu import calls
from src.ops.dispatch import FASTEST_FIRST, Form, choose, plain
from src.ops.inputs import Inputs
from src.specs import state_tensors
from tests.models.cores import MODELS, WITHOUT_KERNEL, B, H, Nested, T, X, example

SRC = Path(__file__).resolve().parents[2] / "src"
INPUTS = Inputs(torch.zeros(B, T, 2))

each_model = pytest.mark.parametrize("make", MODELS, ids=lambda make: make.name)


def never(inputs):
    return False


def nothing(inputs, state, return_state, return_sequence):
    raise AssertionError("only chosen, not computed")


def forms(**serves):
    """One form for each kernel, fastest first; by default, each serves all inputs."""
    return [
        Form(kernel, nothing, serves[kernel]) if kernel in serves else Form(kernel, nothing) for kernel in FASTEST_FIRST
    ]


def chosen(core, kernel, length=T, dtype=torch.float32, device="cpu"):
    """The kernel of the form that is chosen for a core."""
    core = core.to(device=device, dtype=dtype)
    x_BTX = torch.zeros(B, length, X, dtype=dtype, device=device)
    return choose(core.forms(), kernel, Inputs(core.project(x_BTX))).kernel


def slower_form(make):
    """The kernel of the fastest form in plain PyTorch."""
    return "vectorized" if "vectorized" in [form.kernel for form in example(make).forms()] else "reference"


def assert_near(actual, expected, tolerance):
    """With a tolerance relative to the largest number."""
    assert_close(actual.float(), expected, rtol=0, atol=tolerance * expected.abs().max().item())


@pytest.fixture
def _compiled():
    if not calls.available(torch.empty(0)):
        pytest.skip("no compiler")


@pytest.mark.parametrize("kernel", ["auto", *FASTEST_FIRST])
def test_the_kernel_caps_the_speed(kernel):
    assert choose(forms(), kernel, INPUTS).kernel == ("fused" if kernel == "auto" else kernel)


@pytest.mark.parametrize(
    ("kernel", "expected"), [("auto", "vectorized"), ("fused", "vectorized"), ("reference", "reference")]
)
def test_a_form_that_does_not_serve_is_passed_over(kernel, expected):
    assert choose(forms(fused=never), kernel, INPUTS).kernel == expected


@pytest.mark.parametrize("kernel", ["auto", *FASTEST_FIRST])
def test_the_definition_is_always_left(kernel):
    assert choose(forms(fused=never, vectorized=never), kernel, INPUTS).kernel == "reference"


def test_where_a_kernel_is_missing_the_next_slower_one_takes_over():
    without = [form for form in forms() if form.kernel != "vectorized"]
    assert choose(without, "vectorized", INPUTS).kernel == "reference"


def test_of_two_forms_of_a_kernel_the_first_that_serves_is_taken():
    first, second = Form("vectorized", nothing, never), Form("vectorized", nothing)
    assert choose([first, second, *forms(fused=never)], "auto", INPUTS) is second
    assert choose([*forms(fused=never, vectorized=never), first, second], "auto", INPUTS) is second


def test_the_order_in_which_forms_are_listed_is_not_that_of_their_speed():
    assert choose(reversed(forms()), "auto", INPUTS).kernel == "fused"
    assert choose(reversed(forms(fused=never)), "auto", INPUTS).kernel == "vectorized"


def test_only_allowed_forms_are_asked_and_about_these_inputs():
    asked = []

    def serves(inputs):
        asked.append(inputs)
        return False

    assert choose(forms(fused=serves), "vectorized", INPUTS).kernel == "vectorized"
    assert asked == []
    choose(forms(fused=serves), "auto", INPUTS)
    assert len(asked) == 1
    assert asked[0] is INPUTS


@each_model
def test_every_model_has_a_kernel_and_its_definition_among_its_forms(make):
    kernels = [form.kernel for form in example(make).forms()]
    assert "fused" in kernels
    assert kernels.count("reference") == 1
    (definition,) = (form for form in example(make).forms() if form.kernel == "reference")
    assert definition.serves(INPUTS)


@each_model
@pytest.mark.usefixtures("_compiled")
@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=pytest.mark.slow), torch.float64])
def test_on_the_cpu_every_model_runs_as_a_kernel_if_it_can(make, dtype):
    expected = slower_form(make) if make.name in WITHOUT_KERNEL else "fused"
    assert chosen(make(), "auto", dtype=dtype) == expected


@each_model
@pytest.mark.parametrize(
    ("dtype", "device"), [(torch.float16, "cpu"), (torch.bfloat16, "cpu"), (torch.float32, "meta")]
)
def test_other_numbers_and_devices_fall_to_a_slower_form(make, dtype, device):
    slower = slower_form(make)
    for kernel in ("auto", "fused"):
        assert chosen(make(), kernel, dtype=dtype, device=device) == slower


@each_model
def test_without_compiled_kernels_a_slower_form_is_taken(make, monkeypatch):
    monkeypatch.setattr(calls, "library", lambda: None)
    assert chosen(make(), "auto") == slower_form(make)


@each_model
def test_half_precision_gives_nearly_the_same(make):
    core = make()
    x_BTX = torch.randn(B, T, X)
    expected_BTH, _ = core.scan(core.project(x_BTX))
    core = core.half()
    y_BTH, _ = core(core.project(x_BTX.half()))
    assert y_BTH.dtype == torch.float16
    assert_near(y_BTH, expected_BTH, 0.01)


@each_model
def test_a_device_without_kernels_gives_outputs_of_the_same_shape(make):
    core = make().to("meta")
    y_BTH, _ = core(core.project(torch.zeros(B, T, X, device="meta")))
    assert y_BTH.is_meta
    assert y_BTH.shape == (B, T, core.output_size)


@pytest.mark.usefixtures("_compiled")
@pytest.mark.parametrize("write", ["late", "preliminary"])
@pytest.mark.parametrize("kernel", ["auto", *FASTEST_FIRST])
def test_fast_weights_written_in_another_way_run_as_their_step(write, kernel):
    expected = "fused" if kernel in ("auto", "fused") else "reference"
    assert chosen(FastWeights(X, hidden_size=H, write=write), kernel) == expected


@pytest.mark.usefixtures("_compiled")
@pytest.mark.parametrize(("write", "resets", "number"), [("state", False, 0), ("state", True, 2), ("late", False, 2)])
def test_fast_weights_run_as_their_own_kernel_unless_it_lacks_something(write, resets, number):
    core = FastWeights(X, hidden_size=H, write=write)
    forms = tuple(core.forms())
    assert [form.kernel for form in forms[:3]] == ["fused", "fused", "vectorized"]  # on a CPU, on a GPU, in torch
    fused = [form for form in forms if form.kernel == "fused"]
    resets_BT = torch.zeros(B, T, dtype=torch.bool) if resets else None
    inputs = Inputs(core.project(torch.zeros(B, T, X)), resets=resets_BT)
    assert choose(fused, "auto", inputs) is fused[number]


@pytest.mark.parametrize(("length", "expected"), [(1, "vectorized"), (2 * H, "vectorized"), (2 * H + 1, "reference")])
def test_fast_weights_attend_as_long_as_that_is_faster(length, expected):
    assert chosen(FastWeights(X, hidden_size=H), "vectorized", length) == expected
    assert chosen(FastWeights(X, hidden_size=H), "auto", length, torch.float16) == expected


@pytest.mark.usefixtures("_compiled")
def test_fast_weights_are_fused_at_any_length():
    assert {chosen(FastWeights(X, hidden_size=H), "auto", length) for length in (1, 2 * H, 2 * H + 1)} == {"fused"}


def test_the_choice_by_dtype_and_device_works_for_several_projected_tensors():
    core = Nested(X, hidden_size=H)
    inputs = Inputs(core.project(torch.zeros(B, T, X)))
    assert calls.available(inputs) == calls.available(torch.empty(0))
    assert not calls.available(Inputs(core.half().project(torch.zeros(B, T, X, dtype=torch.float16))))


@pytest.mark.parametrize("state", [None, torch.ones(B, 2)])
def test_a_plain_function_gives_the_last_output_where_no_other_is_asked_for(state):
    def running_sum(p_BTH, state):
        y_BTH = p_BTH.cumsum(1) + (0 if state is None else state[:, None])
        return y_BTH, y_BTH[:, -1]

    inputs = Inputs(torch.randn(5, 2), torch.randint(5, (B, T)))
    compute = plain(running_sum)
    expected_BTH, _ = running_sum(inputs.vectors, state)
    for return_state in (False, True):
        assert torch.equal(compute(inputs, state, return_state, True)[0], expected_BTH)
        assert torch.equal(compute(inputs, state, return_state, False)[0], expected_BTH[:, -1])
        assert torch.equal(compute(inputs, state, True, return_state)[1], expected_BTH[:, -1])


def test_no_model_decides_by_itself_what_computes_it():
    sources = {path.name: path.read_text() for path in (SRC / "models").glob("*.py")}
    assert {"base.py", "fastweights.py", "sequence.py"} <= sources.keys()
    for name, source in sources.items():
        for word in ("is_cpu", "is_cuda", "device.type", ".dtype ==", ".dtype in"):
            assert word not in source, (name, word)
        assert name == "base.py" or "self.kernel" not in source, name


def test_choose_is_called_by_the_core_and_the_benchmark_alone():
    called = re.compile(r"from src\.ops\.dispatch import .*\bchoose\b|dispatch\.choose")
    callers = [path.relative_to(SRC).as_posix() for path in SRC.rglob("*.py") if called.search(path.read_text())]
    assert sorted(callers) == ["benchmarks/updates.py", "models/base.py"]


@each_model
@pytest.mark.usefixtures("_compiled")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch imports a module that it deprecates
def test_transforms_and_forward_derivatives_take_a_form_that_has_them(make):
    core = make().double()
    x_BTX = torch.randn(B, T, X, dtype=torch.float64)

    def outputs(x_BTX):
        return core(core.project(x_BTX))[0]

    expected_BTH = outputs(x_BTX)
    (gradient_BTX,) = torch.autograd.grad(outputs(x := x_BTX.clone().requires_grad_()).sum(), x)
    assert_close(torch.func.vmap(lambda x_TX: outputs(x_TX[None])[0])(x_BTX), expected_BTH)
    assert_close(torch.func.grad(lambda x_BTX: outputs(x_BTX).sum())(x_BTX), gradient_BTX)
    along_BTX = torch.randn_like(x_BTX)
    _, change_BTH = torch.func.jvp(outputs, (x_BTX,), (along_BTX,))
    assert_close(change_BTH.sum(), (gradient_BTX * along_BTX).sum())
    with forward_ad.dual_level():
        dual_BTH = outputs(forward_ad.make_dual(x_BTX, along_BTX))
        assert_close(forward_ad.unpack_dual(dual_BTH).tangent, change_BTH)


@each_model
def test_mixed_precision_gives_nearly_the_same_and_a_state_that_every_form_takes(make):
    core = make()
    x_BTX = torch.randn(5, T, X)  # enough for lanes, for cores that project in float32

    def results(forward):
        y_BTH, state = forward(core.project(x_BTX))
        return y_BTH, torch.autograd.grad(y_BTH.float().square().sum(), list(core.parameters())), state

    expected_BTH, expected, _ = results(core.scan)
    with torch.autocast("cpu", torch.bfloat16):
        y_BTH, gradients, state = results(core)
    assert_near(y_BTH, expected_BTH, 0.1)
    for actual, gradient in zip(gradients, expected, strict=True):
        assert_near(actual, gradient, 0.4)
    assert {tensor.dtype for tensor in state_tensors(state)} <= {torch.float32, torch.int64}


@each_model
@pytest.mark.usefixtures("_compiled")
def test_a_core_knows_whether_a_kernel_serves_it(make):
    core = make().double()
    assert core.is_fused == (make.name not in WITHOUT_KERNEL)
    core.kernel = "vectorized"
    assert not core.is_fused
