import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from src.models.rnn import RNN

pytestmark = pytest.mark.usefixtures("uncompiled")
B, T, X, H = 3, 5, 4, 6
FUNCTIONS = {"tanh": np.tanh, "relu": lambda a: np.maximum(a, 0), "linear": lambda a: a}


def layer_norm(a_BH, gain_H, bias_H):
    mean_B1 = a_BH.mean(1, keepdims=True)
    deviation_B1 = np.sqrt(((a_BH - mean_B1) ** 2).mean(1, keepdims=True) + 1e-5)
    return gain_H * (a_BH - mean_B1) / deviation_B1 + bias_H


@pytest.mark.parametrize("nonlinearity", FUNCTIONS)
@pytest.mark.parametrize("normalize", [False, True])
def test_three_steps_are_the_equation(nonlinearity, normalize):
    core = RNN(X, hidden_size=H, nonlinearity=nonlinearity, layer_norm=normalize)
    for parameter in core.parameters():
        nn.init.normal_(parameter)
    x_BTX = torch.randn(B, 3, X)
    y_BTH, _ = core(core.project(x_BTX))

    W, V = core.recurrent.weight.detach().numpy(), core.input.weight.detach().numpy()
    h_BH = np.zeros((B, H))
    for t, x_BX in enumerate(x_BTX.unbind(1)):
        a_BH = h_BH @ W.T + x_BX.numpy() @ V.T
        if normalize:
            a_BH = layer_norm(a_BH, core.norm.weight.detach().numpy(), core.norm.bias.detach().numpy())
        else:
            a_BH = a_BH + core.input.bias.detach().numpy()
        h_BH = FUNCTIONS[nonlinearity](a_BH)
        np.testing.assert_allclose(y_BTH[:, t].detach(), h_BH, atol=1e-12)


def test_it_is_the_rnn_of_torch():
    core, reference = RNN(X, hidden_size=H), nn.RNN(X, H, batch_first=True)
    nn.init.zeros_(reference.bias_hh_l0)
    core.recurrent.weight.data.copy_(reference.weight_hh_l0)
    core.input.weight.data.copy_(reference.weight_ih_l0)
    core.input.bias.data.copy_(reference.bias_ih_l0)
    x_BTX = torch.randn(B, T, X)
    assert_close(core(core.project(x_BTX))[0], reference(x_BTX)[0], rtol=0, atol=1e-12)


def test_orthogonal_start_has_all_singular_values_at_the_scale():
    W = RNN(X, hidden_size=20, recurrent_scale=0.7).recurrent.weight
    assert_close(W.T @ W, 0.49 * torch.eye(20), rtol=0, atol=1e-12)


def test_normal_start_has_the_standard_deviation():
    W = RNN(X, hidden_size=200, init="normal", recurrent_scale=0.7).recurrent.weight
    assert W.std().item() == pytest.approx(0.7 / 200**0.5, rel=0.02)
    assert abs(W.mean().item()) < 1e-3


def test_spectral_radius_start_has_the_spectral_radius():
    W = RNN(X, hidden_size=20, init="spectral_radius", recurrent_scale=0.7).recurrent.weight
    assert torch.linalg.eigvals(W).abs().max().item() == pytest.approx(0.7, rel=1e-12)
    assert torch.linalg.matrix_norm(W, 2) > 0.8


def test_input_weights_start_uniform_by_outgoing_connections_and_biases_from_zero():
    core = RNN(50, hidden_size=25)
    assert 0.19 < core.input.weight.abs().max() <= 0.2
    assert core.input.weight.std().item() == pytest.approx(0.2 / 3**0.5, rel=0.05)
    assert not core.input.bias.any()


def test_layer_norm_does_not_see_the_scale_and_the_mean_of_the_summed_input():
    core = RNN(X, hidden_size=H, layer_norm=True)
    core.norm.eps = 0.0
    p_BH, h_BH = torch.randn(B, H), torch.randn(B, H)
    before, _ = core.step(p_BH, h_BH)
    core.recurrent.weight.data.mul_(3.0)
    after, _ = core.step(3.0 * p_BH + 2.0, h_BH)
    assert_close(after, before, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("normalize", "in_bias_and_norm"), [(False, H), (True, 2 * H)])
def test_number_of_parameters(normalize, in_bias_and_norm):
    core = RNN(X, hidden_size=H, layer_norm=normalize)
    assert sum(parameter.numel() for parameter in core.parameters()) == H * H + H * X + in_bias_and_norm


@pytest.mark.parametrize("num_sequences", [2, 3])
def test_a_step_that_forgets_the_state_is_an_error(num_sequences, monkeypatch):
    monkeypatch.setattr(RNN, "step", lambda self, p_BH, state: p_BH)
    core = RNN(X, hidden_size=H, kernel="reference")
    with pytest.raises(TypeError, match=r"^RNN\.step: must return a pair, the output and the next state$"):
        core(core.project(torch.randn(num_sequences, T, X)))
