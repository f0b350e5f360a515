"""Hebb's and Oja's rules against closed forms in one dimension, and the printed order of the factors."""

import numpy as np
import pytest

from src.theory import hebbian_learning as topic


def test_hebb_grows_and_oja_is_logistic_in_one_dimension():
    w, c, times = 0.3, 0.8, np.linspace(0, 6, 7)
    hebb = topic.hebb_flow(np.array([[w]]), np.array([[c]]), times)[:, 0, 0]
    np.testing.assert_allclose(hebb, w * np.exp(c * times), rtol=1e-9)
    square = 1 / (1 + (1 / w**2 - 1) * np.exp(-2 * c * times))  # if dw/dt = c w (1 - w²), then w² is logistic
    oja = topic.oja_flow(np.array([w]), np.array([[c]]), times)[:, 0]
    np.testing.assert_allclose(oja**2, square, rtol=1e-8)
    np.testing.assert_allclose(topic.oja_exact(np.array([w]), np.array([[c]]), times)[:, 0] ** 2, square, rtol=1e-12)


def test_an_update_of_the_rule_is_w_c_and_not_c_w():
    rng = np.random.default_rng(1)
    W_NN, x_N = rng.standard_normal((4, 4)), rng.standard_normal(4)
    update_NN = np.array([[(W_NN @ x_N)[i] * x_N[j] for j in range(4)] for i in range(4)])
    C_NN = np.outer(x_N, x_N)
    np.testing.assert_allclose(topic.hebb_euler(W_NN, C_NN, 0.1, 1), W_NN + 0.1 * update_NN)
    assert np.linalg.norm(C_NN @ W_NN - update_NN) > 0.5 * np.linalg.norm(update_NN)
    np.testing.assert_allclose((C_NN @ W_NN.T).T, update_NN)  # C W is right for the transposed W


def test_euler_halves_its_error_with_its_step():
    exact = np.exp(0.9)
    errors = [exact - topic.hebb_euler(np.ones((1, 1)), np.array([[0.9]]), 1 / n, n)[0, 0] for n in (64, 128)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.02)


def test_zero_weights_stay_zero():
    assert not topic.hebb_euler(np.zeros((3, 5)), np.ones((5, 5)), 0.1, 100).any()
