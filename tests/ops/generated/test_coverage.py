"""Steps as users write them run as kernels, with the results of their scan, or are refused for a stated reason.

Shapes: B sequences, T time steps, X input features, H hidden units.
"""

import logging
import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from src.config.errors import UserError
from src.models.base import Core
from src.ops.dispatch import choose
from src.ops.generated import kernel
from src.ops.inputs import Inputs
from src.specs import map_state, state_tensors
from tests.ops.generated.steps import LOWERED, REFUSED, Cell, H, K, X

B, T = 3, 5


class Many(Core):
    """Several cells side by side, so that one compilation serves all of them."""

    def __init__(self, kinds):
        super().__init__(X, H)
        self.parts = nn.ModuleList(kind() for kind in kinds)

    def project(self, x):
        return tuple(part.project(x) for part in self.parts)

    def initial_state(self, batch_size):
        return tuple(part.initial_state(batch_size) for part in self.parts)

    @property
    def output_size(self):
        return sum(part.output_size for part in self.parts)

    def step(self, p, state):
        done = [part.step(*given) for part, *given in zip(self.parts, p, state, strict=True)]
        return torch.cat([y for y, _ in done], 1), tuple(state for _, state in done)


each_lowered = pytest.mark.parametrize(
    "kinds",
    [
        *(LOWERED[start : start + 8] for start in range(0, len(LOWERED), 8)),
        *(pytest.param([kind], marks=pytest.mark.slow) for kind in LOWERED),  # alone, to find out which one fails
    ],
    ids=lambda kinds: "-to-".join(dict.fromkeys([kinds[0].__name__, kinds[-1].__name__])),
)
each_refused = pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)


def everything(core, form, x_BTX, state, resets_BT=None):
    """Outputs, the final state, and all gradients of a functional of both."""
    core.kernel = form
    x_BTX = x_BTX.clone().requires_grad_()
    state = state if state is None else map_state(lambda t: t.clone().requires_grad_(t.is_floating_point()), state)
    inputs = Inputs(core.project(x_BTX), resets=resets_BT)
    assert choose(core.forms(), form, inputs).kernel == form
    y_BTH, end = core(inputs, state)
    results = [y_BTH, *state_tensors(end)]
    loss = sum((result * torch.cos(torch.arange(result.numel())).view_as(result)).sum() for result in results)
    given = [x_BTX, *([] if state is None else state_tensors(state)), *core.parameters()]
    sources = [source for source in given if source.requires_grad]
    return [*results, *torch.autograd.grad(loss, sources, allow_unused=True, materialize_grads=True)]


def another(state):
    """Another value for one tensor of a state."""
    return (
        state.detach() + 0.3 * torch.randn_like(state)
        if state.is_floating_point()
        else state + (state.dtype != torch.bool)
    )


def assert_kernel_is_the_scan(core, length):
    x_BTX = torch.randn(B, length, X)
    start = map_state(another, core.initial_state(B))
    some_BT = torch.rand(B, length) < 0.3
    some_BT[:, -2:] = False  # a state may be infinite at first
    for state, resets_BT in ((None, None), (start, None), (start, some_BT)):
        found, expected = (everything(core, form, x_BTX, state, resets_BT) for form in ("fused", "reference"))
        assert all(result.isfinite().all() for result in expected)
        assert_close(found, expected, rtol=1e-10, atol=1e-10)


@each_lowered
def test_a_kernel_is_the_scan_of_its_step_with_steps_that_are_computed_again_too(kinds, monkeypatch):
    """Both in one test, since another process would have to trace the kernel again."""
    core = Many(kinds)
    assert_kernel_is_the_scan(core, T)
    monkeypatch.setattr(kernel, "SAVED_AT_MOST", 0)
    assert_kernel_is_the_scan(core, 37)


@each_refused
def test_a_step_without_a_kernel_is_scanned_and_says_why(kind, caplog):
    core = kind()
    x_BTX = torch.randn(B, T, X)
    inputs = Inputs(core.project(x_BTX))
    with caplog.at_level(logging.DEBUG, logger="src.ops.generated"):
        assert choose(core.forms(), "auto", inputs).kernel == "reference"
    (said,) = (record.getMessage() for record in caplog.records if kind.__name__ in record.getMessage())
    assert said.startswith(f"{kind.__name__}: no kernel, so a slower form is used: ")
    assert REFUSED[kind] in said
    torch.manual_seed(1)
    y_BTH, end = core(inputs)
    torch.manual_seed(1)
    expected_BTH, expected_end = core.scan(inputs.table)
    assert torch.equal(y_BTH, expected_BTH)
    assert all(torch.equal(a, b) for a, b in zip(state_tensors(end), state_tensors(expected_end), strict=True))
    core.kernel = "fused"
    with pytest.raises(UserError, match=f"there is no kernel for the step of {kind.__name__}: .*{REFUSED[kind]}"):
        core(inputs)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("convolution", 1),
        ("sorted_units", 1),
        ("transposed_and_sorted", 2),
        ("largest_eighteen", 1),
        ("bits_of_an_integer", 1),
    ],
)
def test_an_operation_without_a_kernel_is_named_with_its_line(name, line):
    (kind,) = (kind for kind in REFUSED if kind.__name__ == name)
    core = kind(kernel="fused")
    code = kind.step.__code__
    with pytest.raises(UserError) as raised:
        core(core.project(torch.zeros(1, 2, X)))
    assert f" in line {code.co_firstlineno + 1 + line} of {code.co_filename}: y = torch.tanh(" in str(raised.value)


def test_dropout_has_a_kernel_where_it_does_nothing():
    (kind,) = (kind for kind in REFUSED if kind.__name__ == "dropout")
    core = kind().eval()
    assert_kernel_is_the_scan(core, T)
    assert not core.train().is_fused


def test_a_decision_by_values_is_named_with_its_line():
    (kind,) = (kind for kind in REFUSED if kind.__name__ == "decision_by_values")
    core = kind(kernel="fused")
    with pytest.raises(
        UserError, match=r"data-dependent control flow: .* in line \d+ of .*: if y.abs\(\).max\(\) > 10:"
    ):
        core(core.project(torch.zeros(1, 2, X)))


def test_integers_that_a_kernel_cannot_count_are_an_error():
    (kind,) = (kind for kind in LOWERED if kind.__name__ == "Counter")
    core = kind(kernel="fused").float()
    p = core.project(torch.zeros(1, 3, X, dtype=torch.float32))
    counted = []
    for start in (2**24 - 4, 2**24 - 3):
        try:
            _, (_, count_B) = core(p, (core.initial_state(1)[0], torch.tensor([start])))
            counted.append(count_B.tolist())
        except OverflowError as error:
            counted.append(str(error))
    assert counted[0] == [2**24 - 1]
    assert "an integer state beyond 16,777,215, which torch.float32 cannot represent exactly; use model." in counted[1]


def test_integers_are_counted_whether_or_not_anyone_asks_for_the_state():
    (kind,) = (kind for kind in LOWERED if kind.__name__ == "Counter")
    core = kind(kernel="fused").float()
    p = core.project(torch.zeros(1, 3, X, dtype=torch.float32))
    for start in (2**24 - 3, 2**24 + 1):
        state = core.initial_state(1)[0], torch.tensor([start])
        with pytest.raises(OverflowError, match="an integer state beyond 16,777,215"):
            core(p, state, return_state=False)
    y_BTH, end = core(p, return_state=False)
    assert (y_BTH.shape, end) == ((1, 3, H), None)


def test_a_state_of_integers_of_another_type_is_an_error():
    (kind,) = (kind for kind in LOWERED if kind.__name__ == "Counter")
    core = kind(kernel="fused")
    with pytest.raises(ValueError, match=r"state of shape \[1\] in torch.float64: expected \[1\] in torch.int64"):
        core(core.project(torch.zeros(1, 3, X)), (core.initial_state(1)[0], torch.zeros(1)))


class OneStart(Cell):
    """An initial state of one sequence, which the scan repeats for every sequence."""

    def initial_state(self, batch_size):
        return self.zeros(1, H) + 1

    def step(self, p, h):
        h = torch.tanh(self.W(h) + p)
        return h, h


def test_a_start_after_a_reset_of_another_shape_is_an_error():
    core = OneStart(kernel="fused")
    inputs = Inputs(core.project(torch.zeros(B, T, X)), None, torch.ones(B, T, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"state of shape \[1, 6\] in torch.float64: expected \[3, 6\]"):
        core(inputs, core.zeros(B, H))


class Chosen(Cell):
    """Reads three tables at an index that the input determines: 1 + p / 1000, which is valid for random inputs."""

    @property
    def output_size(self):
        return 2 * H + K

    def project(self, x):
        return x

    def step(self, p, h):
        place_B = (1 + p[:, 0] / 1000).long()
        given_B1, row_BH = torch.gather(p, 1, place_B[:, None]), functional.embedding(place_B, self.rate_H[:, None])
        return torch.cat([given_B1.repeat(1, H), row_BH.repeat(1, H), functional.one_hot(place_B, K)], 1), h


def test_what_is_read_outside_a_table_is_no_number():
    core, x_BTX = Chosen(kernel="fused"), torch.zeros(1, 6, X)
    x_BTX[0, :, 0] = 1000 * torch.tensor([0.5, K + 0.5, H + 0.5, X + 0.5, -1.5, 3.5]) - 1000
    y_TK, _ = core(x_BTX)
    known = [torch.isfinite(part).all(1) for part in y_TK[0].split([H, H, K], 1)]
    assert [part.tolist() for part in known] == [
        [True, True, True, False, False, True],
        [True, True, False, False, False, True],
        [True, False, False, False, False, True],
    ]


class Exponential(Cell):
    """y_t = e^{p_t}, e^{p_t} - 1 and 1 / |p_t|."""

    @property
    def output_size(self):
        return 3

    def step(self, p, h):
        return torch.stack([torch.exp(p[:, 0]), torch.expm1(p[:, 1]), 1 / torch.abs(p[:, 2])], 1), h


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-7), (torch.float64, 5e-16)])
def test_exponentials_are_accurate_everywhere_and_0_where_they_are_too_small(dtype, tolerance):
    core = Exponential(kernel="fused").to(dtype)
    tiny = torch.finfo(dtype).tiny
    most = math.log(torch.finfo(dtype).max)
    x_N = torch.linspace(1.02 * math.log(tiny), (1 - 1e-7) * most, 20_000, dtype=dtype)
    special = [0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e30, -1e30, most + 0.01, most + 0.3, most + 1]
    x_N = torch.cat([x_N, torch.linspace(0.999 * most, (1 - 1e-7) * most, 1000), torch.tensor(special)]).to(dtype)
    y_N, less_N, inverse_N = core(x_N[None, :, None].expand(1, -1, H))[0][0].unbind(1)
    assert_close(inverse_N, 1 / x_N.abs(), rtol=tolerance, atol=0, equal_nan=True)
    assert_close(less_N, x_N.double().expm1().to(dtype), rtol=2 * tolerance, atol=0, equal_nan=True)
    expected_N = x_N.double().exp().to(dtype).double().where(~(x_N < math.log(tiny) + 0.01), 0.0)
    small_N = (x_N > math.log(tiny) - 0.01) & (expected_N == 0)
    assert (y_N[small_N] < 1.02 * tiny).all()
    assert_close(y_N[~small_N].double(), expected_N[~small_N], rtol=tolerance, atol=0, equal_nan=True)
