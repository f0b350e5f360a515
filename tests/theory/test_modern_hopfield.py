"""The exponential energy, and recall beyond the capacity of the classical network."""

import numpy as np

from src.theory import hopfield, modern_hopfield


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
    stored = hopfield.random_patterns(60, 300, rng)  # a load of 5; the classical capacity is 0.138
    start = hopfield.flipped(stored[:, :5], 0.1, rng)
    assert (modern_hopfield.recall(stored, start) == stored[:, :5]).all()
    assert (hopfield.settle(hopfield.store(stored), start, rng) * stored[:, :5]).mean() < 0.8
