"""A core with a nested state and several projected tensors, and a stack, beyond what the shared tests cover."""

from functools import partial

import torch
from torch.testing import assert_close

from src.models.sequence import SequenceModel
from src.specs import InputSpec, OutputSpec, map_state, state_tensors
from tests.models.cores import B, H, Nested, Pair, Stack, T, X


def test_the_state_keeps_its_structure_and_its_integers():
    core = Nested(X, hidden_size=H)
    _, state = core(core.project(torch.randn(B, T, X)))
    assert set(state) == {"slow", "rest"}
    pair, position_B = state["rest"]
    assert isinstance(pair, Pair)
    assert position_B.dtype == torch.int64
    assert position_B.tolist() == [T] * B
    doubled = map_state(lambda tensor: 2 * tensor, state)
    assert torch.equal(doubled["rest"][0].M_BHH, 2 * pair.M_BHH)
    assert len(state_tensors(state)) == 4


def test_the_size_of_a_state_counts_every_tensor_once():
    assert Nested(X, hidden_size=H).state_size == H + (H + H * H) + 1
    assert Stack(X, hidden_size=H).state_size == H + (H + H * H)


def test_a_position_that_is_passed_on_matters():
    core = Nested(X, hidden_size=H)
    p, state = core.project(torch.randn(B, T, X)), core.initial_state(B)
    late = {**state, "rest": [state["rest"][0], state["rest"][1] + 1]}
    assert (core(p, state)[0] - core(p, late)[0]).abs().max() > 1e-3


def test_tokens_enter_as_one_table_of_every_projected_tensor():
    make_core = partial(Nested, hidden_size=H)
    model = SequenceModel(InputSpec("tokens", 5), OutputSpec("class", 2), make_core, embedding_size=X)
    inputs = model.project(torch.randint(5, (B, T)))
    assert [tuple(tensor.shape) for tensor in inputs.table] == [(5, H), (5, H, H)]
    assert inputs.batch_and_time == (B, T)
    assert [tuple(tensor.shape) for tensor in inputs.vectors] == [(B, T, H), (B, T, H, H)]


def test_a_stack_is_one_layer_after_the_other():
    core = Stack(X, hidden_size=H)
    x_BTX = torch.randn(B, T, X)
    y_BTH, (first, second) = core(core.project(x_BTX))
    middle_BTH, expected_first = core.first(core.first.project(x_BTX))
    expected_BTH, expected_second = core.second(core.second.project(middle_BTH))
    assert_close(y_BTH, expected_BTH, rtol=0, atol=1e-12)
    assert_close(first, expected_first, rtol=0, atol=1e-12)
    assert_close(second, expected_second, rtol=0, atol=1e-12)


def test_training_goes_on_from_a_detached_state():
    make_core = partial(Nested, hidden_size=H)
    model = SequenceModel(InputSpec("tokens", 5), OutputSpec("class", 2, every_step=True), make_core, embedding_size=X)
    tokens_BT = torch.randint(5, (B, T))
    first = model(tokens_BT[:, :3])
    state = map_state(torch.Tensor.detach, first.state)
    second = model(tokens_BT[:, 3:], state)
    whole = model(tokens_BT).prediction
    assert_close(torch.cat([first.prediction, second.prediction], dim=1), whole, rtol=0, atol=1e-12)
    second.prediction.square().sum().backward()
    assert all(parameter.grad.any() for parameter in model.parameters())
