"""Orbits of two ReLU units against powers of their matrix."""

import numpy as np

from src.theory import nprnn_portraits


def test_portraits_of_two_relu_units():
    start = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    for leading, other in nprnn_portraits.SPECTRA.values():
        W = nprnn_portraits.with_eigenvalues(leading, other)
        np.testing.assert_allclose(np.linalg.eigvalsh(W), sorted([leading, other]))
        states = nprnn_portraits.orbit(W, start, 30)
        np.testing.assert_allclose(states[-1, 0], np.linalg.matrix_power(W, 30) @ start[0], rtol=1e-9)  # no unit is cut
        assert not states[1:, 2].any()
