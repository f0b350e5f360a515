"""The counterexamples against closed forms."""

import numpy as np
import pytest

from src.theory import existence_and_uniqueness


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
    slope = abs(2 * x * np.sin(1 / x**2) - 2 / x * np.cos(1 / x**2))
    np.testing.assert_allclose(slope, 2 / x, rtol=1e-9)  # where the sine is zero
    assert slope.max() > 10 * slope.min()
    step = 1e-8 * x[:20] ** 3
    quotient = (existence_and_uniqueness.wild(x[:20] + step) - existence_and_uniqueness.wild(x[:20] - step)) / (
        2 * step
    )
    np.testing.assert_allclose(abs(quotient), slope[:20], rtol=1e-5)
