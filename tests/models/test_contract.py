"""What holds for every model: each file in configs/model is picked up by itself."""

import inspect
from pathlib import Path
from types import NoneType
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from src.models.base import map_state, state_tensors
from src.models.sequence import SequenceModel
from src.tasks.base import InputSpec, OutputSpec

FILES = sorted((Path(__file__).parents[2] / "configs" / "model").glob("*.yaml"))
B, T, X, H = 3, 7, 4, 6


def keywords(file):
    """The keyword-only parameters of the constructor that a file names."""
    signature = inspect.signature(get_class(OmegaConf.load(file)["_target_"]))
    return {name: p.default for name, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY}


def variants(file):
    """The file as it is, then every other legal value of every choice, switch and optional key, one at a time."""
    hints = get_type_hints(get_class(OmegaConf.load(file)["_target_"]).__init__)
    yield {}
    for name, default in keywords(file).items():
        values = []
        for hint in (hints[name], *get_args(hints[name])):
            values += get_args(hint) if get_origin(hint) is Literal else []
            values += [False, True] if hint is bool else []
            values += [None] if hint is NoneType else []
        yield from ({name: value} for value in values if value != default)


def name_of(file, variant):
    return "-".join([file.stem, *(f"{key}={value}" for key, value in variant.items())])


each_model = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
each_variant = pytest.mark.parametrize(
    ("file", "variant"),
    [pytest.param(file, variant, id=name_of(file, variant)) for file in FILES for variant in variants(file)],
)


def build(file, input_size=X, **overrides):
    return instantiate(OmegaConf.load(file), input_size, **{"hidden_size": H, **overrides})


def sequence_model(file, num_symbols, num_classes, embedding_size, hidden_size):
    return SequenceModel(
        InputSpec("tokens", num_symbols),
        OutputSpec("class", num_classes),
        lambda input_size: build(file, input_size, hidden_size=hidden_size),
        embedding_size=embedding_size,
    )


def scan(core, p_BTP, state):
    """The definition of a whole sequence."""
    state = core.initial_state(p_BTP.shape[0]) if state is None else state
    outputs = []
    for p_BP in p_BTP.unbind(1):
        y_BH, state = core.step(p_BP, state)
        outputs.append(y_BH)
    return torch.stack(outputs, dim=1), state


def in_two_pieces(core, p_BTP, state):
    first, state = core(p_BTP[:, :4], state)
    second, state = core(p_BTP[:, 4:], state)
    return torch.cat([first, second], dim=1), state


def random_state(core):
    return map_state(lambda tensor: tensor + 0.3 * torch.randn_like(tensor), core.initial_state(B))


def everything(core, run, x_BTX, state):
    """Outputs, the final state, and all gradients of a random functional of both."""
    x_BTX = x_BTX.clone().requires_grad_()
    if state is not None:
        state = map_state(lambda tensor: tensor.clone().requires_grad_(), state)
    y_BTH, end = run(core, core.project(x_BTX), state)
    generator = torch.Generator().manual_seed(1)
    loss = sum((out * torch.randn(out.shape, generator=generator)).sum() for out in [y_BTH, *state_tensors(end)])
    carried = [] if state is None else state_tensors(state)
    sources = [x_BTX, *carried, *core.parameters()]
    gradients = torch.autograd.grad(loss, sources, allow_unused=True, materialize_grads=True)
    results = [y_BTH, *state_tensors(end), *gradients]
    assert all(torch.isfinite(result).all() for result in results)
    return results


def assert_same(core, run_a, run_b, x_BTX, state):
    for a, b in zip(everything(core, run_a, x_BTX, state), everything(core, run_b, x_BTX, state), strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)


def forward(core, p_BTP, state):
    return core(p_BTP, state)


@each_variant
@pytest.mark.parametrize("length", [1, 2, 7, 11])
def test_forward_is_the_scan_of_step_with_all_gradients(file, variant, length):
    core = build(file, **variant)
    x_BTX = torch.randn(B, length, X)
    assert_same(core, forward, scan, x_BTX, None)
    assert_same(core, forward, scan, x_BTX, random_state(core))


@each_variant
@pytest.mark.parametrize("length", [1, 11])
def test_the_last_output_alone_is_the_last_of_all_with_its_gradients(file, variant, length):
    core = build(file, **variant)
    x_BTX = torch.randn(B, length, X)

    def last_of_all(core, p_BTP, state):
        y_BTH, end = core(p_BTP, state)
        return y_BTH[:, -1], end

    def last_alone(core, p_BTP, state):
        return core(p_BTP, state, last_only=True)

    def nothing_else(run):
        return lambda core, p_BTP, state: (run(core, p_BTP, state), core.initial_state(B))

    for state in (None, random_state(core)):
        assert_same(core, last_of_all, last_alone, x_BTX, state)
        assert_same(
            core,
            nothing_else(lambda core, p_BTP, state: core(p_BTP, state)[0][:, -1]),
            nothing_else(lambda core, p_BTP, state: core(p_BTP, state, carry=False, last_only=True)[0]),
            x_BTX,
            state,
        )


@each_variant
def test_two_pieces_with_the_state_carried_are_the_whole(file, variant):
    core = build(file, **variant)
    x_BTX = torch.randn(B, 11, X)
    assert_same(core, forward, in_two_pieces, x_BTX, None)
    assert_same(core, forward, in_two_pieces, x_BTX, random_state(core))


@each_variant
def test_rows_of_a_batch_do_not_see_each_other(file, variant):
    core = build(file, **variant)
    x_BTX = torch.randn(B, T, X, requires_grad=True)
    y_BTH, _ = core(core.project(x_BTX))
    (gradient_BTX,) = torch.autograd.grad(y_BTH[0].square().sum(), x_BTX)
    assert gradient_BTX[0].any()
    assert not gradient_BTX[1:].any()
    order = torch.tensor([2, 0, 1])
    assert_close(core(core.project(x_BTX[order]))[0], y_BTH[order], rtol=1e-12, atol=1e-12)


@each_variant
def test_no_output_sees_the_future(file, variant):
    core = build(file, **variant)
    x_BTX = torch.randn(B, T, X, requires_grad=True)
    y_BTH, _ = core(core.project(x_BTX))
    for t in range(T):
        (gradient_BTX,) = torch.autograd.grad(y_BTH[:, t].square().sum(), x_BTX, retain_graph=True)
        assert gradient_BTX[:, t].any()
        assert not gradient_BTX[:, t + 1 :].any()


@each_model
def test_a_batch_of_one_is_a_row_of_a_batch(file):
    core = build(file)
    x_BTX = torch.randn(B, T, X)
    assert_close(core(core.project(x_BTX[:1]))[0], core(core.project(x_BTX))[0][:1], rtol=1e-12, atol=1e-12)


@each_variant
def test_project_acts_position_by_position(file, variant):
    core = build(file, **variant)
    x_BTX = torch.randn(B, T, X)
    p_BTP = core.project(x_BTX)
    for t in range(T):
        assert_close(p_BTP[:, t], core.project(x_BTX[:, t]), rtol=1e-12, atol=1e-12)


@each_variant
def test_outputs_and_states_have_the_stated_sizes(file, variant):
    core = build(file, **variant)
    y_BTH, state = core(core.project(torch.randn(B, T, X)))
    assert y_BTH.shape == (B, T, core.hidden_size)
    start = core.initial_state(B)
    assert type(state) is type(start)
    assert [tensor.shape for tensor in state_tensors(state)] == [tensor.shape for tensor in state_tensors(start)]
    assert core.state_size * B == sum(tensor.numel() for tensor in state_tensors(state))


@each_model
def test_num_parameters_counts_embedding_core_and_head(file):
    model = sequence_model(file, num_symbols=5, num_classes=2, embedding_size=X, hidden_size=H)
    size = model.core.hidden_size
    in_core = sum(parameter.numel() for parameter in build(file).parameters())
    assert model.num_parameters == 5 * X + in_core + 2 * (size + 1)


@each_variant
def test_every_parameter_receives_a_gradient(file, variant):
    core = build(file, **variant)
    y_BTH, _ = core(core.project(torch.randn(B, T, X)))
    (y_BTH * torch.randn_like(y_BTH)).sum().backward()
    for name, parameter in core.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@each_variant
@pytest.mark.parametrize("length", [1, T])
def test_attention_and_memory_are_none_or_have_their_shapes(file, variant, length):
    core = build(file, **variant)
    p_BTP = core.project(torch.randn(B, length, X))
    attention_Bt, memory = core.attention(p_BTP), core.memory(p_BTP)
    assert attention_Bt is None or attention_Bt.shape == (B, length - 1)
    assert memory is None or (memory.ndim == 3 and len(memory) == B)


@each_model
def test_projecting_the_table_equals_projecting_every_token(file):
    model = sequence_model(file, num_symbols=5, num_classes=2, embedding_size=X, hidden_size=H)
    tokens_BT = torch.randint(5, (B, T))
    direct_BTP = model.core.project(model.embedding(tokens_BT))
    direct = model.head(model.core(direct_BTP)[0][:, -1])
    through_table = model(tokens_BT).prediction
    assert_close(through_table, direct, rtol=1e-10, atol=1e-10)
    weights = torch.randn_like(direct)
    gradients = [
        torch.autograd.grad((prediction * weights).sum(), list(model.parameters()))
        for prediction in (through_table, direct)
    ]
    for a, b in zip(*gradients, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)


@each_model
def test_one_batch_can_be_overfitted(file):
    model = sequence_model(file, num_symbols=6, num_classes=3, embedding_size=8, hidden_size=18)
    tokens_BT, classes_B = torch.randint(6, (12, 5)), torch.randint(3, (12,))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(300):
        loss = functional.cross_entropy(model(tokens_BT).prediction, classes_B)
        if loss < 0.05:
            return
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    pytest.fail(f"the loss is still {loss:.3f}")


@each_variant
def test_a_model_can_be_built_without_memory_for_its_weights(file, variant):
    with torch.device("meta"):
        core = build(file, **variant)
    assert all(parameter.is_meta for parameter in core.parameters())


@each_model
def test_the_same_seed_gives_the_same_weights(file):
    first = build(file).state_dict()
    torch.manual_seed(0)
    assert_close(build(file).state_dict(), first, rtol=0, atol=0)


@each_model
def test_the_file_names_every_key_with_its_default(file):
    config = OmegaConf.to_container(OmegaConf.load(file))
    del config["_target_"]
    assert config == keywords(file)
