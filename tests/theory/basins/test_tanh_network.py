"""Fixed points and basins of two tanh units against known values."""

import numpy as np
import pytest

from src.theory.basins import CURVED, ROTATING, STRAIGHT, tanh_network


def test_fixed_points_of_the_three_networks():
    straight, curved, rotating = (tanh_network.portrait(W, 40) for W in (STRAIGHT, CURVED, ROTATING))
    assert [len(found.fixed_points) for found in (straight, curved, rotating)] == [9, 9, 1]
    assert straight.radii.min() == pytest.approx(0.3943, abs=1e-4)  # 1.5 (1 - h²) with h = tanh(1.5 h)
    attractors = curved.fixed_points[curved.radii < 1]
    np.testing.assert_allclose(attractors[-1], [0.963, 0.848], atol=1e-3)
    np.testing.assert_allclose(attractors[-2], [0.845, -0.944], atol=1e-3)
    np.testing.assert_allclose(sorted(curved.radii[curved.radii < 1]), [0.474, 0.474, 0.510, 0.510], atol=1e-3)
    shares = [(curved.basins == number).mean() for number in range(4)]
    np.testing.assert_allclose(sorted(shares), [0.235, 0.235, 0.265, 0.265], atol=0.01)
    assert (rotating.basins == -1).all()


def test_the_contracting_region_is_that_of_the_state_and_not_of_its_preimage():
    h = np.array([0.5, 0.5])  # 1.5 (1 - h²) > 1, yet the map contracts here
    assert np.linalg.norm(tanh_network.jacobian(STRAIGHT, h), 2) < 1 < 1.5 * (1 - 0.5**2)
