import numpy as np
import pytest
import torch
from scipy.special import expit as sigmoid
from torch import nn
from torch.testing import assert_close

from src.models.gru import GRU

B, T, X, H = 3, 7, 4, 6


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("reset", ["before", "after"])
def test_three_steps_are_the_equations(reset):
    core = GRU(X, hidden_size=H, reset=reset)
    nn.init.normal_(core.input.bias)
    V_r, V_u, V_c = np.split(core.input.weight.detach().numpy(), 3)
    b_r, b_u, b_c = np.split(core.input.bias.detach().numpy(), 3)
    W_r, W_u = np.split(core.recurrent_gates.weight.detach().numpy(), 2)
    W_c = core.recurrent_candidate.weight.detach().numpy()
    x_TX, h = torch.randn(3, X), np.zeros(H)
    for t, y_H in enumerate(core(core.project(x_TX[None]))[0][0]):
        x = x_TX[t].numpy()
        r = sigmoid(W_r @ h + V_r @ x + b_r)
        u = sigmoid(W_u @ h + V_u @ x + b_u)
        recurrent = W_c @ (r * h) if reset == "before" else r * (W_c @ h)
        h = u * h + (1 - u) * np.tanh(recurrent + V_c @ x + b_c)
        np.testing.assert_allclose(y_H.detach(), h, atol=1e-12)


@pytest.mark.usefixtures("uncompiled")
def test_with_the_reset_after_the_product_it_is_the_gru_of_torch_with_all_gradients():
    core, reference = GRU(X, hidden_size=H, reset="after"), nn.GRU(X, H, batch_first=True)
    nn.init.zeros_(reference.bias_hh_l0)
    core.input.weight.data.copy_(reference.weight_ih_l0)
    core.input.bias.data.copy_(reference.bias_ih_l0)
    core.recurrent_gates.weight.data.copy_(reference.weight_hh_l0[: 2 * H])
    core.recurrent_candidate.weight.data.copy_(reference.weight_hh_l0[2 * H :])

    x_BTX, h_BH = torch.randn(B, T, X), torch.randn(B, H)
    y_BTH, end_BH = core(core.project(x_BTX), h_BH)
    expected_BTH, end_1BH = reference(x_BTX, h_BH[None])
    assert_close(y_BTH, expected_BTH, rtol=0, atol=1e-12)
    assert_close(end_BH, end_1BH[0], rtol=0, atol=1e-12)

    weights_BTH = torch.randn(B, T, H)
    (y_BTH * weights_BTH).sum().backward()
    (expected_BTH * weights_BTH).sum().backward()
    recurrent_grad = torch.cat([core.recurrent_gates.weight.grad, core.recurrent_candidate.weight.grad])
    assert_close(core.input.weight.grad, reference.weight_ih_l0.grad, rtol=0, atol=1e-11)
    assert_close(core.input.bias.grad, reference.bias_ih_l0.grad, rtol=0, atol=1e-11)
    assert_close(recurrent_grad, reference.weight_hh_l0.grad, rtol=0, atol=1e-11)


def test_an_open_update_gate_keeps_the_state_and_a_closed_one_replaces_it():
    core = GRU(X, hidden_size=H)
    h_BH, p_c_BH = torch.randn(1, H), torch.randn(1, H)

    def step(p_r, p_u):
        return core.step(torch.cat([torch.full((1, H), p_r), torch.full((1, H), p_u), p_c_BH], dim=1), h_BH)[0]

    assert_close(step(0.0, 1e3), h_BH, rtol=0, atol=0)
    assert_close(step(-1e3, -1e3), torch.tanh(p_c_BH), rtol=0, atol=1e-15)


def test_only_the_gates_start_with_a_bias():
    p_3H = GRU(X, hidden_size=H).project(torch.zeros(X))
    assert_close(p_3H.detach(), torch.tensor([1.0, 1.0, 0.0]).repeat_interleave(H), rtol=0, atol=0)
    assert not GRU(X, hidden_size=H, gate_bias=0.0).input.bias.any()


def test_weights_start_uniform_by_the_hidden_size():
    core = GRU(50, hidden_size=25)
    for layer in (core.input, core.recurrent_gates, core.recurrent_candidate):
        assert 0.19 < layer.weight.abs().max() <= 0.2


def test_number_of_parameters_has_one_bias_per_gate():
    assert sum(parameter.numel() for parameter in GRU(X, hidden_size=H).parameters()) == 3 * (H * (H + X) + H)


@pytest.mark.parametrize("reset", ["before", "after"])
def test_gradients_are_those_of_finite_differences(reset):
    core = GRU(2, hidden_size=3, reset=reset)
    p_BTP, h_BH = torch.randn(2, 4, 9, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    assert torch.autograd.gradcheck(core, (p_BTP, h_BH))
