"""The capacity of the Hopfield network against the mean-field equations."""

import numpy as np
import pytest

from src.theory import hopfield, hopfield_capacity


def test_critical_load_and_overlap_of_the_mean_field_equations():
    # in print, 0.138 and 0.967 (Amit, Gutfreund & Sompolinsky 1985, 1987)
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


def test_recall_breaks_down_above_the_critical_load_and_faster_in_larger_networks():
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
