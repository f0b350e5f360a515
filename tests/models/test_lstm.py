import numpy as np
import pytest
import torch
from scipy.special import expit as sigmoid
from torch import nn
from torch.testing import assert_close

from src.models.lstm import LSTM, LSTMState

pytestmark = pytest.mark.usefixtures("uncompiled")
B, T, X, H = 3, 7, 4, 6


def test_three_steps_are_the_equations():
    core = LSTM(X, hidden_size=H)
    nn.init.normal_(core.input.bias)
    V_i, V_f, V_o, V_g = np.split(core.input.weight.detach().numpy(), 4)
    W_i, W_f, W_o, W_g = np.split(core.recurrent.weight.detach().numpy(), 4)
    b_i, b_f, b_o, b_g = np.split(core.input.bias.detach().numpy(), 4)
    x_TX, h, c = torch.randn(3, X), np.zeros(H), np.zeros(H)
    for t, y_H in enumerate(core(core.project(x_TX[None]))[0][0]):
        x = x_TX[t].numpy()
        i, f, o = (sigmoid(W @ h + V @ x + b) for W, V, b in [(W_i, V_i, b_i), (W_f, V_f, b_f), (W_o, V_o, b_o)])
        c = f * c + i * np.tanh(W_g @ h + V_g @ x + b_g)
        h = o * np.tanh(c)
        np.testing.assert_allclose(y_H.detach(), h, atol=1e-12)


def test_it_is_the_lstm_of_torch_with_all_gradients():
    core, reference = LSTM(X, hidden_size=H), nn.LSTM(X, H, batch_first=True)

    def reordered(gates):
        """The gates i, f, g, o in the order i, f, o, g; this is its own inverse."""
        i, f, third, fourth = gates.detach().chunk(4)
        return torch.cat([i, f, fourth, third])

    core.input.weight.data.copy_(reordered(reference.weight_ih_l0))
    core.recurrent.weight.data.copy_(reordered(reference.weight_hh_l0))
    core.input.bias.data.copy_(reordered(reference.bias_ih_l0 + reference.bias_hh_l0))

    x_BTX, h_BH, c_BH = torch.randn(B, T, X), torch.randn(B, H), torch.randn(B, H)
    y_BTH, state = core(core.project(x_BTX), LSTMState(h_BH, c_BH))
    expected_BTH, (h_1BH, c_1BH) = reference(x_BTX, (h_BH[None], c_BH[None]))
    assert_close(y_BTH, expected_BTH, rtol=0, atol=1e-12)
    assert_close(state, LSTMState(h_1BH[0], c_1BH[0]), rtol=0, atol=1e-12)

    weights_BTH = torch.randn(B, T, H)
    (y_BTH * weights_BTH).sum().backward()
    (expected_BTH * weights_BTH).sum().backward()
    assert_close(reordered(core.input.weight.grad), reference.weight_ih_l0.grad, rtol=0, atol=1e-11)
    assert_close(reordered(core.recurrent.weight.grad), reference.weight_hh_l0.grad, rtol=0, atol=1e-11)
    assert_close(reordered(core.input.bias.grad), reference.bias_hh_l0.grad, rtol=0, atol=1e-11)


def test_along_the_cell_the_jacobian_is_the_forget_gate():
    core = LSTM(X, hidden_size=H)
    p_BP, h_BH, c_BH = core.project(torch.randn(1, X)), torch.randn(1, H), torch.randn(1, H)
    jacobian_HH = torch.autograd.functional.jacobian(
        lambda c_H: core.step(p_BP, LSTMState(h_BH, c_H[None]))[1].c_BH[0], c_BH[0]
    )
    f_H = torch.sigmoid(p_BP + core.recurrent(h_BH)).chunk(4, dim=1)[1][0]
    assert_close(jacobian_HH, torch.diag(f_H), rtol=0, atol=1e-14)


def test_with_open_forget_gate_and_closed_input_gate_the_error_is_carried_forever():
    core = LSTM(X, hidden_size=H)
    nn.init.zeros_(core.recurrent.weight)
    p_BTP = torch.cat([torch.full((1, 100, H), value) for value in (-1e3, 1e3, 0.3, 0.7)], dim=2)
    c_H = torch.randn(H)

    def last_cell(c_H):
        return core(p_BTP, LSTMState(torch.zeros(1, H), c_H[None]))[1].c_BH[0]

    assert_close(last_cell(c_H), c_H, rtol=0, atol=0)
    assert_close(torch.autograd.functional.jacobian(last_cell, c_H), torch.eye(H), rtol=0, atol=0)


def test_only_the_forget_gate_starts_with_a_bias():
    p_4H = LSTM(X, hidden_size=H).project(torch.zeros(X))
    assert_close(p_4H.detach(), torch.tensor([0.0, 1.0, 0.0, 0.0]).repeat_interleave(H), rtol=0, atol=0)
    assert_close(LSTM(X, hidden_size=H, forget_bias=4.0).input.bias[H : 2 * H].detach(), torch.full((H,), 4.0))


def test_weights_start_uniform_by_the_hidden_size():
    core = LSTM(50, hidden_size=25)
    for weight in (core.input.weight, core.recurrent.weight):
        assert 0.19 < weight.abs().max() <= 0.2


def test_number_of_parameters_has_one_bias_per_gate():
    assert sum(parameter.numel() for parameter in LSTM(X, hidden_size=H).parameters()) == 4 * (H * (H + X) + H)
