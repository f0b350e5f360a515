"""Fast weights that are read by softmax, beyond what the shared tests cover."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from src.models.fastweights import FastWeights
from src.models.fastweights_softmax import FastWeightsSoftmax

B, T, X, H = 2, 7, 3, 5


@pytest.mark.parametrize("kernel", ["reference", "auto"])
@pytest.mark.parametrize("context", [1, 3, 100])
@pytest.mark.parametrize("num_inner_steps", [0, 2])
def test_it_is_its_equations(kernel, context, num_inner_steps):
    settings = {"beta": 0.7, "nonlinearity": "tanh", "layer_norm": False, "kernel": kernel}
    core = FastWeightsSoftmax(X, hidden_size=H, context=context, num_inner_steps=num_inner_steps, **settings)
    W, C = core.recurrent.weight.detach().numpy(), core.input.weight.detach().numpy()
    x_TX, h, past = torch.randn(T, X), np.zeros(H), []
    for t, y_H in enumerate(core(core.project(x_TX[None]))[0][0]):
        z = W @ h + C @ x_TX[t].numpy()
        h = np.tanh(z)
        for _ in range(num_inner_steps):
            read = np.zeros(H)
            if past:
                kept = np.stack(past[-context:])
                weights = np.exp(0.7 * kept @ h)
                read = weights / weights.sum() @ kept
            h = np.tanh(z + read)
        past.append(h)
        np.testing.assert_allclose(y_H.detach(), h, atol=1e-12)
    if num_inner_steps:
        attention_t = core.attention(core.project(x_TX[None]))[0]
        query = np.tanh(W @ past[-2] + C @ x_TX[-1].numpy())
        weights = np.exp(0.7 * np.stack(past[:-1])[-context:] @ query)
        np.testing.assert_allclose(attention_t[-context:], weights / weights.sum(), atol=1e-12)
        assert not attention_t[:-context].any()


def test_any_split_gives_the_same_and_the_context_may_be_shorter_than_the_sequence():
    core = FastWeightsSoftmax(X, hidden_size=H, context=3)
    p_BTH = core.project(torch.randn(B, T, X))
    whole = core.scan(p_BTH)
    for place in range(1, T):
        first_BTH, state = core(p_BTH[:, :place])
        second_BTH, state = core(p_BTH[:, place:], state)
        assert_close(torch.cat([first_BTH, second_BTH], dim=1), whole[0], rtol=0, atol=1e-12)
        assert_close(tuple(state), tuple(whole[1]), rtol=0, atol=1e-12)


def test_without_a_difference_between_past_states_it_reads_their_mean():
    core, hebbian = FastWeightsSoftmax(X, hidden_size=H, beta=1e-12), FastWeights(X, hidden_size=H)
    hebbian.load_state_dict(core.state_dict())
    p_BTH = core.project(torch.randn(B, T, X))
    h_BTH, _ = core(p_BTH)
    read_BH = h_BTH[:, :-1].mean(1)
    z_BH = core.recurrent(h_BTH[:, -2]) + p_BTH[:, -1]
    assert_close(core.norm(z_BH + read_BH).relu(), h_BTH[:, -1], rtol=0, atol=1e-9)
    # the first step reads nothing, in either network
    assert_close(hebbian(p_BTH[:, :1])[0], core(p_BTH[:, :1])[0])


def test_a_layer_norm_of_one_unit_is_an_error():
    with pytest.raises(ValueError, match=r"^hidden_size=1: must be 2 or more"):
        FastWeightsSoftmax(X, hidden_size=1)
    FastWeightsSoftmax(X, hidden_size=1, layer_norm=False)
    FastWeightsSoftmax(X, hidden_size=1, num_inner_steps=0)


def test_operations_are_those_of_the_recurrent_matrix_and_of_two_products_with_each_state_that_is_read():
    core = FastWeightsSoftmax(X, hidden_size=H, context=3, num_inner_steps=2)
    assert core.flops(6) == 6 * (5 * H * H + 2 * 2 * (0 + 1 + 2 + 3 + 3 + 3) * H)


def test_the_size_of_the_state_counts_the_states_that_are_kept():
    assert FastWeightsSoftmax(X, hidden_size=H, context=10).state_size == H + 10 * H + 1


def test_weights_start_as_those_of_fast_weights():
    core = FastWeightsSoftmax(50, hidden_size=25, recurrent_scale=0.3)
    assert_close(core.recurrent.weight.detach(), 0.3 * torch.eye(25), rtol=0, atol=0)
    assert 0.19 < core.input.weight.abs().max() <= 0.2
