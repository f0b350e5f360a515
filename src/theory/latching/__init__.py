"""Latching one bit in a tanh unit: the noise it survives, and the cost to the gradient."""

from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Ge, Gt
from matplotlib.figure import Figure
from scipy.optimize import brentq

from src.theory.base import Claim, Demonstration
from src.theory.claims import at_least, at_most, near
from src.theory.figures import LIMIT, heading, line, wrapped
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

BENGIO = "Bengio, Simard & Frasconi (1994)"
FOLD = "saddle-node (fold) bifurcation of the fixed point; Strogatz (2015), section 3.1"


class Latch(NamedTuple):
    """Bits that one unit loses under noise, and the trade-off between memory and gradient as its weight varies."""

    claims: tuple[Claim, ...]
    weight: float
    bounds: np.ndarray
    """Bounds on the noise."""
    random_losses: np.ndarray
    """Share of bits lost under uniform noise added outside the tanh, for each bound."""
    worst_losses: np.ndarray
    """The same under a constant adverse input."""
    random_losses_inside: np.ndarray
    """The same under uniform noise inside the tanh."""
    noise: float
    weights: np.ndarray
    information: np.ndarray
    """Information about the stored bit that is left after `num_steps`, for each weight, in bits."""
    gradients: np.ndarray
    """Factor per step in the median of |∂h_T/∂h_0|, for each weight."""
    num_steps: int


def run(
    weight: Annotated[float, Gt(1)] = 1.5,
    trials: int = 100_000,
    trials_of_curves: Annotated[int, Ge(4)] = 20_000,
    num_steps: int = 2000,
    noise: Annotated[float, Gt(0)] = 0.4,
    horizon: int = 50,
    worst_steps: Annotated[int, Ge(5)] = 20_000,
    seed: int = 0,
) -> Latch:
    """Hold a bit under noise of increasing strength, and then with increasing weights."""
    rng = np.random.default_rng(seed)
    bounds = np.array([0.05, 0.10, 0.138, 0.139, 0.17, 0.19, 0.2075, 0.22, 0.235, 0.25, 0.275, 0.30])
    random_losses, random_losses_inside, worst_losses = (np.empty(len(bounds)) for _ in range(3))
    for index, bound in enumerate(bounds):
        random_losses[index] = lost(outside, weight, bound, trials_of_curves, num_steps, rng)[0].mean()
        random_losses_inside[index] = lost(inside, weight, bound, trials_of_curves // 4, num_steps, rng)[0].mean()
        worst_losses[index] = lost(outside, weight, bound, 1, worst_steps, None)[0].mean()
    weights = np.array([1.02, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 2.0, 2.3])
    pairs = np.array([trade_off(w, noise, horizon, trials_of_curves, rng) for w in weights])
    claims = (
        *_claims_of_the_bound(weight, trials, num_steps // 10, rng),
        *_claims_of_the_threshold(weight, bounds, random_losses, worst_steps, rng),
        *_claims_of_the_reduced_attracting_set(),
        *_claims_of_the_gradient(weight, weights, pairs[:, 0], pairs[:, 1], horizon),
    )
    return Latch(
        claims, weight, bounds, random_losses, worst_losses, random_losses_inside,
        noise, weights, pairs[:, 0], pairs[:, 1], horizon,
    )  # fmt: skip


def _claims_of_the_bound(w: float, trials: int, num_steps: int, rng: np.random.Generator) -> tuple[Claim, ...]:
    """Claims about noise below (1 - λ) d."""
    bound, d, contraction = sufficient_bound(w)
    grid = np.linspace(0.001, attractor(w) - 0.001, 20_000)
    slopes = w * (1 - np.tanh(w * (attractor(w) - grid)) ** 2)
    flips, lowest = lost(outside, w, bound, trials, num_steps, rng)
    signs = w * (1 - np.tanh(w * 0.2) ** 2)
    close = np.array([0.2, 0.2 + 1e-6])
    apart = np.diff(outside(w, close, 0.0))[0] / 1e-6
    return (
        near(
            f"The best contraction bound for w = {w:g} is (1 - λ)d with d = {d:.3f}, λ = {contraction:.3f}",
            f"{BENGIO}, section IV",
            float(((1 - slopes) * grid).max()),
            bound,
            1e-6,
            "against a grid of 20,000 radii",
        ),
        near(
            f"Below that bound no bit is lost in {trials:,} trials",
            f"{BENGIO}, section IV: the state stays within d",
            0.0,
            float(flips.sum()),
            0.0,
            f"exact; uniform noise at every one of {num_steps} steps",
        ),
        at_most(
            "Below that bound no state gets farther than d from the attractor",
            f"{BENGIO}, section IV",
            d,
            float((attractor(w) - lowest).max()),
            "largest distance toward the other attractor",
            refuted="U x(t) must lie in the reduced attracting set; the state must, while the input must be "
            "bounded by (1 - λ)d",
        ),
        at_least(
            "Where |M'| > 1, neighbors separate",
            f"{BENGIO}, theorem 1",
            1.0,
            float(apart),
            f"ratio of distances after one step at h = 0.2, where M' = {signs:.3f}",
        ),
    )


def _claims_of_the_threshold(
    w: float, bounds: np.ndarray, random_losses: np.ndarray, num_steps: int, rng: np.random.Generator
) -> tuple[Claim, ...]:
    """Claims about the exact thresholds b*."""
    claims = []
    for name, step, threshold in (
        ("h ← tanh(wh) + u", outside, threshold_outside(w)),
        ("h ← tanh(wh + u)", inside, threshold_inside(w)),
    ):
        below, above = (lost(step, w, factor * threshold, 1, num_steps, None)[0][0] for factor in (0.999, 1.001))
        sign = lost(step, w, 0.999 * threshold, 20_000, 500, rng)[0].sum()
        edge = brentq(
            lambda b, step=step: float(lost(step, w, b, 1, num_steps, None)[0][0]) - 0.5, 0.01, 0.5, xtol=1e-7
        )
        claims += [
            near(
                f"{name}: the worst noise flips the bit from b* on",
                FOLD,
                threshold,
                edge,
                1e-5,
                f"bisection for a bit lost within {num_steps:,} steps; near the fold that takes about π/√(b - b*)",
            ),
            Claim(
                f"{name}: constant adverse input of 0.999 b* never flips it, 1.001 b* does",
                FOLD,
                "kept, lost",
                f"{'lost' if below else 'kept'}, {'lost' if above else 'kept'}",
                f"exact, {num_steps:,} steps; the passage takes about 300",
                not below and bool(above),
            ),
            near(
                f"{name}: random noise below b* does not flip it either",
                "the worst noise bounds all other noise, since M is increasing",
                0.0,
                float(sign),
                0.0,
                "exact: bits lost in 20,000 trials of 500 steps at 0.999 b*",
            ),
        ]
    shown = ", ".join(f"{share:.2g} at {b:g}" for b, share in zip(bounds, random_losses, strict=True) if b >= 0.22)
    return (
        *claims,
        at_most(
            "Random noise flips the bit only well above b*: there is no jump at b*",
            "a long run of adverse signs is needed",
            1e-3,
            float(random_losses[bounds <= 0.2075].max()),
            f"share lost up to 1.5 b*; {shown}",
        ),
    )


def _claims_of_the_reduced_attracting_set() -> tuple[Claim, ...]:
    """Claims that contraction is a sufficient condition, and that it concerns the state, not the input."""
    J = np.array([[0.5, 5.0], [0.0, 0.5]])
    powers = [np.linalg.matrix_power(J, n) for n in range(1, 60)]
    radius = max(abs(np.linalg.eigvals(power)).max() for power in powers)
    shift = 2.0  # moves both attractors: h ← tanh(1.5 (h - 2)) + 2
    edge = np.arctanh(np.sqrt(1 / 3)) / 1.5
    lower, h = shift - attractor(1.5), shift - attractor(1.5)
    for _ in range(100):
        h = np.tanh(1.5 * (h - shift)) + shift + 1.0  # the input 1 is below 2 - 0.439: in the lower set
    return (
        near(
            "In the reduced attracting set the eigenvalues of (M^l)' are below 1 for all l; ‖M'‖ < 1 along "
            "the orbit is only sufficient: they are for M(h) = [[0.5, 5], [0, 0.5]] h, where ‖M'‖ = "
            f"{np.linalg.norm(J, 2):.2f}",
            f"{BENGIO}, definition 4; (M^l)' has the eigenvalue 0.5^l",
            0.5,
            float(radius),
            1e-12,
            "rounding; largest modulus of an eigenvalue over l = 1 ... 59",
            refuted="“the reduced attracting set is defined as ‖J_x M‖ < 1”",
        ),
        at_least(
            "An input within the reduced attracting set of an attractor can still push the state out of its basin",
            f"{BENGIO}, section IV; h ← tanh(1.5(h - 2)) + 2 + u with u = 1 < 2 - {edge:.3f}",
            shift,
            float(h),
            f"the state after 100 steps from the lower attractor {lower:.3f}; the basins meet at 2",
            refuted="“as long as Ux(t) is in a subset of the reduced attracting set of the attractor, the system will "
            "still converge to the attractor”",
        ),
    )


def _claims_of_the_gradient(
    w: float, weights: np.ndarray, information: np.ndarray, gradients: np.ndarray, num_steps: int
) -> tuple[Claim, ...]:
    """Claims about what remains of ∂h_t/∂h_0 while the bit is held."""
    h, logs = np.array([attractor(w)]), []
    for _ in range(50):
        logs.append(float(np.log(w * (1 - np.tanh(w * h) ** 2))[0]))
        h = outside(w, h, 0.0)
    kept = information > 0.9
    return (
        near(
            "A bit at rest on its attractor costs the gradient a factor of w(1 - h²) per step",
            f"{BENGIO}, theorem 4",
            float(np.log(w * (1 - attractor(w) ** 2))),
            float(np.mean(logs)),
            1e-12,
            "rounding; slope of log |∂h_t/∂h_0|",
        ),
        at_most(
            f"No weight keeps both: if more than 0.9 bit is left after {num_steps} noisy steps, each step took "
            "more than half of the gradient",
            f"{BENGIO}, theorem 4",
            0.5,
            float(gradients[kept].max()),
            f"largest |∂h_T/∂h_0|^(1/T) of these weights (median over trials); 0.5 leaves {0.5**num_steps:.0e}",
        ),
        at_most(
            "A larger weight keeps more of the bit under noise",
            "the attractors move apart and the barrier grows with w",
            0.02,
            float((-np.diff(information)).max()),
            "largest drop between successive weights; three standard errors of the shares",
        ),
        at_most(
            "A larger weight keeps less of the gradient",
            "saturated units have small slopes",
            0.0,
            float(np.diff(gradients).max()),
            "largest rise between successive weights",
        ),
    )


def draw(result: Latch) -> Figure:
    """The fold, the share of bits lost as a function of the noise bound, and information against gradient."""
    figure, (fold, losses, trade) = wrapped(3, panel_height=3.3)
    h, b = np.linspace(-0.2, 1.1, 300), threshold_outside(result.weight)
    fold.plot(h, h, color="0.6", linewidth=1)
    for index, (u, label) in enumerate(((0.0, "u = 0"), (b, f"u = −b* = −{b:.3f}"), (0.25, "u = −0.25"))):
        fold.plot(h, np.tanh(result.weight * h) - u, **line(index), label=label)
    fold.plot(attractor(result.weight), attractor(result.weight), "ko", markersize=6)
    touch = np.arctanh(np.sqrt(1 - 1 / result.weight)) / result.weight
    fold.plot(touch, touch, "ko", markersize=6, markerfacecolor="white")
    fold.set(xlabel="state h", ylabel=f"next state tanh({result.weight:g} h) + u")
    fold.legend(loc="upper left", fontsize=8.5)
    heading(fold, "At b* the attractor disappears")

    losses.plot(result.bounds, result.worst_losses, **line(2, marker=True), label="worst noise")
    losses.plot(result.bounds, result.random_losses, **line(0, marker=True), label="random noise")
    losses.plot(result.bounds, result.random_losses_inside, **line(1, marker=True), label="random, inside tanh")
    losses.legend(loc="center right", fontsize=8.5)
    for x, text in ((sufficient_bound(result.weight)[0], "(1 − λ)d"), (b, "b*")):
        losses.axvline(x, **LIMIT)
        losses.text(x - 0.003, 0.5, text, rotation=90, ha="right", va="center", fontsize=9)
    losses.set(xlabel="bound of the noise |u|", ylabel="share of bits lost")
    heading(losses, "Below b* no bit is lost")

    trade.plot(result.gradients, result.information, **line(0, marker=True))
    for weight, x, y in zip(result.weights, result.gradients, result.information, strict=True):
        if weight in (1.02, 1.4, 1.5, 1.6, 1.8, 2.3):
            low = weight < 1.2
            trade.annotate(f"w = {weight:g}", (x, y), xytext=(0, 7) if low else (7, 2), textcoords="offset points",
                           fontsize=8.5, ha="center" if low else "left")  # fmt: skip
    trade.set(xlabel="gradient kept per step (factor)", ylabel=f"bit kept after {result.num_steps} steps (bits)")
    trade.set(xlim=(0, 1), ylim=(-0.05, 1.1))
    heading(trade, f"Latch or learn (noise {result.noise:g})")
    return figure


DEMONSTRATIONS = (Demonstration("latching", run, draw),)
