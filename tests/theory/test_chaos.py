"""Exponents that are known, and a gradient on a cliff."""

import numpy as np
import pytest
import torch

from src.theory import chaos, loss_cliff


def test_exponents_in_closed_form():
    rng = np.random.default_rng(0)
    assert chaos.logistic_exponent(20_000) == pytest.approx(np.log(2), abs=0.01)
    assert chaos.largest_exponent(np.diag([1.0, 0.3]), 0.7, 400, rng) == pytest.approx(np.log(0.7), abs=1e-6)
    h = 0.8585596366401104  # of one unit with the weight 1.5, at rest
    assert chaos.largest_exponent(np.eye(1), 1.5, 400, rng) == pytest.approx(np.log(1.5 * (1 - h**2)), abs=1e-6)
    assert chaos.lorenz_exponent(60) == pytest.approx(0.9056, abs=0.15)


def test_mean_field_exponent():
    assert chaos.mean_field_exponent(0.5) == pytest.approx(np.log(0.5))
    assert chaos.mean_field_exponent(1.0) == pytest.approx(0, abs=1e-6)
    # the average of a large sample in the place of the quadrature
    z = np.random.default_rng(0).standard_normal(100_000)
    q = 1.0
    for _ in range(40):
        q = 4 * np.mean(np.tanh(np.sqrt(q) * z) ** 2)
    expected = 0.5 * np.log(4 * np.mean((1 - np.tanh(np.sqrt(q) * z) ** 2) ** 2))
    assert chaos.mean_field_exponent(2.0) == pytest.approx(expected, abs=1e-2)


def test_random_networks_follow_it():
    rng = np.random.default_rng(1)
    J_NN = rng.standard_normal((200, 200)) / np.sqrt(200)
    assert chaos.largest_exponent(J_NN, 3.0, 400, rng) == pytest.approx(chaos.mean_field_exponent(3.0), abs=0.06)


def test_neighbors_separate_at_the_exponent():
    rng = np.random.default_rng(2)
    J_NN = rng.standard_normal((100, 100)) / 10
    distances, orbit = chaos.neighbors(J_NN, 2.5, 1e-10, 60, rng)
    assert distances[0] == 1e-10
    assert orbit.shape == (61, 100)
    slope = np.polyfit(np.arange(10, 61), np.log(distances[10:]), 1)[0]
    assert slope == pytest.approx(chaos.largest_exponent(J_NN, 2.5, 600, rng), rel=0.3)


def test_chaos_at_reduced_settings_draws():
    result = chaos.run(size=60, num_steps=100, networks=1, duration=20)
    assert len(result.claims) == 6
    assert chaos.draw(result).axes[0].get_xlabel()


def test_the_fold_is_where_the_slope_is_one():
    for w in (4.5, 6.0, 8.0):
        b = loss_cliff.fold_bias(w)
        h = 1 / (1 + np.exp(-np.linspace(-8, 0, 400_001)))  # the lower half
        assert b == pytest.approx((np.log(h / (1 - h)) - w * h).max(), abs=1e-8)


def test_gradient_by_hand_is_that_of_a_difference():
    w, b, step = 5.0, -2.3, 1e-6

    def loss(w, b):
        return float(loss_cliff.loss_of(*torch.tensor([w, b], dtype=torch.float64), num_steps=50, target=0.15))

    numeric = [
        (loss(w + step, b) - loss(w - step, b)) / (2 * step),
        (loss(w, b + step) - loss(w, b - step)) / (2 * step),
    ]
    np.testing.assert_allclose(loss_cliff.gradient_by_hand(w, b, 50, 0.15), numeric, rtol=1e-5)


def test_a_clipped_step_is_the_rate_times_the_threshold():
    start = (6.0, loss_cliff.fold_bias(6.0) + loss_cliff.excess_bias(6.0, 50))
    gradient = loss_cliff.gradient_by_hand(*start, 50, 0.15)
    assert np.linalg.norm(gradient) > 1
    path = loss_cliff.descend(start, 0.05, 1.0, 1, 50, 0.15)
    np.testing.assert_allclose(path[1] - path[0], -0.05 * gradient / np.linalg.norm(gradient), rtol=1e-4)
    path = loss_cliff.descend(start, 0.05, None, 1, 50, 0.15)
    np.testing.assert_allclose(path[1] - path[0], -0.05 * gradient, rtol=1e-9)
