"""Jacobians against finite differences, and the solution of Markus and Yamabe's system."""

import numpy as np
from scipy.optimize import approx_fprime

from src.theory import stability


def test_jacobian_of_the_flow():
    x = np.array([0.4, -0.7])
    numeric = approx_fprime(x, lambda z: stability.flow(0, z), 1e-7)
    np.testing.assert_allclose(stability.jacobian(x), numeric, atol=1e-6)


def test_the_jacobian_of_the_center_is_invertible_but_inconclusive():
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
