"""Stacks of cores: `network.num_layers`.

Shapes: B sequences, T time steps, X input features, H hidden units.
"""

from functools import partial

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.nn import functional
from torch.testing import assert_close

from src.config.compose import compose
from src.config.fingerprint import fingerprint
from src.models.alstm import ALSTM
from src.models.fastweights import FastWeights
from src.models.gru import GRU
from src.models.lstm import LSTM
from src.models.sequence import SequenceModel
from src.models.stack import Stack
from src.ops.inputs import Inputs
from src.specs import InputSpec, OutputSpec, map_state, state_tensors
from tests.models.cores import FILES, B, H, T, X

STACKS = {"alike": [FastWeights] * 3, "mixed": [LSTM, FastWeights, GRU]}
each_stack = pytest.mark.parametrize("cells", STACKS.values(), ids=STACKS)


def make(cells, size=X):
    """A stack in float64 whose norms have random gains and biases."""
    first, *others = cells
    core = Stack([first(size, hidden_size=H), *(cell(H, hidden_size=H) for cell in others)]).double()
    with torch.no_grad():
        for parameter in core.norms.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return core


def layer_by_layer(core, x_BTX, resets_BT=None):
    """The equations by hand: each layer over the whole sequence, by its scan."""
    y_BTH, state = core.layers[0].scan(core.layers[0].project(x_BTX), None, resets_BT)
    states = [state]
    for norm, layer in zip(core.norms, list(core.layers)[1:], strict=True):
        read_BTH = functional.layer_norm(y_BTH, (H,), norm.weight, norm.bias)
        added_BTH, state = layer.scan(layer.project(read_BTH), None, resets_BT)
        y_BTH, states = y_BTH + added_BTH, [*states, state]
    return y_BTH, tuple(states)


def results(core, run, x_BTX):
    """Outputs, final states and all gradients."""
    x_BTX = x_BTX.clone().requires_grad_()
    y_BTH, state = run(x_BTX)
    found = [y_BTH, *state_tensors(state)]
    loss = sum((out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum() for out in found)
    return [*found, *torch.autograd.grad(loss, [x_BTX, *core.parameters()])]


@each_stack
@pytest.mark.parametrize("with_resets", [False, True])
def test_a_stack_is_a_loop_over_its_layers_with_all_gradients(cells, with_resets):
    core, x_BTX = make(cells), torch.randn(B, T, X, dtype=torch.float64)
    resets_BT = torch.rand(B, T) < 0.3 if with_resets else None
    by_hand = results(core, lambda x: layer_by_layer(core, x, resets_BT), x_BTX)
    forms = {
        "layers": lambda x: core(Inputs(core.project(x), resets=resets_BT)),
        "steps": lambda x: core.scan(core.project(x), None, resets_BT),
    }
    for run in forms.values():
        for a, b in zip(results(core, run, x_BTX), by_hand, strict=True):
            assert_close(a, b, rtol=1e-10, atol=1e-10)


@each_stack
def test_pieces_are_the_whole_and_the_state_is_that_of_all_layers(cells):
    core, x_BTX = make(cells), torch.randn(B, T, X, dtype=torch.float64)
    whole_BTH, end = core(core.project(x_BTX))
    state, pieces = None, []
    for piece in x_BTX.split(3, dim=1):
        y_BTH, state = core(core.project(piece), state)
        pieces.append(y_BTH)
    assert_close(torch.cat(pieces, dim=1), whole_BTH, rtol=1e-10, atol=1e-10)
    assert_close(state_tensors(state), state_tensors(end), rtol=1e-10, atol=1e-10)
    assert core.state_size == sum(layer.state_size for layer in core.layers)
    assert core.flops(9) == sum(layer.flops(9) for layer in core.layers) > 0
    assert len(state) == 3


def test_with_lengths_the_last_output_is_that_at_the_length():
    core, x_BTX = make(STACKS["mixed"]), torch.randn(B, T, X, dtype=torch.float64)
    lengths_B = torch.tensor([1, 4, T])
    y_BH, _ = core(core.project(x_BTX), lengths=lengths_B, return_state=False, return_sequence=False)
    for row, length in enumerate(lengths_B.tolist()):
        alone_BTH, _ = core(core.project(x_BTX[row : row + 1, :length]))
        assert_close(y_BH[row], alone_BTH[0, -1], rtol=1e-10, atol=1e-10)


def test_attention_and_memory_are_those_of_the_last_layer():
    core, x_BTX = make(STACKS["alike"]), torch.randn(B, T, X, dtype=torch.float64)
    p_BTP = core.project(x_BTX)
    below_BTH = core.layers[0](p_BTP)[0]
    below_BTH = below_BTH + core.layers[1](core.layers[1].project(core.norms[0](below_BTH)))[0]
    p_last = core.layers[2].project(core.norms[1](below_BTH))
    assert_close(core.attention(p_BTP), core.layers[2].attention(p_last), rtol=0, atol=1e-12)
    assert_close(core.memory(p_BTP), core.layers[2].memory(p_last), rtol=0, atol=1e-12)
    mixed = make(STACKS["mixed"])
    assert mixed.attention(mixed.project(x_BTX)) is None


def network(core, **settings):
    torch.manual_seed(3)
    return SequenceModel(InputSpec("tokens", 7), OutputSpec("class", 2, every_step=True), core, **settings)


def test_one_layer_is_the_core_alone_to_the_last_bit():
    make_core = partial(ALSTM, hidden_size=H, kernel="reference")
    alone, one = network(make_core), network(make_core, num_layers=1)
    assert type(one.core) is ALSTM
    assert alone.state_dict().keys() == one.state_dict().keys()
    tokens_BT = torch.randint(7, (B, T))
    assert torch.equal(alone(tokens_BT).prediction, one(tokens_BT).prediction)
    config = compose()
    one_layer = fingerprint(config)
    config.network.num_layers = 2
    assert fingerprint(config) != one_layer
    del config.network.num_layers
    assert fingerprint(config) == one_layer


def test_layers_of_one_unit_are_an_error():
    Stack([GRU(X, hidden_size=1)])
    with pytest.raises(ValueError, match=r"^hidden_size=1: must be 2 or more with several layers"):
        Stack([GRU(X, hidden_size=1), GRU(1, hidden_size=1)])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_core_can_be_stacked(file):
    """The state is passed on, and every weight gets a gradient."""

    def make_core(size):
        return instantiate(OmegaConf.load(file), size, hidden_size=H, kernel="reference")

    model = network(make_core, num_layers=2, embedding_size=5)
    tokens_BT = torch.randint(7, (B, 4))
    whole = model(tokens_BT)
    whole.prediction.square().sum().backward()
    for name, parameter in model.core.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    first = model(tokens_BT[:, :2])
    second = model(tokens_BT[:, 2:], map_state(torch.Tensor.detach, first.state))
    assert_close(torch.cat([first.prediction, second.prediction], dim=1), whole.prediction, rtol=1e-4, atol=1e-5)
