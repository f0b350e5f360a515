"""Cells with bilinear terms: their equations, written out with the full tensor, and properties that follow from them.

Shapes: T time steps, X input features, H hidden units, R components.
"""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import expit as sigmoid
from torch import nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from src.models.bilinear import Bilinear
from src.models.cp_add_subtract import CPAddSubtract
from src.models.cp_additive import CPAdditive
from src.models.cp_delta import CPDelta
from src.models.cp_gate import CPGate
from src.models.cp_integrator import CPIntegrator
from src.models.cp_lossy_integrator import CPLossyIntegrator
from src.models.cp_residual import CPResidual
from src.models.cp_rnn import CPRNN
from src.models.mi_rnn import MIRNN
from src.models.mrnn import MRNN
from src.models.rnn import RNN
from src.models.sparse_rnn import SparseRNN
from src.models.tensor_rnn import TensorRNN
from src.models.tgu import TGU
from src.models.tt_rnn import TTRNN
from src.models.tucker_rnn import TuckerRNN
from src.models.typed_rnn import TypedRNN
from src.tensors.cp import CP

T, X, H, R = 4, 3, 6, 2
pytestmark = pytest.mark.usefixtures("uncompiled")


def relu(a):
    return np.maximum(a, 0)


def linear(a):
    return a


def value(parameter):
    return parameter.detach().numpy()


def affine(layer, x):
    return value(layer.weight) @ x + value(layer.bias)


def normalized(a, norm):
    bias = 0 if norm.bias is None else value(norm.bias)
    return (a - a.mean()) / np.sqrt(a.var() + norm.eps) * value(norm.weight) + bias


def bilinear(term, h, x):
    """A bilinear term, computed from its full tensor."""
    if term.padded:
        h, x = np.append(1, h), np.append(1, x)
    result = np.einsum("i,ijk,k->j", h, value(term.map.full()), x)
    if term.state is not None:
        result = result + value(term.state.weight) @ h
    return result if term.input is None else result + affine(term.input, x)


def tensor_rnn(f):
    return lambda core, h, x: f(bilinear(core.term, h, x))


def integrator(core, h, x):
    written, erased = relu(affine(core.input, x)), relu(bilinear(core.term, h, x))
    if isinstance(core, CPLossyIntegrator):
        written, erased = affine(core.write, written), value(core.recurrent_erase.weight) @ erased
    return relu(h + written - erased)


def integrator_with(norm):
    def step(core, h, x):
        erased = bilinear(core.term, h, x)
        erased = relu(normalized(erased, core.before)) if norm == "before" else normalized(relu(erased), core.after)
        return relu(h + relu(affine(core.input, x)) - erased)

    return step


def residual(core, h, x):
    inner = relu(normalized(bilinear(core.term, h, x), core.inner_norm))
    return h + normalized(value(core.recurrent.weight) @ inner + value(core.bias_H), core.norm)


def integrated(core, h, x):
    u, v = value(core.recurrent.weight) @ h, value(core.input.weight) @ x
    if core.plain:
        return relu(u * v + value(core.bias_H))
    alpha, beta_1, beta_2 = (value(weight) for weight in (core.alpha_H, core.beta_state_H, core.beta_input_H))
    return np.tanh(alpha * u * v + beta_1 * u + beta_2 * v + value(core.bias_H))


def typed(core, h, x):
    f = sigmoid(affine(core.gate, x))
    return f * h + (1 - f) * (value(core.candidate.weight) @ x)


def gated(f):
    def step(core, h, x):
        forget = sigmoid(bilinear(core.gate, h, x) + core.gate_bias)
        return forget * h + (1 - forget) * f(affine(core.candidate, x))

    return step


def added(f=relu, norm_before=None, norm_after=None):
    def step(core, h, x):
        z = bilinear(core.term, h, x)
        z = f(normalized(z, core.before)) if norm_before else f(z)
        return h + (normalized(z, core.after) if norm_after else z)

    return step


def delta(core, h, x):
    return h + relu(bilinear(core.added, h, x)) - relu(bilinear(core.subtracted, h, x))


SEPARATE = H**2 + H * X + H
CP_NONE, CP_COMBINED = R * (2 * H + X), R * (2 * H + X + 2)
CELLS = {
    "tensor_rnn": (TensorRNN, {}, tensor_rnn(np.tanh), H * H * X + SEPARATE),
    "tensor_rnn_combined": (TensorRNN, {"linear": "combined"}, tensor_rnn(np.tanh), (H + 1) * H * (X + 1)),
    "cp_rnn": (CPRNN, {"rank": R, "nonlinearity": "relu"}, tensor_rnn(relu), CP_NONE + SEPARATE),
    "cp_rnn_combined": (CPRNN, {"rank": R, "linear": "combined"}, tensor_rnn(np.tanh), CP_COMBINED),
    "cp_rnn_weight_norm": (CPRNN, {"rank": R, "weight_norm": True}, tensor_rnn(np.tanh), CP_NONE + R + SEPARATE),
    "tt_rnn": (TTRNN, {"rank": R}, tensor_rnn(np.tanh), R * H + R * R * H + R * X + SEPARATE),
    "tucker_rnn": (TuckerRNN, {"rank": R}, tensor_rnn(np.tanh), CP_NONE + R**3 + SEPARATE),
    "sparse_rnn": (SparseRNN, {}, tensor_rnn(np.tanh), H**2 + X + SEPARATE),
    "sparse_rnn_combined": (SparseRNN, {"linear": "combined", "num_entries": 10}, tensor_rnn(np.tanh), 10),
    "bilinear": (Bilinear, {"rank": R, "scale": 1.5}, lambda core, h, x: 1.5 * bilinear(core.term, h, x), CP_NONE),
    "mrnn": (MRNN, {"rank": R}, tensor_rnn(np.tanh), CP_NONE + H * X + H),
    "mi_rnn": (MIRNN, {}, integrated, H**2 + H * X + 4 * H),
    "mi_rnn_plain": (MIRNN, {"plain": True, "nonlinearity": "relu"}, integrated, H**2 + H * X + H),
    "typed_rnn": (TypedRNN, {"gate_bias": 0.5}, typed, 2 * H * X + H),
    "cp_additive": (CPAdditive, {"rank": R}, added(), CP_NONE + H * X + H),
    "cp_additive_tanh": (CPAdditive, {"rank": R, "nonlinearity": "tanh"}, added(np.tanh), CP_NONE + H * X + H),
    "cp_additive_before": (
        CPAdditive, {"rank": R, "layer_norm": "before"}, added(norm_before=True), CP_NONE + H * X + 3 * H
    ),
    "cp_additive_after": (
        CPAdditive, {"rank": R, "layer_norm": "after"}, added(norm_after=True), CP_NONE + H * X + 3 * H
    ),
    "cp_delta": (CPDelta, {"rank": R}, delta, 2 * CP_COMBINED),
    "add_subtract": (CPAddSubtract, {"rank": R}, delta, 2 * (CP_NONE + H * X + H)),
    "cp_integrator": (CPIntegrator, {"rank": R}, integrator, CP_NONE + H * X + H),
    "cp_integrator_before": (
        CPIntegrator, {"rank": R, "layer_norm": "before"}, integrator_with("before"), CP_NONE + H * X + 3 * H
    ),
    "cp_integrator_after": (
        CPIntegrator, {"rank": R, "layer_norm": "after"}, integrator_with("after"), CP_NONE + H * X + 3 * H
    ),
    "lossy_integrator": (
        CPLossyIntegrator, {"rank": R}, integrator, CP_COMBINED + H * X + H + 2 * H**2 + H
    ),
    "cp_residual": (CPResidual, {"rank": R}, residual, CP_NONE + H**2 + 4 * H),
    "cp_gate": (CPGate, {"rank": R, "gate_bias": 1.0}, gated(relu), CP_NONE + SEPARATE + H * X + H),
    "cp_gate_weight_norm": (
        CPGate, {"rank": R, "weight_norm": True}, gated(relu), CP_NONE + R + SEPARATE + H * X + H
    ),
    "cp_gate_combined": (
        CPGate, {"rank": R, "linear": "combined", "nonlinearity": "linear"}, gated(linear), CP_COMBINED + H * X + H
    ),
}  # fmt: skip
each_cell = pytest.mark.parametrize(("cell", "settings", "step", "count"), CELLS.values(), ids=CELLS)


def made(cell, settings):
    """A core whose biases, gains and other vectors of parameters are random."""
    core = cell(X, hidden_size=H, **settings)
    for name, parameter in core.named_parameters():
        if parameter.ndim == 1 and "map" not in name:
            nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name))
    return core


@each_cell
def test_four_steps_are_the_equations(cell, settings, step, count):
    core, x_TX = made(cell, settings), torch.randn(T, X)
    state = core.initial_state(1)
    h = value(state.h_BH if isinstance(core, Bilinear) else state)[0]
    for t, y_H in enumerate(core(core.project(x_TX[None]))[0][0]):
        x = x_TX[t].numpy()
        h = np.append(x, np.zeros(H - X)) if isinstance(core, Bilinear) and t == 0 else step(core, h, x)
        np.testing.assert_allclose(value(y_H), h, atol=1e-12)


@each_cell
def test_the_number_of_parameters_is_that_of_the_formula(cell, settings, step, count):
    assert sum(parameter.numel() for parameter in cell(X, hidden_size=H, **settings).parameters()) == count


@pytest.mark.parametrize(
    ("version", "f", "reads_previous"), [("final", np.tanh, False), ("v1", sigmoid, False), ("v2", sigmoid, True)]
)
@pytest.mark.parametrize("form", ["separate", "combined"])
def test_a_tensor_gated_unit_reads_what_it_accumulates(version, f, reads_previous, form):
    core, x_TX = made(TGU, {"rank": R, "version": version, "linear": form}), torch.randn(T, X)
    c = np.zeros(H)
    y_BTH, state = core(core.project(x_TX[None]))
    for t, y_H in enumerate(y_BTH[0]):
        x, before = x_TX[t].numpy(), c
        c = gated(linear)(core, c, x)
        np.testing.assert_allclose(value(y_H), f(bilinear(core.read, before if reads_previous else c, x)), atol=1e-12)
    np.testing.assert_allclose(value(state)[0], c, atol=1e-12)
    gate = CPGate(X, hidden_size=H, rank=R, linear=form)
    extra = sum(parameter.numel() for parameter in gate.gate.parameters())
    counts = [sum(parameter.numel() for parameter in one.parameters()) for one in (core, gate)]
    assert counts[0] == counts[1] + extra


@pytest.mark.parametrize("cell", [TensorRNN, CPRNN, TTRNN, TuckerRNN, SparseRNN])
def test_without_its_tensor_it_is_the_simple_recurrent_network(cell):
    core, simple = cell(X, hidden_size=H), RNN(X, hidden_size=H)
    with torch.no_grad():
        for weight in core.term.map.parameters():
            weight.zero_()
        core.term.state.weight.copy_(simple.recurrent.weight)
        core.term.input.weight.copy_(simple.input.weight)
        core.term.input.bias.copy_(simple.input.bias)
    x_BTX = torch.randn(3, T, X)
    assert_close(core(core.project(x_BTX))[0], simple(simple.project(x_BTX))[0], rtol=1e-12, atol=1e-12)


def test_without_the_state_the_cp_gate_is_the_strongly_typed_network():
    core, typed_rnn = CPGate(X, hidden_size=H, nonlinearity="linear"), TypedRNN(X, hidden_size=H)
    with torch.no_grad():
        for weight in (*core.gate.map.parameters(), core.gate.state.weight):
            weight.zero_()
        core.gate.input.weight.copy_(typed_rnn.gate.weight)
        core.candidate.weight.copy_(typed_rnn.candidate.weight)
    x_BTX = torch.randn(3, T, X)
    assert_close(core(core.project(x_BTX))[0], typed_rnn(typed_rnn.project(x_BTX))[0], rtol=1e-12, atol=1e-12)


def test_multiplicative_integration_without_the_product_adds():
    core, simple = MIRNN(X, hidden_size=H, alpha=0.0, beta=1.0), RNN(X, hidden_size=H)
    with torch.no_grad():
        core.recurrent.weight.copy_(simple.recurrent.weight)
        core.input.weight.copy_(simple.input.weight)
    x_BTX = torch.randn(3, T, X)
    assert_close(core(core.project(x_BTX))[0], simple(simple.project(x_BTX))[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("cell", "norm"), [(CPDelta, 1 / 1.1), (CPLossyIntegrator, 1 / 1.5)])
def test_networks_that_add_to_the_state_start_with_factors_of_a_bounded_norm(cell, norm):
    maps = [module for module in cell(X, hidden_size=H).modules() if isinstance(module, CP)]
    for factor in (factor for cp in maps for factor in cp.parameters()):
        assert float(torch.linalg.svdvals(factor.detach())[0]) == pytest.approx(norm)


@pytest.mark.parametrize(
    ("cell", "layer", "start"),
    [
        (TensorRNN, "term.state", "identity"),
        (CPRNN, "term.state", "identity"),
        (CPRNN, "term.input", 1.0),
        (TTRNN, "term.state", 1.2),
        (TTRNN, "term.input", 1.2),
        (MIRNN, "recurrent", "orthogonal"),
        (MIRNN, "input", 1.0),
        (TypedRNN, "gate", 1.0),
        (TypedRNN, "candidate", 1.0),
        (CPGate, "gate.state", "orthogonal"),
        (CPGate, "gate.input", 1.0),
        (CPGate, "candidate", 1.0),
        (CPIntegrator, "input", 1.0),
        (CPLossyIntegrator, "input", 1.0),
        (CPLossyIntegrator, "write", "orthogonal"),
        (CPLossyIntegrator, "recurrent_erase", "orthogonal"),
        (CPResidual, "recurrent", "orthogonal"),
    ],
)
def test_a_matrix_starts_as_the_identity_orthogonal_or_uniform_by_its_number_of_inputs(cell, layer, start):
    """A start given as a number c is uniform up to c √(3/n), where n is the number of inputs."""
    weight = cell(30, hidden_size=20).get_submodule(layer).weight.detach()
    if start == "identity":
        assert torch.equal(weight, torch.eye(20))
    elif start == "orthogonal":
        assert_close(weight @ weight.t(), torch.eye(20), rtol=0, atol=1e-12)
        assert (weight.abs() < 0.99).all()
    else:
        assert 0.95 < weight.abs().max() / (start * (3 / weight.shape[1]) ** 0.5) <= 1


def test_a_gate_bias_is_what_a_gate_without_inputs_and_states_is_made_of():
    x_BX, kept = torch.zeros(1, X), sigmoid(1.5)
    typed_rnn, gate = TypedRNN(X, hidden_size=H, gate_bias=1.5), CPGate(X, hidden_size=H, gate_bias=1.5)
    assert_close(typed_rnn.step(typed_rnn.project(x_BX), torch.ones(1, H))[0], torch.full((1, H), kept))
    nn.init.ones_(gate.candidate.bias)
    assert_close(gate.step(gate.project(x_BX), torch.zeros(1, H))[0], torch.full((1, H), 1 - kept))


@pytest.mark.parametrize("cell", [CPRNN, CPGate, TGU])
def test_factors_start_as_in_the_authors_program_if_asked_for(cell):
    """Uniform up to √(3/R), which is 0.5 for R = 12."""
    maps = [module for module in cell(30, hidden_size=20, rank=12, init="mathews2016").modules() if type(module) is CP]
    assert len(maps) == (2 if cell is TGU else 1)
    for factor in (factor for cp in maps for factor in cp.parameters()):
        assert 0.45 < factor.abs().max() <= 0.5


def test_factors_of_the_add_subtract_network_have_a_norm_of_one():
    core, h_BH, x_BX = CPAddSubtract(X, hidden_size=H, rank=R), torch.randn(50, H), torch.randn(50, X)
    for term in (core.added, core.subtracted):
        before_BH = term.map(h_BH, x_BX)
        assert (before_BH.norm(dim=1) <= h_BH.norm(dim=1) * x_BX.norm(dim=1)).all()
        factors = [factor.detach() / factor.detach().norm() for factor in term.map.parameters()]
        assert_close(term.map.full(), torch.einsum("ri,rj,rk->ijk", *factors), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", ["separate", "combined"])
def test_a_gate_keeps_the_state_between_itself_and_the_candidates(form):
    core, x_BTX = CPGate(X, hidden_size=H, linear=form), 5 * torch.randn(20, 30, X)
    h_BTH, _ = core(core.project(x_BTX))
    assert (h_BTH.abs().amax(1) <= core.project(x_BTX).u_BH.abs().amax(1) + 1e-12).all()


def test_the_matrix_of_an_input_has_the_rank_of_the_decomposition_at_most():
    core = CPRNN(X, hidden_size=H, rank=R)
    M_BHH = torch.einsum("ijk,bk->bji", core.term.map.full(), torch.randn(5, X))
    assert (torch.linalg.matrix_rank(M_BHH) == R).all()


@pytest.mark.parametrize("form", ["cp", "tensor_train", "tucker", "full"])
def test_on_two_vectors_the_bilinear_recurrence_is_the_bilinear_map(form):
    core, a_BH, b_BH = Bilinear(H, hidden_size=H, form=form), torch.randn(5, H), torch.randn(5, H)
    y_BH, _ = core(core.project(torch.stack([a_BH, b_BH], dim=1)), return_sequence=False)
    expected_BH = torch.einsum("bi,ijk,bk->bj", a_BH, core.term.map.full(), b_BH)
    assert_close(y_BH, expected_BH, rtol=1e-12, atol=1e-12)


def test_a_product_of_many_small_factors_is_exact():
    core, x_BTX = Bilinear(H, hidden_size=H, scale=1e-3), torch.randn(3, 30, H)
    unscaled = Bilinear(H, hidden_size=H)
    unscaled.load_state_dict(core.state_dict())
    small_BH, large_BH = (one(one.project(x_BTX), return_sequence=False)[0] for one in (core, unscaled))
    assert_close(small_BH * 1e87, large_BH, rtol=1e-10, atol=0)


def test_the_bilinear_recurrence_cuts_its_first_input_to_its_size():
    core, x_BTX = Bilinear(H, hidden_size=2), torch.randn(5, 1, H)
    assert torch.equal(core(core.project(x_BTX))[0], x_BTX[..., :2])


@pytest.mark.parametrize("cell", [CPGate, TGU])
def test_dropout_drops_the_candidates_of_a_unit_for_a_whole_sequence(cell):
    core, x_BTX = cell(X, hidden_size=H, dropout=0.4), torch.randn(500, T, X)
    p = core.project(x_BTX)
    y_BTH, (h_BH, mask_BH) = core(p)
    assert set(mask_BH.unique().tolist()) == {0.0, 1 / 0.6}
    assert mask_BH.mean().item() == pytest.approx(1, abs=0.1)
    assert (h_BH[mask_BH == 0] == 0).all()
    assert h_BH[mask_BH > 0].any()
    assert not torch.equal(core(p)[0], y_BTH)
    whole = cell(X, hidden_size=H)
    whole.load_state_dict(core.state_dict())
    rng = torch.get_rng_state()
    assert core.state_size == whole.state_size + H
    assert_close(core.eval()(p)[0], whole(p)[0], rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), rng), "neither a size nor an evaluation may change what is drawn after it"


@pytest.mark.parametrize(
    ("cell", "settings"),
    [
        (CPRNN, {}),
        (CPRNN, {"linear": "combined"}),
        (TTRNN, {}),
        (TuckerRNN, {"linear": "combined"}),
        (TensorRNN, {}),
        (CPGate, {}),
        (CPDelta, {}),
        (CPLossyIntegrator, {}),
        (CPResidual, {}),
        (MIRNN, {}),
        (MIRNN, {"plain": True}),
    ],
)
def test_operations_of_recurrent_products(cell, settings):
    """T steps from a nonzero state take the operations counted for T + 1 steps, the first of which starts from 0.

    For networks that start from 1, they are those counted for T steps.
    """
    core = cell(2, hidden_size=4, **settings)
    for length in (1, 2, 5):
        p = core.project(torch.randn(1, length, 2))
        p = type(p)(*(part.detach().requires_grad_() for part in p)) if isinstance(p, tuple) else p.detach()
        p = p if isinstance(p, tuple) else p.requires_grad_()
        with FlopCounterMode(display=False) as counter:
            core.scan(p, torch.randn(1, 4, requires_grad=True))[0].sum().backward()
        starts_from_0 = not core.initial_state(1).any()
        assert core.flops(length + starts_from_0) == counter.get_total_flops()


@pytest.mark.parametrize(
    "make",
    [
        CPResidual,
        *(partial(cell, layer_norm=where) for cell in (CPAdditive, CPIntegrator) for where in ("before", "after")),
    ],
)
def test_a_layer_norm_of_one_unit_is_an_error(make):
    with pytest.raises(ValueError, match=r"^hidden_size=1: must be 2 or more"):
        make(2, hidden_size=1)
    make(2, hidden_size=2)
