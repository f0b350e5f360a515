"""The feedback system against explicit sums."""

import numpy as np
import pytest

from src.theory import feedback as topic


@pytest.mark.parametrize("weight", [*topic.WEIGHTS, 0.0, 2.0])
def test_simulation_is_the_sum_over_past_inputs(weight):
    x = np.random.default_rng(0).standard_normal(12)
    expected = [sum(weight ** (lag + 1) * x[n - lag] for lag in range(n + 1)) for n in range(12)]
    np.testing.assert_allclose(topic.simulate(weight, x), expected, rtol=1e-12, atol=1e-12)


def test_mean_and_deviation_in_closed_form():
    n = np.arange(1, 31)
    mean, deviation = topic.mean_and_deviation(1.0, 0.5, 2.0, 30)
    np.testing.assert_allclose(mean, 0.5 * n)
    np.testing.assert_allclose(deviation, 2 * np.sqrt(n))
    mean, deviation = topic.mean_and_deviation(0.8, 0.5, 2.0, 200)
    assert mean[-1] == pytest.approx(2.0)
    assert deviation[-1] == pytest.approx(2 * 0.8 / 0.6)
    mean, _ = topic.mean_and_deviation(-1.0, 0.5, 2.0, 4)
    np.testing.assert_allclose(mean, [-0.5, 0, -0.5, 0])


def test_minus_one_is_none_of_the_three_printed_cases():
    response = topic.impulse_response(-1.0, 1000)
    assert abs(response[-1]) == 1  # neither decaying, nor a linear trend, nor exponential
    assert abs(topic.simulate(-1.0, np.ones(1000))).max() == 1
