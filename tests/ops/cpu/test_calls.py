"""The ways in which kernels may be called: threads, memory, numbers out of range, only some gradients, and mistakes.

Shapes: B sequences, T time steps, V symbols, P projected features, H hidden units.
"""

import math
import os
import re
import shlex

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from src.models.fastweights import FastWeights
from src.models.lstm import LSTM, LSTMState
from src.models.rnn import RNN
from src.models.sequence import SequenceModel
from src.ops.cpu import calls
from src.ops.inputs import Inputs
from src.specs import InputSpec, OutputSpec, map_state, state_tensors
from tests.ops.cpu.cells import (
    CELLS,
    V,
    assert_equal,
    each_cell,
    features,
    make,
    random_state,
    random_table,
    random_vectors,
    run,
)


@pytest.mark.parametrize(
    ("batch", "dtype"),
    [
        (100, torch.float32),
        (128, torch.float64),
        pytest.param(100, torch.float64, marks=pytest.mark.slow),
        pytest.param(128, torch.float32, marks=pytest.mark.slow),
    ],
)
@each_cell
def test_no_bit_depends_on_the_number_of_threads(cell, batch, dtype):
    core = make(cell, 20).to(dtype)
    vectors, state = random_vectors(core, batch, 9).to(dtype), random_state(core, batch)
    table, ids = random_table(core, batch, 9)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results += [run(core, "fused", vectors, None, state), run(core, "fused", table.to(dtype), ids)]
    for one, two in zip(results[:2], results[2:], strict=True):
        assert all(one[name].dtype == dtype and torch.equal(one[name], two[name]) for name in one)


def outputs_and_gradient(core, kernel, p_BTP):
    """The outputs and the gradient of the inputs, but not of parameters, for a loss that shows what is not finite."""
    core.kernel = kernel
    p_BTP = p_BTP.clone().requires_grad_()
    y_BTH, _ = core(p_BTP, return_state=False)
    y_BTH.square().sum().backward()
    return y_BTH.detach(), p_BTP.grad


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@each_cell
def test_what_is_not_finite_stays_visible_and_in_its_own_sequence(cell, value):
    core = make(cell, 6)
    p_BTP = random_vectors(core, 11, 5)
    spoilt_BTP = p_BTP.clone()
    spoilt_BTP[[3, 9], 2, :] = value
    clean, spoilt = (outputs_and_gradient(core, "fused", p) for p in (p_BTP, spoilt_BTP))
    assert all(result.isfinite().all() for result in clean)
    others = [n for n in range(11) if n not in (3, 9)]
    for before, after in zip(clean, spoilt, strict=True):
        assert torch.equal(after[others], before[others])
    assert torch.equal(spoilt[0][:, :2], clean[0][:, :2])
    reference = outputs_and_gradient(core, "reference", spoilt_BTP)
    assert torch.equal(spoilt[0].isfinite(), reference[0].isfinite())
    if math.isnan(value):
        assert spoilt[0][[3, 9], 2:].isnan().all()
        assert spoilt[1][[3, 9], :3].isnan().any(dim=(1, 2)).all()
        assert all(p.grad.isnan().any() for name, p in core.named_parameters() if name.startswith("recurrent"))


def test_lanes_without_a_sequence_do_not_reach_the_gradients():
    # Where the input is zero, the bias of the preliminary norm feeds the memory until it overflows.
    core = make(FastWeights, 5, layer_norm=False, layer_norm_preliminary=True, boundary="identity", fast_lr=50.0)
    with torch.no_grad():
        core.recurrent.weight.zero_()
        core.preliminary_norm.weight.copy_(torch.tensor([-10.0, 10.0, -10.0, 10.0, 0.0]))
        core.preliminary_norm.bias.copy_(torch.tensor([1.0, 1.0, 1.0, 1.0, 1e-3]))
    assert not core(torch.zeros(1, 30, 5))[0].isfinite().all()
    vectors = torch.tensor([1.0, -1.0, 1.0, -1.0, 0.0]).expand(3, 30, 5)
    assert_equal(run(core, "fused", vectors), run(core, "reference", vectors))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cell", ["rnn-tanh", "lstm", "gru-before", "gru-after"])
def test_large_inputs_saturate(cell, dtype):
    core = make(cell, 6).to(dtype)
    p_BTP = (1e4 * torch.randn(9, 5, features(core)).sign()).to(dtype)
    fused, reference = (outputs_and_gradient(core, kernel, p_BTP) for kernel in ("fused", "reference"))
    assert fused[0].isfinite().all()
    assert fused[1].isfinite().all()
    assert_close(fused, reference, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_inputs_are_clipped(dtype):
    core = make("alstm", 6).to(dtype)
    p_BTP = 1e4 * torch.randn(9, 5, features(core), dtype=dtype)
    fused, reference = (outputs_and_gradient(core, kernel, p_BTP) for kernel in ("fused", "reference"))
    assert fused[0].abs().max() > 0.9
    assert_close(fused, reference, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 4e-7), (torch.float64, 1e-15)])
def test_tanh_and_sigmoid_are_accurate_everywhere(dtype, tolerance):
    smallest = -37 if dtype == torch.float32 else -300
    tiny = 10 ** torch.linspace(smallest, 0, 1000)
    x = torch.cat([torch.linspace(-30, 30, 6001), tiny, -tiny, torch.zeros(1)]).to(dtype)

    def relative_error(actual, expected):
        return ((actual.double() - expected).abs() / expected.abs().clamp(min=torch.finfo(dtype).tiny)).max()

    rnn, lstm = RNN(1, hidden_size=5, kernel="fused"), LSTM(1, hidden_size=5, kernel="fused")
    for core in (rnn, lstm):
        core.to(dtype).recurrent.weight.data.zero_()
    x_B5 = x[:, None].expand(-1, 5)
    h_BTH, _ = rnn(x_B5[:, None])
    assert relative_error(h_BTH[:, 0], torch.tanh(x_B5.double())) <= tolerance

    # with g = 0 and c_0 = 1, the cell state is the forget gate
    zeros_B5 = torch.zeros_like(x_B5)
    p_BP = torch.cat([zeros_B5, x_B5, zeros_B5, zeros_B5], dim=1)
    _, end = lstm(p_BP[:, None], LSTMState(zeros_B5, torch.ones_like(x_B5)))
    assert relative_error(end.c_BH, torch.sigmoid(x_B5.double())) <= tolerance


@each_cell
def test_the_last_state_is_left_out_on_request(cell):
    core = make(cell, 6, kernel="fused")
    p_BTP = random_vectors(core, 3, 70)
    assert torch.equal(core(p_BTP, return_state=False)[0], core(p_BTP)[0])
    if isinstance(core, FastWeights):
        assert core(p_BTP, return_state=False)[1] is None


@each_cell
def test_nothing_is_saved_without_a_backward_pass(cell, monkeypatch):
    core = make(cell, 6, kernel="fused")
    p_BTP = random_vectors(core, 3, 4)
    expected = core(p_BTP)[0]
    sizes, room = [], calls.room
    monkeypatch.setattr(calls, "room", lambda like, size: sizes.append(size) or room(like, size))
    assert torch.equal(core(p_BTP)[0], expected)
    assert sizes.pop()
    with torch.no_grad():
        assert torch.equal(core(p_BTP)[0], expected)
    core.requires_grad_(False)
    assert torch.equal(core(p_BTP)[0], expected)
    assert sizes == []


@each_cell
def test_few_sequences_save_no_more_than_their_share(cell, monkeypatch):
    """Sequences that are computed one at a time save their share of what is saved for as many as fill a vector."""
    core = make(cell, 6, kernel="fused")
    core(random_vectors(core, 1, 5))  # the first call compares a new kernel with the scan
    sizes, room = [], calls.room
    monkeypatch.setattr(calls, "room", lambda like, size: sizes.append(size) or room(like, size))
    lanes = calls.vector_bytes() // 8
    batches = [*range(1, lanes // 4 + 1), lanes]
    for batch in batches:
        core(random_vectors(core, batch, 5))
    assert sizes == [batch * sizes[-1] // lanes for batch in batches]


@each_cell
def test_tensors_may_lie_in_any_order_in_memory(cell):
    core = make(cell, 6)
    vectors, (table, ids) = random_vectors(core, 9, 12), random_table(core, 9, 12)
    state = random_state(core, 9)
    expected = run(core, "fused", vectors[:, 3:8], None, state), run(core, "fused", table, ids[:, 3:8].contiguous())

    def scattered(tensor):
        return tensor.movedim(0, -1).contiguous().movedim(-1, 0)

    for name, parameter in core.named_parameters():
        if parameter.ndim == 2 and name.startswith("recurrent"):
            parameter.data = scattered(parameter.data)
            assert not parameter.is_contiguous()
    core.kernel = "fused"
    for dtype in (torch.int64, torch.int32):
        ids_BT = scattered(ids.to(dtype))[:, 3:8]
        assert not ids_BT.is_contiguous()
        y_BTH, _ = core(Inputs(scattered(table), ids_BT))
        assert torch.equal(y_BTH, expected[1]["value: outputs"])
    y_BTH, end = core(scattered(vectors)[:, 3:8], map_state(scattered, state))
    assert torch.equal(y_BTH, expected[0]["value: outputs"])
    assert torch.equal(state_tensors(end)[-1], list(expected[0].values())[len(state_tensors(end))])

    parameters = [parameter for name, parameter in core.named_parameters() if not name.startswith("input")]
    d_outputs = torch.randn(9, 5, 2 * core.output_size)[..., ::2]
    dense, sparse = (
        torch.autograd.grad(core(vectors[:, 3:8])[0], parameters, gradient)
        for gradient in (d_outputs.contiguous(), d_outputs)
    )
    assert all(torch.equal(a, b) for a, b in zip(sparse, dense, strict=True))


@each_cell
def test_gradients_of_some_are_those_of_all(cell):
    core = make(cell, 6, kernel="fused")
    p_BTP = random_vectors(core, 3, 5).requires_grad_()
    weights_BTH = torch.randn(3, 5, core.output_size)
    named = {name: p for name, p in core.named_parameters() if not name.startswith("input")} | {"p": p_BTP}
    loss = (core(p_BTP)[0] * weights_BTH).sum()
    all_of_them = dict(zip(named, torch.autograd.grad(loss, list(named.values()), retain_graph=True), strict=True))
    again = torch.autograd.grad(loss, list(named.values()))
    assert all(torch.equal(a, b) for a, b in zip(again, all_of_them.values(), strict=True))
    for only in named:
        for name, tensor in named.items():
            tensor.requires_grad_(name == only)
        (gradient,) = torch.autograd.grad((core(p_BTP)[0] * weights_BTH).sum(), named[only])
        assert torch.equal(gradient, all_of_them[only]), only


@each_cell
def test_a_second_derivative_is_an_error_and_not_a_wrong_number(cell):
    core = make(cell, 6, kernel="fused")
    p_BTP = random_vectors(core, 3, 5).requires_grad_()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(core(p_BTP)[0].pow(3).sum(), p_BTP, create_graph=True)


@each_cell
def test_a_loss_of_the_last_step_alone(cell):
    core = make(cell, 6)
    gradients = []
    for kernel in ("fused", "reference"):
        core.kernel = kernel
        torch.manual_seed(3)
        p_BTP = random_vectors(core, 3, 5).requires_grad_()
        y_BTH, end = core(p_BTP)
        of_outputs = torch.autograd.grad(y_BTH[:, -1].pow(3).sum(), p_BTP, retain_graph=True)
        of_state = torch.autograd.grad(state_tensors(end)[-1].pow(3).sum(), p_BTP)
        gradients.append([*of_outputs, *of_state])
        assert all(gradient.any() for gradient in gradients[-1])
    assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-10)


def mismatch(name, found, expected, dtype=torch.float64):
    """A pattern for the error message about a tensor that does not fit."""
    return re.escape(f"{name} of shape {list(found)} in {dtype}: expected {list(expected)} in torch.float64")


@each_cell
def test_what_does_not_fit_is_an_error(cell):
    core = make(cell, 6, kernel="fused")
    table, ids = random_table(core, 3, 4)
    for wrong in (-1, V):
        spoilt = ids.clone()
        spoilt[1, 2] = wrong
        with pytest.raises(IndexError, match=f"must be from 0 to {V - 1}, the rows of the table"):
            core(Inputs(table, spoilt))
    with pytest.raises(ValueError, match=mismatch("inputs", [V, table.shape[1] - 1], table.shape)):
        core(Inputs(table[:, 1:].contiguous(), ids))
    few, state = random_state(core, 2), random_state(core, 3)
    shape = state_tensors(state)[0].shape
    with pytest.raises(ValueError, match=mismatch("state", state_tensors(few)[0].shape, shape)):
        core(Inputs(table, ids), few)
    with pytest.raises(ValueError, match=mismatch("state", shape, shape, torch.float32)):
        core(Inputs(table, ids), map_state(Tensor.float, state))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's compiler imports what torch deprecates,
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # and probes the gradients of inner tensors
@each_cell
def test_a_compiled_model_gives_the_same(cell, monkeypatch):
    kind, settings = CELLS[cell]
    specs = InputSpec("tokens", V), OutputSpec("class", 3)
    model = SequenceModel(*specs, lambda size: kind(size, hidden_size=6, **settings, kernel="fused"), embedding_size=5)
    with torch.no_grad():
        model.embedding.weight.mul_(0.1)
    called = []
    enter = calls.enter
    monkeypatch.setattr(calls, "enter", lambda *given: called.append(given[0].__name__) or enter(*given))
    ids_BT = torch.randint(V, (8, 9))
    results = []
    compiler, *_ = shlex.split(os.environ.get("CXX", "c++"))  # torch accepts only a path
    for run_model in (model, torch.compile(model, options={"cpp.cxx": (None, compiler)})):
        called.clear()
        prediction = run_model(ids_BT).prediction
        results.append([prediction, *torch.autograd.grad(prediction.pow(2).sum(), list(model.parameters()))])
        assert {name.removeprefix("fastweights_") for name in called} >= {"forward", "backward"}
    assert all(result.isfinite().all() for result in results[0])
    assert_close(results[1], results[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [0, 1, calls.ALWAYS_NEW // 8 - 1, calls.ALWAYS_NEW // 8 + 1000])
@pytest.mark.parametrize("large_pages", [True, False])
def test_room_is_memory_of_its_size(size, large_pages, monkeypatch):
    monkeypatch.setattr(calls, "LARGE_PAGES", large_pages and calls.LARGE_PAGES)
    room = calls.room(torch.empty(1), size)
    assert (room.shape, room.dtype) == ((size,), torch.float64)
    room[-1:] = 1  # it can be written to


def test_fast_weights_without_a_gradient_change_no_other():
    core = make(FastWeights, 17, num_inner_steps=2)
    p_BTH, state = random_vectors(core, 3, 5), random_state(core, 3)
    found = []
    for wanted in (True, False):
        h_BH, A_BHH = state[0].clone().requires_grad_(wanted), state[1].clone().requires_grad_(wanted)
        y_BTH, _ = core(p_BTH.clone().requires_grad_(), type(state)(h_BH, A_BHH), return_state=False)
        found.append(torch.autograd.grad(y_BTH.square().sum(), list(core.recurrent.parameters())))
        assert wanted == (y_BTH.grad_fn.next_functions[-1][0] is not None)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
