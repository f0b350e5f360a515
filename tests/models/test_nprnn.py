import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from src.models.nprnn import NPRNN, input_gain, normalized_positive_definite_

pytestmark = pytest.mark.usefixtures("uncompiled")


def test_recurrent_matrix_starts_symmetric_positive_definite_with_top_eigenvalue_one():
    """The eigenvalues of Rᵀ R / H + I lie between 1 and about 5; divided by the largest, the smallest is about 1/5."""
    W = NPRNN(10, hidden_size=100).recurrent.weight.detach()
    assert_close(W, W.T, rtol=0, atol=1e-15)
    eigenvalues = torch.linalg.eigvalsh(W)
    assert eigenvalues[-1].item() == pytest.approx(1.0, abs=1e-12)
    assert 0.1 < eigenvalues[0] < 0.3
    assert eigenvalues[-2] < 0.999


def test_recurrent_matrix_is_the_equation_of_its_gaussian_matrix():
    weight = torch.empty(7, 7)
    torch.manual_seed(5)
    W = normalized_positive_definite_(weight).numpy()
    torch.manual_seed(5)
    R = torch.empty(7, 7).normal_().numpy()
    shifted = R.T @ R / 7 + np.eye(7)
    np.testing.assert_allclose(W, shifted / np.linalg.eigvalsh(shifted).max(), atol=1e-14)


@pytest.mark.parametrize(("hidden_size", "gain"), [(100, 1.4317), (6, 1.9737), (2, 1.9737)])
def test_gain_of_the_input_weights(hidden_size, gain):
    """√2 exp(1.2 / (max(H, 6) - 2.4))."""
    assert input_gain(hidden_size) == pytest.approx(gain, abs=5e-5)


def test_input_weights_start_normal_and_biases_from_zero():
    core = NPRNN(200, hidden_size=100)
    assert core.input.weight.std().item() == pytest.approx(1.4317 / math.sqrt(100), rel=0.02)
    assert core.input.weight.abs().max() > 3 * 0.143
    assert not core.input.bias.any()


@pytest.mark.parametrize(("nonlinearity", "function"), [("relu", lambda a: a.clip(min=0)), ("tanh", np.tanh)])
def test_three_steps_are_the_equation(nonlinearity, function):
    core = NPRNN(4, hidden_size=6, nonlinearity=nonlinearity)
    W, V = core.recurrent.weight.detach().numpy(), core.input.weight.detach().numpy()
    x_TX, h_H = torch.randn(3, 4), np.zeros(6)
    for t, y_H in enumerate(core(core.project(x_TX[None]))[0][0]):
        h_H = function(W @ h_H + V @ x_TX[t].numpy())
        np.testing.assert_allclose(y_H.detach(), h_H, atol=1e-12)


def test_without_input_a_linear_state_collapses_to_the_unit_eigenline():
    core = NPRNN(1, hidden_size=2, nonlinearity="linear")
    v_H = torch.linalg.eigh(core.recurrent.weight.detach()).eigenvectors[:, -1]
    h_H = torch.rand(2)
    end_BH = core(torch.zeros(1, 400, 2), h_H[None])[1]
    assert_close(end_BH[0].detach(), v_H * (v_H @ h_H), rtol=0, atol=1e-9)
