"""Powers of a matrix and products of Jacobians against closed forms."""

import numpy as np

from src.theory.gradient_flow import limits


def test_powers_of_a_matrix():
    result = limits.compare_powers(num_units=30)
    assert all(claim.holds for claim in result.claims)
    # the powers of the Jordan block [[0.9, 2], [0, 0.9]], written out
    expected = [np.linalg.norm([[0.9**k, 2 * k * 0.9 ** (k - 1)], [0, 0.9**k]], 2) for k in range(1, 60)]
    np.testing.assert_allclose(result.non_normal[1:60], expected, rtol=1e-10)
    assert result.non_normal.argmax() in (9, 10)
    n = np.arange(2, 61)
    np.testing.assert_allclose(result.slowing[2:61], (n + 1) / (2 * n))
    assert [len(axes.lines) for axes in limits.draw_powers(result).axes] == [4, 3, 3]


def test_conditions_on_the_largest_singular_value():
    result = limits.compare_conditions()
    assert all(claim.holds for claim in result.claims)
    for panel in result.panels.values():
        quiet_small, quiet_large, loud_large = panel.values()
        np.testing.assert_allclose(quiet_small, 0.9 ** np.arange(41.0), rtol=1e-10)
        np.testing.assert_allclose(quiet_large, 1.5 ** np.arange(41.0), rtol=1e-10)
        assert loud_large[-1] < 1e-10
    assert [len(axes.lines) for axes in limits.draw_conditions(result).axes] == [5, 5]
