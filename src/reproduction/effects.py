"""Effects: the numbers that claims are about, with their confidence intervals over seeds.

The intervals are Student's for a mean, Welch's for a difference of means, and Wilson's for a share of runs. Numbers of
updates are compared by the ratio of their geometric means, with Welch's interval on a logarithmic scale. The best
trials of random searches have a bootstrap interval.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Verdict = Literal["reproduced", "not reproduced", "inconclusive", "not run"]
Unit = Literal[
    "%", "points", "times", "updates", "nats", "pairs", "squared error", "per step", "decades", "of return", "of β"
]
CONFIDENCE = 0.95
"""Confidence level of the two-sided intervals, unless a claim says otherwise."""
BOOTSTRAPS = 4000
"""Number of resamples for a bootstrap interval."""


@dataclass(frozen=True)
class Effect:
    """A number, its confidence interval, and the range predicted by a claim, strictly between `least` and `most`.

    With one seed there is no interval, and both ends are nan.
    """

    name: str
    estimate: float
    low: float
    high: float
    unit: Unit
    confidence: float = CONFIDENCE
    least: float = -math.inf
    most: float = math.inf

    def within(self, least: float = -math.inf, most: float = math.inf) -> "Effect":
        """The same effect, with the claim that it lies between these bounds."""
        return replace(self, least=least, most=most)

    @property
    def verdict(self) -> Verdict:
        """Reproduced if all of the interval is in the predicted range, not reproduced if none is, else inconclusive."""
        high_enough = self.low > self.least or self.least == -math.inf
        low_enough = self.high < self.most or self.most == math.inf
        if high_enough and low_enough and not math.isnan(self.low):
            return "reproduced"
        if self.high <= self.least or self.low >= self.most:
            return "not reproduced"
        return "inconclusive"

    def __str__(self) -> str:
        level = "" if self.confidence == CONFIDENCE else f", {100 * self.confidence:g} %"
        interval = f"{self._number(self.low)} to {self._number(self.high)}"
        if math.isnan(self.low):
            interval = "one seed" if math.isfinite(self.estimate) else "no interval"
        unit = " %" if self.unit == "%" else f" {self.unit}"
        label = f"{self.name}: " if self.name else ""
        return f"{label}{self._number(self.estimate)}{unit} ({interval}{level})"

    def _number(self, value: float) -> str:
        if math.isinf(value):
            return "∞" if value > 0 else "-∞"
        if self.unit in ("%", "points"):
            return f"{100 * value:z.2f}"
        if self.unit == "updates":
            return f"{value:,.0f}"
        return f"{value:.3g}"


def verdict_of(effects: Iterable[Effect]) -> Verdict:
    """Reproduced if all effects are, not reproduced if one is not; otherwise inconclusive."""
    verdicts = {effect.verdict for effect in effects}
    if "not reproduced" in verdicts:
        return "not reproduced"
    return "reproduced" if verdicts == {"reproduced"} else "inconclusive"


def mean(values: np.ndarray, name: str = "", unit: Unit = "%", confidence: float = CONFIDENCE) -> Effect:
    """The mean over seeds, with Student's interval."""
    low, high = _interval(values.mean(), [values], confidence)
    return Effect(name, float(values.mean()), low, high, unit, confidence)


def share(flags: np.ndarray, name: str = "", confidence: float = CONFIDENCE) -> Effect:
    """The share of runs whose flag is true, with Wilson's interval, which has a width even for all runs or none."""
    from scipy import stats

    interval = stats.binomtest(int(flags.sum()), len(flags)).proportion_ci(confidence, method="wilson")
    return Effect(name, float(flags.mean()), float(interval.low), float(interval.high), "%", confidence)


def difference(
    ours: np.ndarray, theirs: np.ndarray, name: str = "", unit: Unit = "points", confidence: float = CONFIDENCE
) -> Effect:
    """The mean of `ours` minus the mean of `theirs`, with Welch's interval."""
    estimate = float(ours.mean()) - float(theirs.mean())
    low, high = _interval(estimate, [ours, theirs], confidence)
    return Effect(name, estimate, low, high, unit, confidence)


def ratio(ours: np.ndarray, theirs: np.ndarray, never: float, name: str = "") -> Effect:
    """The geometric mean of `ours` divided by that of `theirs`, with Welch's interval for the logarithms.

    A run that never reached its goal, inf, counts as `never`, the length of the runs. That is an underestimate, so the
    interval is open on the side of these runs; since several runs then have the same value, its other end is only
    approximate.
    """
    effect = difference(_logarithm(ours, never), _logarithm(theirs, never), name, "times")
    low, high = math.exp(effect.low), math.exp(effect.high)
    if not math.isnan(low):
        low, high = _opened(low, high, ours, theirs)
    return replace(effect, estimate=math.exp(effect.estimate), low=low, high=high)


def ratio_of_best(
    ours: np.ndarray, theirs: np.ndarray, score: Sequence[np.ndarray], best: int, never: float, name: str = ""
) -> Effect:
    """Like `ratio`, for the best trials of two random searches, with a bootstrap interval.

    The best trials are not a random sample: they vary less than the best trials of repeated searches would. So the
    trials of each search are resampled, and the best of each resample are compared.

    Args:
        ours: numbers of updates of all trials of one search.
        theirs: numbers of updates of all trials of the other search.
        score: the scores of our trials and of theirs; the best trials are those with the highest scores.
        best: number of best trials that are compared.
        never: see `ratio`.
        name: name of the effect.
    """
    generator, shown, drawn = np.random.default_rng(0), [], []
    for updates, of_trials in zip((ours, theirs), score, strict=True):
        again = generator.integers(len(updates), size=(BOOTSTRAPS, len(updates)))
        chosen = np.take_along_axis(again, np.argsort(-of_trials[again], axis=1, kind="stable")[:, :best], axis=1)
        drawn.append(_logarithm(updates, never)[chosen].mean(1))
        shown.append(updates[np.argsort(-of_trials, kind="stable")[:best]])
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.exp(np.percentile(drawn[0] - drawn[1], [tail, 100 - tail])).tolist()
    low, high = _opened(low, high, shown[0], shown[1])
    return replace(ratio(shown[0], shown[1], never, name), low=low, high=high)


def duration(updates: np.ndarray, never: float, name: str = "") -> Effect:
    """The geometric mean of numbers of updates; inf is treated as in `ratio`."""
    effect = mean(_logarithm(updates, never), name, "updates")
    high = math.inf if np.isinf(updates).any() else math.exp(effect.high)
    return replace(effect, estimate=math.exp(effect.estimate), low=math.exp(effect.low), high=high)


def _opened(low: float, high: float, ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """The interval of a ratio, open on the side of runs that never reached their goal."""
    return (0.0 if np.isinf(theirs).any() else low), (math.inf if np.isinf(ours).any() else high)


def _logarithm(updates: np.ndarray, never: float) -> np.ndarray:
    return np.log(np.where(np.isinf(updates), never, updates))


def _interval(estimate: float, samples: list[np.ndarray], confidence: float) -> tuple[float, float]:
    """The interval of a sum or difference of means, with the degrees of freedom of Welch and Satterthwaite.

    For one sample it is Student's interval. Both ends are nan if a sample has one value, or one that is not finite.
    """
    from scipy import stats  # takes half a second to import

    if min(map(len, samples)) < 2 or not all(np.isfinite(values).all() for values in samples):
        return math.nan, math.nan
    squares = np.array([values.var(ddof=1) / len(values) for values in samples])
    if squares.sum() == 0:
        return float(estimate), float(estimate)
    degrees = squares.sum() ** 2 / sum(
        square**2 / (len(values) - 1) for square, values in zip(squares, samples, strict=True)
    )
    low, high = stats.t.interval(confidence, degrees, loc=estimate, scale=math.sqrt(squares.sum()))
    return float(low), float(high)
