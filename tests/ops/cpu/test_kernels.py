"""The kernels, compared with the definition (the scan of `step`) and with finite differences.

Shapes: B sequences, T time steps, V symbols, P projected features, H hidden units.
"""

import itertools

import pytest
import torch
from torch import Tensor

from src.models.alstm import ALSTM
from src.models.fastweights import FastWeights
from src.ops.cpu import calls
from src.ops.inputs import Inputs
from src.specs import map_state, state_tensors
from tests.ops.cpu.cells import (
    CELLS,
    RIVALS,
    assert_equal,
    each_cell,
    in_a_batch,
    make,
    random_state,
    random_table,
    random_vectors,
    run,
)

LENGTHS = [1, 2, 11, 63, 200]
WIDTHS = [1, 7, 20, 50, 100, 129]
BATCHES = [1, 3, 128]


def assert_all_kernels_agree(core, length, batches):
    """Compare all forms with the definition, on vectors from a given state and on ids from the initial state.

    A large batch consists of copies of three sequences, so that the definition has to be scanned only for these.
    """
    vectors, (table, ids) = random_vectors(core, 3, length), random_table(core, 3, length)
    for inputs in [(vectors, None, random_state(core, 3)), (table, ids, None)]:
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
RIVALS_GRID = [RIVALS, LENGTHS, [1, 20, 129], BATCHES]
ALSTM_SETTINGS = list(itertools.product([1, 4], [1, 3], [False, True]))  # copies, heads, recurrent content
SOME_SETTINGS = [(1, 1, False), (1, 3, True), (4, 1, True), (4, 3, False)]  # the kernel of each takes seconds
ALSTM_GRID = [[1, 7, 25], SOME_SETTINGS, [3, 128], [1, 2, 11]]


def covering(first, second, *others):
    """A part of a grid with every pair of values of any two factors: the first two in full, the others in turn."""
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


@pytest.mark.parametrize(("cell", "length", "width", "batch"), list(covering(*RIVALS_GRID)))
def test_the_other_cells_are_their_definition(cell, length, width, batch):
    assert_all_kernels_agree(make(cell, width), length, [batch])


def make_alstm(width, settings):
    num_copies, num_heads, recurrent_content = settings
    return make(ALSTM, width, num_copies=num_copies, num_heads=num_heads, recurrent_content=recurrent_content)


ALONE = (7, SOME_SETTINGS[3], 1, 11)  # a single sequence is computed by another kernel


@pytest.mark.parametrize(("width", "settings", "batch", "length"), [*covering(*ALSTM_GRID), ALONE])
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


@pytest.mark.parametrize("length", [9, 66])
@pytest.mark.parametrize("boundary", ["sustained", "identity"])
@pytest.mark.parametrize("preliminary", [False, True])
@pytest.mark.parametrize(("normalized", "read_weights"), [("last", "one"), ("all", "learned"), ("last", "learned")])
def test_fast_weights_with_learned_reads(normalized, read_weights, preliminary, boundary, length):
    settings = {"normalized": normalized, "read_weights": read_weights, "boundary": boundary, "nonlinearity": "tanh"}
    core = make(FastWeights, 5, num_inner_steps=3, layer_norm_preliminary=preliminary, **settings)
    vectors, (table, ids) = random_vectors(core, 2, length), random_table(core, 2, length)
    for inputs in [(vectors, None, None), (table, ids, random_state(core, 2))]:
        assert_equal(run(core, "fused", *inputs), run(core, "reference", *inputs))


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
    vectors, (table, ids) = random_vectors(core, 2, length), random_table(core, 2, length)
    state = random_state(core, 2)
    for inputs in [(vectors, None, None), (table, ids, state)]:
        assert_equal(run(core, "fused", *inputs), run(core, "reference", *inputs))


@pytest.mark.parametrize("cell", ["rnn-tanh", "fastweights-no-norm"])
def test_without_a_nonlinearity(cell):
    core = make(cell, 9, nonlinearity="linear")
    inputs = random_vectors(core, 11, 12), None, random_state(core, 11)
    order = torch.arange(11) % 4
    assert_equal(run(core, "fused", *inputs, order), run(core, "reference", *inputs, order))


@each_cell
def test_single_precision_is_near_double_precision(cell):
    length, width = 63, 20 if cell.startswith("alstm") else 50
    core = make(cell, width)
    for inputs in [(random_vectors(core, 3, length), None, random_state(core, 3)), random_table(core, 3, length)]:
        order = torch.arange(20) % 3
        exact = run(core, "fused", *inputs, order=order)
        halved = [None if t is None else t if t.dtype == torch.int64 else t.float() for t in inputs[:2]]
        state = None if len(inputs) == 2 else map_state(Tensor.float, inputs[2])
        core.float()
        assert calls.available(halved[0])
        single = run(core, "fused", *halved, state, order)
        core.double()
        assert single.keys() == exact.keys()
        for name, value in exact.items():
            assert single[name].dtype == torch.float32, name
            assert (single[name] - value).abs().max() <= 1e-4 * value.abs().max(), name


def finite_differences():
    """By default only hand-written cells and two others, since all are also compared with autograd of the reference."""
    for cell, by_ids in itertools.product(CELLS, [False, True]):
        by_default = not by_ids and cell.startswith(("fastweights", "lstm", "rnn-tanh-norm"))
        yield pytest.param(cell, by_ids, marks=[] if by_default else pytest.mark.slow)


@pytest.mark.parametrize(("cell", "by_ids"), list(finite_differences()))
def test_gradients_are_those_of_finite_differences(cell, by_ids):
    core = make(cell, 3, **({"nonlinearity": "tanh"} if cell.startswith("fastweights") else {}))
    vectors, (table, ids) = random_vectors(core, 2, 4), random_table(core, 2, 4)
    state = random_state(core, 2)
    parameters = {name: p.detach() for name, p in core.named_parameters() if not name.startswith("input")}
    num_states = len(state_tensors(state))

    def function(rows, *rest):
        start = rest[0] if num_states == 1 else type(state)(*rest[:num_states])
        values = dict(zip(parameters, rest[num_states:], strict=True))
        inputs = Inputs(rows, ids if by_ids else None)
        y_BTH, end = torch.func.functional_call(core, values, (inputs, start))
        return y_BTH, *state_tensors(end)

    core.kernel = "fused"
    sources = [table if by_ids else vectors, *state_tensors(state), *parameters.values()]
    assert torch.autograd.gradcheck(function, [source.requires_grad_() for source in sources])
