"""One bit held by a tanh unit: its attractors, the noise it withstands, and what remains of the bit and its gradient.

There are two maps, which differ in where the noise u enters: h ← tanh(w h) + u (Bengio, Simard and Frasconi 1994), and
h ← tanh(w h + u), as in a recurrent network.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import entr

Step = Callable[[float, np.ndarray, np.ndarray | float], np.ndarray]


def outside(w: float, h: np.ndarray, u: np.ndarray | float) -> np.ndarray:
    """One step with the noise outside, tanh(w h) + u."""
    return np.tanh(w * h) + u


def inside(w: float, h: np.ndarray, u: np.ndarray | float) -> np.ndarray:
    """One step with the noise inside, tanh(w h + u)."""
    return np.tanh(w * h + u)


def attractor(w: float) -> float:
    """The positive solution of h = tanh(w h), for w > 1."""
    return brentq(lambda h: np.tanh(w * h) - h, 1e-9 + np.sqrt(max(0.0, 1 - 1 / w)) / 2, 1, xtol=1e-15)


def threshold_outside(w: float) -> float:
    """The largest constant u at which h = tanh(w h) - u keeps its attractor: √(1 - 1/w) - artanh(√(1 - 1/w))/w."""
    slope_one = np.sqrt(1 - 1 / w)  # the point where the derivative w (1 - tanh²) is 1
    return float(slope_one - np.arctanh(slope_one) / w)


def threshold_inside(w: float) -> float:
    """The largest u for h = tanh(w h - u): w √(1 - 1/w) - artanh(√(1 - 1/w)), w times the other threshold."""
    return w * threshold_outside(w)


def sufficient_bound(w: float) -> tuple[float, float, float]:
    """The largest (1 - λ(d)) d, with its d and λ, where |M'| ≤ λ(d) on the ball of radius d around the attractor.

    Under noise of at most (1 - λ) d the state stays within d, since a step multiplies its distance from the attractor
    by at most λ, and the noise adds at most the difference to d (Bengio et al. 1994, section IV).
    """
    h = attractor(w)

    def contraction(d: float) -> float:
        return float(w * (1 - np.tanh(w * (h - d)) ** 2))  # largest where the unit is least saturated

    best = minimize_scalar(
        lambda d: -(1 - contraction(d)) * d, bounds=(0, h), method="bounded", options={"xatol": 1e-12}
    )
    return -float(best.fun), float(best.x), contraction(best.x)


def lost(
    step: Step, w: float, bound: float, trials: int, num_steps: int, rng: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each trial ends with the opposite sign under |u| ≤ bound, and the lowest state that it passes.

    With a generator the noise is uniform; without one it is the worst case, -bound at every step.
    """
    h = np.full(trials, attractor(w))
    lowest = h.copy()
    for _ in range(num_steps):
        h = step(w, h, -bound if rng is None else rng.uniform(-bound, bound, trials))
        np.minimum(lowest, h, out=lowest)
    return h < 0, lowest


def trade_off(w: float, noise: float, num_steps: int, trials: int, rng: np.random.Generator) -> tuple[float, float]:
    """The information kept, 1 - H(share lost) in bits, and the median |∂h_T/∂h_0|^(1/T), with uniform noise outside."""
    h, log_gradient = np.full(trials, attractor(w)), np.zeros(trials)
    for _ in range(num_steps):
        log_gradient += np.log(w * (1 - np.tanh(w * h) ** 2))
        h = outside(w, h, rng.uniform(-noise, noise, trials))
    share = float((h < 0).mean())
    return float(1 - (entr(share) + entr(1 - share)) / np.log(2)), float(np.exp(np.median(log_gradient) / num_steps))
