"""The latch against its thresholds in closed form."""

import numpy as np
import pytest

from src.theory.latching.latch import (
    attractor,
    inside,
    lost,
    outside,
    sufficient_bound,
    threshold_inside,
    threshold_outside,
    trade_off,
)


def test_thresholds():
    assert threshold_outside(1.5) == pytest.approx(0.1384, abs=5e-5)
    assert threshold_inside(1.5) == pytest.approx(0.2075, abs=5e-5)
    bound, d, contraction = sufficient_bound(1.5)
    assert (bound, d, contraction) == pytest.approx((0.0723, 0.220, 0.671), abs=5e-4)
    assert bound == pytest.approx((1 - contraction) * d)
    assert attractor(1.5) == pytest.approx(0.85856, abs=1e-5)


@pytest.mark.parametrize("w", [1.02, 1.2, 1.5, 3.0])
def test_attractor_and_fold_for_every_weight(w):
    assert np.tanh(w * attractor(w)) == pytest.approx(attractor(w), abs=1e-12)
    h = np.linspace(0, 1, 200_001)
    assert threshold_outside(w) == pytest.approx((np.tanh(w * h) - h).max(), abs=1e-8)
    # inside: h = tanh(w h - u) means u = w h - artanh h
    assert threshold_inside(w) == pytest.approx((w * h[:-1] - np.arctanh(h[:-1])).max(), abs=1e-8)


@pytest.mark.parametrize(("step", "threshold"), [(outside, threshold_outside), (inside, threshold_inside)])
def test_the_worst_noise_flips_the_bit_only_above_the_threshold(step, threshold):
    assert not lost(step, 1.5, 0.98 * threshold(1.5), 1, 5000, None)[0].any()
    assert lost(step, 1.5, 1.02 * threshold(1.5), 1, 5000, None)[0].all()


def test_no_bit_is_lost_below_the_noise_bound():
    bound, d, _ = sufficient_bound(1.5)
    flips, lowest = lost(outside, 1.5, bound, 100_000, 50, np.random.default_rng(0))
    assert not flips.any()
    assert attractor(1.5) - lowest.min() < d


def test_the_gradient_of_a_bit_at_rest():
    bits, gradient = trade_off(1.5, 0.0, 40, 10, np.random.default_rng(0))
    assert bits == 1
    assert gradient == pytest.approx(0.3943, abs=1e-4)  # 1.5 (1 - h²) at the attractor


def test_trade_off_runs_from_gradient_to_information():
    rng = np.random.default_rng(0)
    bits, gradients = np.transpose([trade_off(w, 0.4, 50, 2000, rng) for w in (1.05, 1.5, 2.3)])
    assert bits[0] < 0.05 < 0.2 < bits[1] < 0.6 < 0.99 < bits[2]
    assert gradients[0] > 0.7 > 0.5 > gradients[1] > 0.2 > gradients[2]
