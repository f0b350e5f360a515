"""Equilibria, basins, Lyapunov functions and np-RNN portraits against closed forms."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from src.theory import existence_and_uniqueness, lyapunov, nprnn_portraits, stability, tanh_network
from src.theory.basins import CURVED, STRAIGHT, TURNING


def test_a_delayed_parabola_solves_its_equation():
    t, step = np.linspace(0, 5, 51), 1e-6
    ahead, behind = (existence_and_uniqueness.delayed_parabola(t + sign * step, 1.0) for sign in (1, -1))
    rate = (ahead - behind) / (2 * step)
    np.testing.assert_allclose(rate, np.sqrt(existence_and_uniqueness.delayed_parabola(t, 1.0)), atol=1e-6)


@pytest.mark.parametrize("start", [0.5, 1.0, 2.0])
def test_blow_up_at_the_reciprocal_of_the_start(start):
    times, states = existence_and_uniqueness.blow_up(start)
    assert times[-1] == pytest.approx(1 / start, abs=2e-7)
    np.testing.assert_allclose(1 / states, 1 / start - times, atol=1e-8)


def test_a_finite_derivative_is_not_a_lipschitz_constant():
    x = 1 / np.sqrt(np.pi * np.arange(1, 400))
    slope = abs(existence_and_uniqueness.wild_slope(x))
    np.testing.assert_allclose(slope, 2 / x, rtol=1e-9)  # where the sine is zero
    assert slope.max() > 10 * slope.min()
    step = 1e-8 * x[:20] ** 3
    quotient = (existence_and_uniqueness.wild(x[:20] + step) - existence_and_uniqueness.wild(x[:20] - step)) / (
        2 * step
    )
    np.testing.assert_allclose(abs(quotient), slope[:20], rtol=1e-5)


def test_jacobian_of_the_flow():
    x = np.array([0.4, -0.7])
    numeric = approx_fprime(x, lambda z: stability.flow(0, z), 1e-7)
    np.testing.assert_allclose(stability.jacobian(x), numeric, atol=1e-6)


def test_the_jacobian_of_the_center_is_invertible_and_says_nothing():
    for sign in (-1.0, 1.0):
        J = approx_fprime(np.zeros(2), lambda z, sign=sign: stability.center(sign)(0, z), 1e-7)
        np.testing.assert_allclose(J, [[0, 1], [-1, 0]], atol=1e-6)
    inward, outward = (stability.center(sign)(0, np.array([0.1, 0.2])) @ [0.1, 0.2] for sign in (-1.0, 1.0))
    assert inward < 0 < outward


def test_markus_and_yamabe():
    for t in (0.0, 0.7, 2.0):
        np.testing.assert_allclose(
            sorted(np.linalg.eigvals(stability.markus_yamabe(t)), key=lambda z: z.imag),
            [(-1 - 1j * np.sqrt(7)) / 4, (-1 + 1j * np.sqrt(7)) / 4], rtol=1e-12,
        )  # fmt: skip
        solution = np.exp(t / 2) * np.array([-np.cos(t), np.sin(t)])
        rate = np.exp(t / 2) * (np.array([-np.cos(t), np.sin(t)]) / 2 + np.array([np.sin(t), np.cos(t)]))
        np.testing.assert_allclose(stability.markus_yamabe(t) @ solution, rate, atol=1e-12)


def test_the_energy_of_the_network_is_its_integral():
    from scipy.integrate import quad

    rng = np.random.default_rng(0)
    T_NN, input_N, u = rng.standard_normal((3, 3)), rng.standard_normal(3), rng.standard_normal(3)
    v = np.tanh(u)
    expected = -0.5 * v @ T_NN @ v - input_N @ v + sum(quad(np.arctanh, 0, end)[0] for end in v)
    assert lyapunov.network_energy(T_NN, input_N, u) == pytest.approx(expected, rel=1e-9)


def test_the_pendulum_loses_energy_by_friction_only():
    times = np.linspace(0, 10, 2001)
    path = lyapunov.swing(np.array([[1.0, 0.5]]), times)[:, 0]
    V = lyapunov.pendulum_energy(*path.T)
    work = lyapunov.DAMPING * np.trapezoid(path[:, 1] ** 2, times)
    assert V[0] - V[-1] == pytest.approx(work, rel=1e-4)


def test_fixed_points_of_the_three_networks():
    straight, curved, turning = (tanh_network.portrait(W, 40) for W in (STRAIGHT, CURVED, TURNING))
    assert [len(found.fixed_points) for found in (straight, curved, turning)] == [9, 9, 1]
    assert straight.radii.min() == pytest.approx(0.3943, abs=1e-4)
    attractors = curved.fixed_points[curved.radii < 1]
    np.testing.assert_allclose(attractors[-1], [0.963, 0.848], atol=1e-3)
    np.testing.assert_allclose(attractors[-2], [0.845, -0.944], atol=1e-3)
    np.testing.assert_allclose(sorted(curved.radii[curved.radii < 1]), [0.474, 0.474, 0.510, 0.510], atol=1e-3)
    shares = [(curved.basins == number).mean() for number in range(4)]
    np.testing.assert_allclose(sorted(shares), [0.235, 0.235, 0.265, 0.265], atol=0.01)
    assert (turning.basins == -1).all()


def test_the_contracting_region_is_that_of_the_state_and_not_of_its_preimage():
    h = np.array([0.5, 0.5])  # 1.5 (1 - h²) > 1, yet the map contracts here
    assert np.linalg.norm(tanh_network.jacobian(STRAIGHT, h), 2) < 1 < 1.5 * (1 - 0.5**2)


def test_portraits_of_two_relu_units():
    start = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    for leading, other in nprnn_portraits.SPECTRA.values():
        W = nprnn_portraits.with_eigenvalues(leading, other)
        np.testing.assert_allclose(np.linalg.eigvalsh(W), sorted([leading, other]))
        states = nprnn_portraits.orbit(W, start, 30)
        np.testing.assert_allclose(states[-1, 0], np.linalg.matrix_power(W, 30) @ start[0], rtol=1e-9)  # no unit is cut
        assert not states[1:, 2].any()
