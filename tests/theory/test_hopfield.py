"""A Hopfield network small enough to enumerate, and known periods."""

import itertools

import numpy as np

from src.theory import hopfield


def test_energy_and_fixed_points_of_a_network_small_enough_to_enumerate(rng):
    pattern = np.array([1.0, 1, -1, 1, -1])
    W = hopfield.store(pattern[:, None])
    states = np.array(list(itertools.product([-1.0, 1.0], repeat=5))).T
    energies = hopfield.energy(W, states)
    expected = [-0.5 * sum(W[i, j] * s[i] * s[j] for i in range(5) for j in range(5)) for s in states.T]
    np.testing.assert_allclose(energies, expected)
    ends = hopfield.settle(W, states, rng)
    assert (abs(pattern @ ends) == 5).all()  # the pattern and its negative are the only minima
    assert (hopfield.energy(W, ends) <= energies + 1e-12).all()


def test_periods():
    assert hopfield.period(hopfield.ROTATION, np.ones(2), synchronous=False) == 4
    assert hopfield.period(hopfield.EXCHANGE, np.array([1.0, -1.0]), synchronous=True) == 2
    assert hopfield.period(hopfield.EXCHANGE, np.array([1.0, -1.0]), synchronous=False) == 2  # a step for each unit
    assert hopfield.period(hopfield.EXCHANGE, np.ones(2), synchronous=True) == 1


def test_flipped_flips_exactly_the_share(rng):
    patterns = hopfield.random_patterns(50, 4, rng)
    assert ((hopfield.flipped(patterns, 0.2, rng) != patterns).sum(axis=0) == 10).all()
