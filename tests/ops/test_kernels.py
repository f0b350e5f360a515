"""The kernels against the definition (the scan of `step`), the papers' equations and finite differences.

Shapes: B sequences, T time steps, V symbols, P projected features, H hidden units.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from src.models.alstm import ALSTM
from src.models.base import map_state, state_tensors
from src.models.fastweights import FastWeights
from src.models.gru import GRU
from src.models.lstm import LSTM
from src.models.rnn import RNN
from src.models.sequence import SequenceModel
from src.ops import kernels
from src.ops.inputs import Inputs
from src.tasks.base import InputSpec, OutputSpec

LENGTHS = [1, 2, 11, 63, 200]
WIDTHS = [1, 7, 20, 50, 100, 129]
BATCHES = [1, 3, 128]
V = 7

CELLS = {
    "rnn-tanh": (RNN, {"nonlinearity": "tanh"}),
    "rnn-relu": (RNN, {"nonlinearity": "relu"}),
    "rnn-tanh-norm": (RNN, {"nonlinearity": "tanh", "layer_norm": True}),
    "rnn-relu-norm": (RNN, {"nonlinearity": "relu", "layer_norm": True}),
    "lstm": (LSTM, {}),
    "gru-before": (GRU, {"reset": "before"}),
    "gru-after": (GRU, {"reset": "after"}),
    "fastweights": (FastWeights, {"num_inner_steps": 2}),
    "fastweights-no-norm": (FastWeights, {"num_inner_steps": 2, "layer_norm": False}),
    "fastweights-preliminary": (FastWeights, {"layer_norm_preliminary": True, "boundary": "identity"}),
    "alstm": (ALSTM, {}),
    "alstm-content": (ALSTM, {"num_copies": 1, "num_heads": 2, "recurrent_content": True}),
}
RIVALS = list(CELLS)[:7]
each_cell = pytest.mark.parametrize("cell", CELLS)


def make(cell, units, **settings):
    """A core with weights far from where they start, so that no term is small, that neither grows nor forgets."""
    kind, fixed = CELLS[cell] if isinstance(cell, str) else (cell, {})
    core = kind(3, hidden_size=2 * units if kind is ALSTM else units, **{**fixed, **settings})  # complex ones are two
    for name, parameter in core.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.2)
        else:
            nn.init.normal_(parameter, std=0.5 / math.sqrt(units))
    return core


def scale_of(core):
    """Without layer norm the memory feeds on itself: large states would overflow."""
    small = isinstance(core, FastWeights) and isinstance(core.norm, nn.Identity)
    return 0.2 / math.sqrt(core.hidden_size) if small else 1.0


def features(core):
    """P."""
    return core.input.out_features


def random_vectors(core, batch, length):
    return scale_of(core) * torch.randn(batch, length, features(core))


def random_table(core, batch, length):
    return scale_of(core) * torch.randn(V, features(core)), torch.randint(V, (batch, length))


def random_state(core, batch):
    scale = 0.3 * scale_of(core) if isinstance(core, FastWeights) else 0.5
    return map_state(lambda zeros: scale * torch.randn_like(zeros), core.initial_state(batch))


def run(core, kernel, rows, tokens=None, state=None, order=None, share_B=None):
    """Outputs, final state and every gradient of a random functional of both, by name.

    `order` builds the batch from the given sequences, and the share of each place in the functional is `share_B`.
    """
    core.kernel = kernel
    rows = rows.detach().clone().requires_grad_()
    order = torch.arange(len(rows if tokens is None else tokens)) if order is None else order
    batch_rows = rows[order].detach().requires_grad_() if tokens is None else rows
    state = None if state is None else map_state(lambda t: t[order].detach().clone().requires_grad_(), state)
    y_BTH, end = core(Inputs(batch_rows, None if tokens is None else tokens[order]), state)
    results = {"value: outputs": y_BTH} | {f"value: end {n}": t for n, t in enumerate(state_tensors(end))}
    generator = torch.Generator().manual_seed(1)
    loss = 0
    for value in results.values():
        weights = torch.randn(4, *value.shape[1:], generator=generator).to(value)[order % 4]
        shares = 1 if share_B is None else share_B.view(-1, *[1] * (value.ndim - 1)).to(value)
        loss = loss + (value * weights * shares).sum()
    sources = {"gradient of each: inputs" if tokens is None else "gradient: table": batch_rows}
    sources |= {f"gradient of each: start {n}": t for n, t in enumerate([] if state is None else state_tensors(state))}
    sources |= {f"gradient: {name}": p for name, p in core.named_parameters() if not name.startswith("input")}
    gradients = torch.autograd.grad(loss, list(sources.values()), allow_unused=True, materialize_grads=True)
    return {name: tensor.detach() for name, tensor in (results | dict(zip(sources, gradients, strict=True))).items()}


def in_a_batch(results, order, share_B):
    """What `run` gives for a batch of copies, from what it gives for every sequence once: all of it is linear."""
    expected = {}
    for name, tensor in results.items():
        if name.startswith("gradient: "):
            expected[name] = tensor
        elif name.startswith("value: "):
            expected[name] = tensor[order]
        else:
            expected[name] = tensor[order] * share_B.view(-1, *[1] * (tensor.ndim - 1))
    return expected


def assert_equal(actual, expected, tolerance=1e-10):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].shape == value.shape, name
        assert value.isfinite().all(), name
        error = ((actual[name] - value).abs() / value.abs().clamp(min=1)).max().item()
        assert error <= tolerance, f"{name}: {error:.1e}"


def assert_all_kernels_agree(core, length, batches):
    """As vectors from a given state and as tokens from the start, against the definition.

    A large batch holds copies of three sequences, so that the definition has to be scanned for no more than those.
    """
    vectors, (table, tokens) = random_vectors(core, 3, length), random_table(core, 3, length)
    for inputs in [(vectors, None, random_state(core, 3)), (table, tokens, None)]:
        expected = {}
        for batch in batches:
            order = torch.arange(min(batch, 3))
            if len(order) not in expected:
                expected[len(order)] = run(core, "reference", *inputs, order)
                assert_equal(run(core, "vectorized", *inputs, order), expected[len(order)])
            wanted, share_B = expected[len(order)], None
            if batch > 3:
                order, share_B = torch.randint(3, (batch,)), torch.rand(batch) + 0.5
                share_B = share_B / torch.zeros(3).index_add(0, order, share_B)[order]
                wanted = in_a_batch(wanted, order, share_B)
            assert_equal(run(core, "fused", *inputs, order, share_B), wanted)


FASTWEIGHTS_GRID = [LENGTHS, WIDTHS, BATCHES, [1, 2, 3], [False, True]]
RIVALS_GRID = [RIVALS, WIDTHS, LENGTHS, BATCHES]
ALSTM_SETTINGS = list(itertools.product([1, 4], [1, 3], [False, True]))  # copies, heads, recurrent content
ALSTM_GRID = [[1, 7, 10, 25, 50], ALSTM_SETTINGS, BATCHES, [1, 2, 11]]


def covering(first, second, *others):
    """A part of a grid that holds every pair of values of two factors: the first two in full, the others in turn."""
    for (i, a), (j, b) in itertools.product(enumerate(first), enumerate(second)):
        chosen = [values[(i + (n + 1) * j + (j // 3 if n > 1 else 0)) % len(values)] for n, values in enumerate(others)]
        yield (a, b, *chosen)


@pytest.mark.parametrize("grid", [FASTWEIGHTS_GRID, RIVALS_GRID, ALSTM_GRID], ids=["fastweights", "rivals", "alstm"])
def test_the_covering_choices_hold_every_pair_of_values(grid):
    rows = list(covering(*grid))
    for a, b in itertools.combinations(range(len(grid)), 2):
        assert {(row[a], row[b]) for row in rows} == set(itertools.product(grid[a], grid[b])), (a, b)


@pytest.mark.parametrize(("length", "width", "batch", "steps", "normalize"), list(covering(*FASTWEIGHTS_GRID)))
def test_fast_weights_are_their_definition(length, width, batch, steps, normalize):
    core = make(FastWeights, width, num_inner_steps=steps, layer_norm=normalize)
    assert_all_kernels_agree(core, length, [batch])


@pytest.mark.parametrize(("cell", "width", "length", "batch"), list(covering(*RIVALS_GRID)))
def test_the_other_cells_are_their_definition(cell, width, length, batch):
    assert_all_kernels_agree(make(cell, width), length, [batch])


def make_alstm(width, settings):
    num_copies, num_heads, recurrent_content = settings
    return make(ALSTM, width, num_copies=num_copies, num_heads=num_heads, recurrent_content=recurrent_content)


@pytest.mark.parametrize(("width", "settings", "batch", "length"), list(covering(*ALSTM_GRID)))
def test_the_associative_lstm_is_its_definition(width, settings, batch, length):
    assert_all_kernels_agree(make_alstm(width, settings), length, [batch])


@pytest.mark.slow
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("num_inner_steps", [1, 2, 3])
@pytest.mark.parametrize("normalize", [False, True])
def test_fast_weights_are_their_definition_on_the_whole_grid(length, width, num_inner_steps, normalize):
    core = make(FastWeights, width, num_inner_steps=num_inner_steps, layer_norm=normalize)
    assert_all_kernels_agree(core, length, BATCHES)


@pytest.mark.slow
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("cell", RIVALS)
def test_the_other_cells_are_their_definition_on_the_whole_grid(length, width, cell):
    assert_all_kernels_agree(make(cell, width), length, BATCHES)


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 2, 11, 63])
@pytest.mark.parametrize("width", [1, 7, 10, 25, 50, 65])
@pytest.mark.parametrize("settings", ALSTM_SETTINGS)
def test_the_associative_lstm_is_its_definition_on_the_whole_grid(length, width, settings):
    assert_all_kernels_agree(make_alstm(width, settings), length, BATCHES)


@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("boundary", ["sustained", "identity"])
def test_fast_weights_over_more_than_one_chunk(boundary, normalize, carried):
    core = make(FastWeights, 7, num_inner_steps=2, layer_norm=normalize, boundary=boundary)
    vectors = random_vectors(core, 3, 130)
    state = random_state(core, 3) if carried else None
    expected = run(core, "reference", vectors, None, state)
    if carried:
        assert expected["gradient of each: start 0"].any()
        assert expected["gradient of each: start 1"].any()
    assert_equal(run(core, "fused", vectors, None, state), expected)


@pytest.mark.parametrize("settings", [{"fast_lr": 0.0}, {"decay": 0.0}, {"decay": 1.0, "fast_lr": 0.05}, {}])
@pytest.mark.parametrize("num_inner_steps", [0, 2])
@pytest.mark.parametrize("preliminary", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("boundary", ["sustained", "identity"])
@pytest.mark.parametrize("length", [9, 66])
def test_every_setting_of_fast_weights(length, boundary, normalize, preliminary, num_inner_steps, settings):
    settings = {"layer_norm": normalize, "layer_norm_preliminary": preliminary, "boundary": boundary, **settings}
    core = make(FastWeights, 5, num_inner_steps=num_inner_steps, nonlinearity="tanh", **settings)
    vectors, (table, tokens) = random_vectors(core, 2, length), random_table(core, 2, length)
    state = random_state(core, 2)
    for inputs in [(vectors, None, None), (table, tokens, state)]:
        assert_equal(run(core, "fused", *inputs), run(core, "reference", *inputs))


@pytest.mark.parametrize("cell", ["rnn-tanh", "fastweights-no-norm"])
def test_without_a_nonlinearity(cell):
    core = make(cell, 9, nonlinearity="linear")
    inputs = random_vectors(core, 11, 12), None, random_state(core, 11)
    order = torch.arange(11) % 4
    assert_equal(run(core, "fused", *inputs, order), run(core, "reference", *inputs, order))


@each_cell
@pytest.mark.parametrize("length", [11, 63])
@pytest.mark.parametrize("width", [50, 100])
def test_single_precision_is_near_double_precision(cell, length, width):
    core = make(cell, width)
    for inputs in [(random_vectors(core, 3, length), None, random_state(core, 3)), random_table(core, 3, length)]:
        order = torch.arange(20) % 3
        exact = run(core, "fused", *inputs, order=order)
        halved = [None if t is None else t if t.dtype == torch.int64 else t.float() for t in inputs[:2]]
        state = None if len(inputs) == 2 else map_state(Tensor.float, inputs[2])
        core.float()
        assert kernels.available(halved[0])
        single = run(core, "fused", *halved, state, order)
        core.double()
        assert single.keys() == exact.keys()
        for name, value in exact.items():
            assert single[name].dtype == torch.float32, name
            assert (single[name] - value).abs().max() <= 1e-4 * value.abs().max(), name


@pytest.mark.parametrize("by_tokens", [False, True])
@each_cell
def test_gradients_are_those_of_finite_differences(cell, by_tokens):
    core = make(cell, 3, **({"nonlinearity": "tanh"} if cell.startswith("fastweights") else {}))
    vectors, (table, tokens) = random_vectors(core, 2, 4), random_table(core, 2, 4)
    state = random_state(core, 2)
    parameters = {name: p.detach() for name, p in core.named_parameters() if not name.startswith("input")}
    num_states = len(state_tensors(state))

    def function(rows, *rest):
        start = rest[0] if num_states == 1 else type(state)(*rest[:num_states])
        values = dict(zip(parameters, rest[num_states:], strict=True))
        inputs = Inputs(rows, tokens if by_tokens else None)
        y_BTH, end = torch.func.functional_call(core, values, (inputs, start))
        return y_BTH, *state_tensors(end)

    core.kernel = "fused"
    sources = [table if by_tokens else vectors, *state_tensors(state), *parameters.values()]
    assert torch.autograd.gradcheck(function, [source.requires_grad_() for source in sources])


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def layer_norm(a, norm):
    """Equation 4 of arXiv 1607.06450, with the epsilon of torch."""
    gain, bias = (parameter.detach().numpy() for parameter in (norm.weight, norm.bias))
    return gain * (a - a.mean()) / np.sqrt(a.var() + 1e-5) + bias


def rnn_by_hand(core, x, h, nonlinearity, norm):
    a = core.recurrent.weight.detach().numpy() @ h + x
    a = layer_norm(a, core.norm) if norm else a
    h = np.tanh(a) if nonlinearity == "tanh" else np.maximum(a, 0)
    return h, h


def lstm_by_hand(core, x, state):
    h, c = state
    W_i, W_f, W_o, W_g = np.split(core.recurrent.weight.detach().numpy(), 4)
    x_i, x_f, x_o, x_g = np.split(x, 4)
    i, f, o = sigmoid(W_i @ h + x_i), sigmoid(W_f @ h + x_f), sigmoid(W_o @ h + x_o)
    c = f * c + i * np.tanh(W_g @ h + x_g)
    h = o * np.tanh(c)
    return h, (h, c)


def gru_by_hand(core, x, h, reset):
    W_r, W_u = np.split(core.recurrent_gates.weight.detach().numpy(), 2)
    W_c = core.recurrent_candidate.weight.detach().numpy()
    x_r, x_u, x_c = np.split(x, 3)
    r, u = sigmoid(W_r @ h + x_r), sigmoid(W_u @ h + x_u)
    c = np.tanh((W_c @ (r * h) if reset == "before" else r * (W_c @ h)) + x_c)
    h = u * h + (1 - u) * c
    return h, h


def alstm_by_hand(core, x, state):
    """In complex numbers."""
    h, c = state
    N, W = core.num_entries, core.recurrent.weight.detach().numpy()
    sums = x + np.concatenate([W @ h, np.zeros(len(x) - len(W))])
    f, i, o = sigmoid(sums[: 3 * N]).reshape(3, N)
    re, im = np.moveaxis(sums[3 * N :].reshape(3, core.num_heads, 2, N), 2, 0)
    r, q, u = (v / np.maximum(1, np.abs(v)) for v in re + 1j * im)
    orders = core.permutations_SN.numpy()
    c = f * (c[:, :N] + 1j * c[:, N:]) + sum(r_k[orders] * i * u_k for r_k, u_k in zip(r, u, strict=True))
    v = np.stack([(q_k[orders] * c).mean(0) for q_k in q])
    h = o * v / np.maximum(1, np.abs(v))
    h = np.stack([h.real, h.imag], axis=1).ravel()
    return h, (h, np.concatenate([c.real, c.imag], axis=1))


def fast_weights_by_hand(core, x, state, norm, preliminary, sustained):
    h, A = state
    A = 0.95 * A + 0.5 * np.outer(h, h)
    z = core.recurrent.weight.detach().numpy() @ h + x
    h_s = np.maximum(layer_norm(z, core.preliminary_norm) if preliminary else z, 0)
    for _ in range(core.num_inner_steps):
        a = (z if sustained else h_s) + A @ h_s
        h_s = np.maximum(layer_norm(a, core.norm) if norm else a, 0)
    return h_s, (h_s, A)


BY_HAND = {
    "rnn-tanh": lambda *step: rnn_by_hand(*step, "tanh", False),
    "rnn-relu": lambda *step: rnn_by_hand(*step, "relu", False),
    "rnn-tanh-norm": lambda *step: rnn_by_hand(*step, "tanh", True),
    "rnn-relu-norm": lambda *step: rnn_by_hand(*step, "relu", True),
    "lstm": lstm_by_hand,
    "gru-before": lambda *step: gru_by_hand(*step, "before"),
    "gru-after": lambda *step: gru_by_hand(*step, "after"),
    "fastweights": lambda *step: fast_weights_by_hand(*step, norm=True, preliminary=False, sustained=True),
    "fastweights-no-norm": lambda *step: fast_weights_by_hand(*step, norm=False, preliminary=False, sustained=True),
    "fastweights-preliminary": lambda *step: fast_weights_by_hand(*step, norm=True, preliminary=True, sustained=False),
    "alstm": alstm_by_hand,
    "alstm-content": alstm_by_hand,
}


@each_cell
def test_two_steps_are_the_equations(cell):
    core = make(cell, 5, kernel="fused")
    p_BTP, start = random_vectors(core, 2, 2), random_state(core, 2)
    y_BTH, end = core(p_BTP, start)
    for sequence in range(2):
        state = [tensor[sequence].numpy() for tensor in state_tensors(start)]
        state = state[0] if len(state) == 1 else state
        for t in range(2):
            y, state = BY_HAND[cell](core, p_BTP[sequence, t].numpy(), state)
            np.testing.assert_allclose(y_BTH[sequence, t].detach().numpy(), y, rtol=0, atol=1e-14)
        state = [state] if isinstance(state, np.ndarray) else state
        for actual, expected in zip(state_tensors(end), state, strict=True):
            np.testing.assert_allclose(actual[sequence].detach().numpy(), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [100, 128])
@each_cell
def test_no_bit_depends_on_the_number_of_threads(cell, batch, dtype):
    core = make(cell, 20).to(dtype)
    vectors, state = random_vectors(core, batch, 9).to(dtype), random_state(core, batch)
    table, tokens = random_table(core, batch, 9)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results += [run(core, "fused", vectors, None, state), run(core, "fused", table.to(dtype), tokens)]
    for one, two in zip(results[:2], results[2:], strict=True):
        assert all(one[name].dtype == dtype and torch.equal(one[name], two[name]) for name in one)


def outputs_and_gradient(core, kernel, p_BTP):
    """With a loss that feels what is not finite; no parameter's gradient is part of this."""
    core.kernel = kernel
    p_BTP = p_BTP.clone().requires_grad_()
    y_BTH, _ = core(p_BTP, carry=False)
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

    h_BTH = kernels.rnn(Inputs(x[None, None]), None, x.new_zeros(len(x), len(x)), None, None, "tanh")
    assert relative_error(h_BTH[0, 0], torch.tanh(x.double())) <= tolerance

    # with g = 0 and c_0 = 1 the cell is the forget gate
    p_B4 = torch.stack([torch.zeros_like(x), x, torch.zeros_like(x), torch.zeros_like(x)], dim=1)
    ones = x.new_ones(len(x), 1)
    _, c_B1 = kernels.lstm(Inputs(p_B4[:, None]), x.new_zeros(len(x), 1), ones, x.new_zeros(4, 1))
    assert relative_error(c_B1[:, 0], torch.sigmoid(x.double())) <= tolerance


@each_cell
def test_the_last_state_is_left_out_on_request(cell):
    core = make(cell, 6, kernel="fused")
    p_BTP = random_vectors(core, 3, 70)
    assert torch.equal(core(p_BTP, carry=False)[0], core(p_BTP)[0])
    if isinstance(core, FastWeights):
        assert core(p_BTP, carry=False)[1] is None


@each_cell
def test_nothing_is_kept_without_a_backward_pass(cell, monkeypatch):
    core = make(cell, 6, kernel="fused")
    asked = []
    size = kernels._size
    monkeypatch.setattr(kernels, "_size", lambda *sizes: asked.append(size(*sizes)) or asked[-1])
    p_BTP = random_vectors(core, 3, 4)
    expected = core(p_BTP)[0]
    assert len(asked) == 1
    assert asked[0] > 0
    with torch.no_grad():
        assert torch.equal(core(p_BTP)[0], expected)
    core.requires_grad_(False)
    assert torch.equal(core(p_BTP)[0], expected)
    assert len(asked) == 1


@each_cell
def test_tensors_may_lie_in_any_order_in_memory(cell):
    core = make(cell, 6)
    vectors, (table, tokens) = random_vectors(core, 9, 12), random_table(core, 9, 12)
    state = random_state(core, 9)
    expected = run(core, "fused", vectors[:, 3:8], None, state), run(core, "fused", table, tokens[:, 3:8].contiguous())

    def scattered(tensor):
        return tensor.movedim(0, -1).contiguous().movedim(-1, 0)

    for name, parameter in core.named_parameters():
        if parameter.ndim == 2 and name.startswith("recurrent"):
            parameter.data = scattered(parameter.data)
            assert not parameter.is_contiguous()
    core.kernel = "fused"
    for dtype in (torch.int64, torch.int32):
        tokens_BT = scattered(tokens.to(dtype))[:, 3:8]
        assert not tokens_BT.is_contiguous()
        y_BTH, _ = core(Inputs(scattered(table), tokens_BT))
        assert torch.equal(y_BTH, expected[1]["value: outputs"])
    y_BTH, end = core(scattered(vectors)[:, 3:8], map_state(scattered, state))
    assert torch.equal(y_BTH, expected[0]["value: outputs"])
    assert torch.equal(state_tensors(end)[-1], list(expected[0].values())[len(state_tensors(end))])

    parameters = [parameter for name, parameter in core.named_parameters() if not name.startswith("input")]
    d_outputs = torch.randn(9, 5, 2 * core.hidden_size)[..., ::2]
    dense, sparse = (
        torch.autograd.grad(core(vectors[:, 3:8])[0], parameters, gradient)
        for gradient in (d_outputs.contiguous(), d_outputs)
    )
    assert all(torch.equal(a, b) for a, b in zip(sparse, dense, strict=True))


@each_cell
def test_gradients_of_some_are_those_of_all(cell):
    core = make(cell, 6, kernel="fused")
    p_BTP = random_vectors(core, 3, 5).requires_grad_()
    weights_BTH = torch.randn(3, 5, core.hidden_size)
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


@each_cell
def test_what_does_not_fit_is_an_error(cell):
    core = make(cell, 6, kernel="fused")
    table, tokens = random_table(core, 3, 4)
    for wrong in (-1, V):
        spoilt = tokens.clone()
        spoilt[1, 2] = wrong
        with pytest.raises(IndexError, match=f"table of {V}"):
            core(Inputs(table, spoilt))
    with pytest.raises(ValueError, match="inputs of shape"):
        core(Inputs(table[:, 1:].contiguous(), tokens))
    with pytest.raises(ValueError, match="state of shape"):
        core(Inputs(table, tokens), random_state(core, 2))
    with pytest.raises(ValueError, match="float32"):
        core(Inputs(table, tokens), map_state(Tensor.float, random_state(core, 3)))


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
    call = kernels._call
    monkeypatch.setattr(kernels, "_call", lambda name, *rest: called.append(name) or call(name, *rest))
    tokens_BT = torch.randint(V, (8, 9))
    results = []
    for run_model in (model, torch.compile(model)):
        called.clear()
        prediction = run_model(tokens_BT).prediction
        results.append([prediction, *torch.autograd.grad(prediction.pow(2).sum(), list(model.parameters()))])
        assert {name.rsplit("_", 1)[1] for name in called} >= {"forward", "backward"}
    assert all(result.isfinite().all() for result in results[0])
    assert_close(results[1], results[0], rtol=1e-10, atol=1e-10)
