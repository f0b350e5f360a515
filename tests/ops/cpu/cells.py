"""The cells whose kernels are tested on the CPU, inputs for them, and a function that collects all results of a kernel.

Shapes: B sequences, T time steps, V symbols, P projected features, H hidden units.
"""

import math

import pytest
import torch
from torch import nn

from src.models.alstm import ALSTM
from src.models.fastweights import FastWeights
from src.models.gru import GRU
from src.models.lstm import LSTM
from src.models.rnn import RNN
from src.ops.dispatch import choose
from src.ops.inputs import Inputs
from src.specs import map_state, state_tensors

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
    "fastweights-learned-reads": (FastWeights, {"num_inner_steps": 3, "normalized": "last", "read_weights": "learned"}),
    "fastweights-preliminary": (FastWeights, {"layer_norm_preliminary": True, "boundary": "identity"}),
    "alstm": (ALSTM, {}),
    "alstm-content": (ALSTM, {"num_copies": 1, "num_heads": 2, "recurrent_content": True}),
}
RIVALS = list(CELLS)[:7]
each_cell = pytest.mark.parametrize("cell", CELLS)


def make(cell, units, **settings):
    """A core with weights far from their initial values: no term is small, but it neither explodes nor forgets."""
    kind, fixed = CELLS[cell] if isinstance(cell, str) else (cell, {})
    settings = {**fixed, **settings}
    if settings.get("layer_norm", kind is FastWeights):
        units = max(units, 2)  # layer norm leaves nothing of a single unit
    core = kind(3, hidden_size=2 * units if kind is ALSTM else units, **settings)  # a complex unit is two real ones
    for name, parameter in core.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.2)
        else:
            nn.init.normal_(parameter, std=0.5 / math.sqrt(units))
    return core


def scale_of(core):
    """The scale of inputs: without layer norm the memory feeds on itself, and large states would overflow."""
    small = isinstance(core, FastWeights) and isinstance(core.norm, nn.Identity)
    return 0.2 / math.sqrt(core.hidden_size) if small else 1.0


def features(core):
    """P, the number of projected features."""
    return core.input.out_features


def random_vectors(core, batch, length):
    return scale_of(core) * torch.randn(batch, length, features(core))


def random_table(core, batch, length):
    return scale_of(core) * torch.randn(V, features(core)), torch.randint(V, (batch, length))


def random_state(core, batch):
    scale = 0.3 * scale_of(core) if isinstance(core, FastWeights) else 0.5
    return map_state(lambda zeros: scale * torch.randn_like(zeros), core.initial_state(batch))


def run(core, kernel, table, ids=None, state=None, order=None, share_B=None):
    """Outputs, final state and all gradients of a random functional of both, by name.

    `order` builds the batch from the given sequences; `share_B` is the weight of each of its rows in the functional.
    """
    core.kernel = kernel
    order = torch.arange(len(table if ids is None else ids)) if order is None else order
    table = (table[order] if ids is None else table.clone()).detach().requires_grad_()
    state = None if state is None else map_state(lambda t: t[order].detach().clone().requires_grad_(), state)
    inputs = Inputs(table, None if ids is None else ids[order])
    assert kernel != "fused" or choose(core.forms(), kernel, inputs).kernel == "fused"
    y_BTH, end = core(inputs, state)
    results = {"value: outputs": y_BTH} | {f"value: end {n}": t for n, t in enumerate(state_tensors(end))}
    generator = torch.Generator().manual_seed(1)
    loss = 0
    for value in results.values():
        weights = torch.randn(4, *value.shape[1:], generator=generator).to(value)[order % 4]
        shares = 1 if share_B is None else share_B.view(-1, *[1] * (value.ndim - 1)).to(value)
        loss = loss + (value * weights * shares).sum()
    sources = {"gradient of each: inputs" if ids is None else "gradient: table": table}
    sources |= {f"gradient of each: start {n}": t for n, t in enumerate([] if state is None else state_tensors(state))}
    sources |= {f"gradient: {name}": p for name, p in core.named_parameters() if not name.startswith("input")}
    gradients = torch.autograd.grad(loss, list(sources.values()), allow_unused=True, materialize_grads=True)
    return {name: tensor.detach() for name, tensor in (results | dict(zip(sources, gradients, strict=True))).items()}


def in_a_batch(results, order, share_B):
    """The results of `run` for a batch of copies, from those for each sequence once: all are linear in the shares."""
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
