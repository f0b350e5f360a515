"""Hopfield networks against energies and retrieval states that are known."""

import itertools

import numpy as np
import pytest

from src.theory import hopfield, hopfield_capacity, modern_hopfield


@pytest.fixture
def rng():
    return np.random.default_rng(5)


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
    assert hopfield.period(hopfield.EXCHANGE, np.array([1.0, -1.0]), synchronous=False) == 2  # a turn of both units
    assert hopfield.period(hopfield.EXCHANGE, np.ones(2), synchronous=True) == 1


def test_flipped_turns_exactly_the_share(rng):
    patterns = hopfield.random_patterns(50, 4, rng)
    assert ((hopfield.flipped(patterns, 0.2, rng) != patterns).sum(axis=0) == 10).all()


def test_critical_load_and_overlap_of_the_mean_field_equations():
    load, overlap = hopfield_capacity.critical_load()
    assert load == pytest.approx(0.13791, abs=1e-4)
    assert overlap == pytest.approx(0.9674, abs=1e-4)
    # the three equations themselves, at a load of 0.1
    m = hopfield_capacity.overlap_at(np.array([0.1]))[0]
    r = 1.0
    for _ in range(200):
        chi = np.sqrt(2 / (np.pi * 0.1 * r)) * np.exp(-(m**2) / (2 * 0.1 * r))
        r = 1 / (1 - chi) ** 2
    assert m == pytest.approx(float(hopfield_capacity.erf(m / np.sqrt(2 * 0.1 * r))), abs=1e-9)


def test_recall_breaks_down_above_the_critical_load_the_faster_the_larger_the_network():
    result = hopfield_capacity.run(sizes=(100, 300), draws=(8, 2), recalled=10)
    at = {round(float(load), 2): column for column, load in enumerate(result.loads)}
    assert (result.overlaps[:, at[0.10]] >= 0.98).all()
    assert result.overlaps[1, at[0.22]] < 0.7 < result.overlaps[0, at[0.22]]
    lost = result.overlaps[:, at[0.12]] - result.overlaps[:, at[0.18]]
    assert lost[1] > 1.5 * lost[0]


def test_a_unit_fails_with_the_gaussian_probability(rng):
    stored = hopfield.random_patterns(800, 120, rng)
    wrong = ((hopfield.store(stored) @ stored) * stored < 0).mean()
    assert wrong == pytest.approx(float(hopfield_capacity.step_error(np.array(119 / 800))), rel=0.2)


def test_the_exponential_energy_is_lowered_by_a_unit_that_follows_its_rule(rng):
    patterns = hopfield.random_patterns(12, 6, rng)
    state = hopfield.random_patterns(12, 1, rng)
    updated = modern_hopfield.recall(patterns, state)
    for unit in range(12):
        energies = {}
        for sign in (-1.0, 1.0):
            candidate = state[:, 0].copy()
            candidate[unit] = sign
            energies[sign] = -np.exp(patterns.T @ candidate).sum()
        assert updated[unit, 0] == min(energies, key=energies.get)


def test_the_modern_network_recalls_what_the_classical_one_cannot(rng):
    stored = hopfield.random_patterns(60, 300, rng)
    start = hopfield.flipped(stored[:, :5], 0.1, rng)
    assert (modern_hopfield.recall(stored, start) == stored[:, :5]).all()
    assert (hopfield.settle(hopfield.store(stored), start, rng) * stored[:, :5]).mean() < 0.8
