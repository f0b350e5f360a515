"""Energies against numerical integrals."""

import numpy as np
import pytest
from scipy.integrate import quad

from src.theory import lyapunov


def test_the_energy_of_the_network_is_its_integral():
    rng = np.random.default_rng(0)
    T_NN, input_N, u = rng.standard_normal((3, 3)), rng.standard_normal(3), rng.standard_normal(3)
    v = np.tanh(u)
    expected = -0.5 * v @ T_NN @ v - input_N @ v + sum(quad(np.arctanh, 0, end)[0] for end in v)
    assert lyapunov.network_energy(T_NN, input_N, u) == pytest.approx(expected, rel=1e-9)


def test_a_network_may_have_an_odd_number_of_units():
    """With asymmetric weights, its last unit is on its own."""
    result = lyapunov.run(starts=4, network_size=3)
    assert result.asymmetric.shape == result.symmetric.shape
    (claim,) = (claim for claim in result.claims if "limit cycles" in claim.statement)
    assert claim.holds


def test_the_pendulum_loses_energy_by_friction_only():
    times = np.linspace(0, 10, 2001)
    path = lyapunov.swing(np.array([[1.0, 0.5]]), times)[:, 0]
    V = lyapunov.pendulum_energy(*path.T)
    work = lyapunov.DAMPING * np.trapezoid(path[:, 1] ** 2, times)
    assert V[0] - V[-1] == pytest.approx(work, rel=1e-4)
