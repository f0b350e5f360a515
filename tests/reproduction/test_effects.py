"""Effects, compared with scipy's tests."""

import math

import numpy as np
import pytest
from scipy import stats

from src.reproduction.effects import Effect, difference, duration, mean, ratio, ratio_of_best, share, verdict_of

OURS = np.array([0.0101, 0.0240, 0.0377, 0.0181, 0.0222])
THEIRS = np.array([0.0301, 0.1240, 0.0577, 0.0481])


def test_a_difference_has_the_interval_of_welchs_test():
    test = stats.ttest_ind(OURS, THEIRS, equal_var=False)
    for confidence in (0.95, 0.98):
        effect = difference(OURS, THEIRS, confidence=confidence)
        assert effect.estimate == pytest.approx(OURS.mean() - THEIRS.mean())
        assert (effect.low, effect.high) == pytest.approx(tuple(test.confidence_interval(confidence)))
    # decisive at a level if and only if the p-value is below it
    p = test.pvalue
    for level in (0.9 * p, 1.1 * p):
        decisive = difference(OURS, THEIRS, confidence=1 - level).within(most=0).verdict
        assert decisive == ("reproduced" if p < level else "inconclusive")


def test_a_mean_has_students_interval():
    interval = stats.ttest_1samp(OURS, 0).confidence_interval(0.95)
    effect = mean(OURS)
    assert (effect.low, effect.high) == pytest.approx(tuple(interval))


def test_numbers_of_updates_are_compared_by_their_ratio():
    ours, theirs = np.array([1000.0, 2000.0, 1500.0]), np.array([8000.0, 3000.0, 6000.0])
    interval = stats.ttest_ind(np.log(ours), np.log(theirs), equal_var=False).confidence_interval(0.95)
    effect = ratio(ours, theirs, never=10_000)
    assert effect.estimate == pytest.approx(stats.gmean(ours) / stats.gmean(theirs))
    assert (effect.low, effect.high) == pytest.approx((math.exp(interval.low), math.exp(interval.high)))
    alone, interval = duration(ours, 10_000), stats.ttest_1samp(np.log(ours), 0).confidence_interval(0.95)
    assert alone.estimate == pytest.approx(stats.gmean(ours))
    assert (alone.low, alone.high) == pytest.approx((math.exp(interval.low), math.exp(interval.high)))


def test_what_never_happened_leaves_the_interval_open():
    some, never = np.array([1000.0, 2000.0, 1500.0]), np.array([9000.0, np.inf, np.inf])
    assert ratio(some, never, 10_000).low == 0
    assert ratio(some, never, 10_000).within(most=0.5).verdict == "reproduced"
    assert ratio(some, never, 10_000).within(least=0.5).verdict == "not reproduced"
    assert ratio(never, some, 10_000).high == math.inf
    assert ratio(never, some, 10_000).within(least=2).verdict == "reproduced"
    assert ratio(never, never, 10_000).within(least=2).verdict == "inconclusive"
    assert duration(never, 10_000).within(most=20_000).verdict == "inconclusive"


def test_the_best_of_a_search_are_compared_by_drawing_its_trials_again():
    generator = np.random.default_rng(1)
    ours, theirs = generator.lognormal(8, 1, 40), generator.lognormal(8.5, 1, 40)
    best = [np.sort(updates)[:5] for updates in (ours, theirs)]
    effect = ratio_of_best(ours, theirs, (-ours, -theirs), 5, never=math.inf)
    assert effect.estimate == pytest.approx(stats.gmean(best[0]) / stats.gmean(best[1]))
    drawn = [
        np.subtract(*(np.log(np.sort(generator.choice(updates, 40)))[:5].mean() for updates in (ours, theirs)))
        for _ in range(2000)
    ]
    assert (effect.low, effect.high) == pytest.approx(tuple(np.exp(np.percentile(drawn, [2.5, 97.5]))), rel=0.1)
    among_best = ratio(best[0], best[1], math.inf)
    assert effect.high / effect.low > among_best.high / among_best.low
    some = np.where(np.arange(40) < 3, ours, np.inf)
    assert ratio_of_best(some, theirs, (-some, -theirs), 5, never=1e5).high == math.inf
    assert ratio_of_best(theirs, some, (-theirs, -some), 5, never=1e5).low == 0


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 0.9, "reproduced"),
        (-0.1, 0.9, "inconclusive"),
        (0.1, 1.1, "inconclusive"),
        (-1, 2, "inconclusive"),
        (1.1, 2, "not reproduced"),
        (-2, -0.1, "not reproduced"),
        (0.0, 0.5, "inconclusive"),
        (math.nan, math.nan, "inconclusive"),
    ],
)
def test_the_verdict_follows_from_the_interval(low, high, verdict):
    assert Effect("", 0.5, low, high, "points").within(0, 1).verdict == verdict


def test_one_refuted_effect_refutes_and_one_open_effect_leaves_open():
    inside, open_, outside = (Effect("", 0, low, low + 1, "%").within(most=1.5) for low in (0.0, 1.0, 2.0))
    assert verdict_of([inside, inside]) == "reproduced"
    assert verdict_of([inside, open_]) == "inconclusive"
    assert verdict_of([inside, open_, outside]) == "not reproduced"


def test_one_seed_decides_nothing_and_equal_seeds_have_no_width():
    assert difference(OURS[:1], THEIRS).within(most=0).verdict == "inconclusive"
    assert str(mean(OURS[:1], "R=20")) == "R=20: 1.01 % (one seed)"
    assert str(mean(np.array([0.1, np.inf, 0.2]))) == "∞ % (no interval)"
    never = np.array([np.inf])
    assert str(ratio(np.array([2500.0]), never, 1e4)) == "0.25 times (one seed)"
    assert str(ratio(never, np.array([2500.0]), 1e4)) == "4 times (one seed)"
    diverged = np.array([np.inf, np.inf])
    assert difference(diverged, OURS).within(most=0).verdict == "inconclusive"
    assert difference(diverged, diverged).within(most=0).verdict == "inconclusive"
    equal = difference(np.array([2.0, 2.0]), np.array([2.0, 2.0, 2.0]), unit="pairs")
    assert (equal.low, equal.high) == (0, 0)
    assert equal.within(least=0).verdict == "not reproduced"


def test_effects_are_formatted_for_readers():
    assert str(Effect("to LSTM", -0.0454, -0.098, 0.0072, "points", 0.98)) == (
        "to LSTM: -4.54 points (-9.80 to 0.72, 98 %)"
    )
    assert str(Effect("", 0.123456, 0.0, math.inf, "times")) == "0.123 times (0 to ∞)"
    assert str(Effect("", 2041.3, 1000, 12345, "updates")) == "2,041 updates (1,000 to 12,345)"


def test_a_share_of_all_or_no_runs_has_an_interval_too():
    every = share(np.ones(5, bool))
    assert (every.estimate, every.high) == (1, 1)
    assert every.low == pytest.approx(5 / (5 + stats.norm.ppf(0.975) ** 2))
    assert share(np.zeros(5, bool)).high == pytest.approx(1 - every.low)
    assert share(np.array([True, False])).within(least=0.5).verdict == "inconclusive"
