"""Lyapunov exponents against known values."""

import numpy as np
import pytest

from src.theory import chaos


def test_exponents_in_closed_form():
    rng = np.random.default_rng(0)
    assert chaos.logistic_exponent(20_000) == pytest.approx(np.log(2), abs=0.01)
    assert chaos.largest_exponent(np.diag([1.0, 0.3]), 0.7, 400, rng) == pytest.approx(np.log(0.7), abs=1e-6)
    h = 0.8585596366401104  # the fixed point of one unit with weight 1.5
    assert chaos.largest_exponent(np.eye(1), 1.5, 400, rng) == pytest.approx(np.log(1.5 * (1 - h**2)), abs=1e-6)
    assert chaos.lorenz_exponent(60) == pytest.approx(0.9056, abs=0.15)


def test_mean_field_exponent():
    assert chaos.mean_field_exponent(0.5) == pytest.approx(np.log(0.5))
    assert chaos.mean_field_exponent(1.0) == pytest.approx(0, abs=1e-6)
    # an average over a large sample instead of the quadrature
    z = np.random.default_rng(0).standard_normal(100_000)
    q = 1.0
    for _ in range(40):
        q = 4 * np.mean(np.tanh(np.sqrt(q) * z) ** 2)
    expected = 0.5 * np.log(4 * np.mean((1 - np.tanh(np.sqrt(q) * z) ** 2) ** 2))
    assert chaos.mean_field_exponent(2.0) == pytest.approx(expected, abs=1e-2)


def test_random_networks_follow_the_mean_field_exponent():
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
    # claim 3: in so small a network the exponent does not yet have the mean-field value
    assert [claim.holds for number, claim in enumerate(result.claims) if number != 3] == [True] * 5
    assert chaos.draw(result).axes[0].get_xlabel()
