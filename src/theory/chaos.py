"""Chaos in recurrent networks: the largest Lyapunov exponent, and the butterfly effect.

Shapes: N units, T steps.
"""

from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Gt
from matplotlib.figure import Figure
from numpy.polynomial.hermite_e import hermegauss
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

from src.theory.base import Claim, Demonstration
from src.theory.claims import near
from src.theory.figures import LIMIT, THEORY, heading, line, new_figure, points

MEAN_FIELD = "Molgedey, Schuchhardt & Schuster (1992); Sompolinsky, Crisanti & Sommers (1988) in continuous time"
SPROTT = "Sprott (2003), appendix A"


class Chaos(NamedTuple):
    """Lyapunov exponents as a function of the gain, and distances between neighboring orbits."""

    claims: tuple[Claim, ...]
    gains: np.ndarray
    exponents: np.ndarray
    theory_gains: np.ndarray
    theory_exponents: np.ndarray
    butterfly_gain: float
    starts: tuple[float, ...]
    """Initial distances of the pairs."""
    distances: np.ndarray
    """Distance between the orbits of each pair over time, [pairs, T]."""
    butterfly_exponent: float


def largest_exponent(J_NN: np.ndarray, gain: float, num_steps: int, rng: np.random.Generator) -> float:
    """Largest exponent of h ← tanh(g J h): the mean of log ‖δ‖ for a tangent vector that is normalized at every step.

    δ(t+1) = diag(1 - h(t+1)²) g J δ(t); the first fifth of the steps is discarded (Benettin et al. 1980).
    """
    h_N, delta_N = rng.standard_normal(len(J_NN)), rng.standard_normal(len(J_NN))
    logs = np.empty(num_steps)
    for step in range(num_steps):
        h_N = np.tanh(gain * J_NN @ h_N)
        delta_N = (1 - h_N**2) * (gain * J_NN @ delta_N)
        size = np.linalg.norm(delta_N)
        logs[step] = np.log(size)
        delta_N /= size
    return float(logs[num_steps // 5 :].mean())


def mean_field_exponent(gain: float) -> float:
    """½ ln(g² ⟨(1 - tanh² z)²⟩) for Gaussian z with the self-consistent variance q = g² ⟨tanh² z⟩, for N → ∞.

    For g ≤ 1 the variance is 0 and the exponent is ln g.
    """
    nodes, weights = hermegauss(101)
    weights = weights / weights.sum()

    def excess(q: float) -> float:
        return float(gain**2 * weights @ np.tanh(np.sqrt(q) * nodes) ** 2 - q)

    q = brentq(excess, 1e-9, gain**2) if gain > 1.001 else 0.0
    return float(0.5 * np.log(gain**2 * weights @ (1 - np.tanh(np.sqrt(q) * nodes) ** 2) ** 2))


def logistic_exponent(num_steps: int, start: float = 0.3123) -> float:
    """The exponent of x ← 4x(1 - x), which is the mean of ln |4 - 8x|."""
    x, total = start, 0.0
    for _ in range(num_steps):
        x = 4 * x * (1 - x)
        total += np.log(abs(4 - 8 * x))
    return total / num_steps


def lorenz_exponent(duration: float, start: tuple[float, float, float] = (1.0, 1.0, 20.0)) -> float:
    """The exponent of Lorenz's equations, σ = 10, ρ = 28, β = 8/3; the tangent vector is normalized every time unit."""

    def rates(_: float, z: np.ndarray) -> np.ndarray:
        (x, y, height), (dx, dy, dz) = z[:3], z[3:]
        return np.array([
            10 * (y - x), x * (28 - height) - y, x * y - 8 / 3 * height,
            10 * (dy - dx), dx * (28 - height) - dy - x * dz, dx * y + x * dy - 8 / 3 * dz,
        ])  # fmt: skip

    z = np.array([*start, 1.0, 0.0, 0.0])
    logs = []
    for _ in range(round(duration)):
        z = solve_ivp(rates, (0, 1), z, method="DOP853", rtol=1e-8, atol=1e-8).y[:, -1]
        logs.append(np.log(np.linalg.norm(z[3:])))
        z[3:] /= np.linalg.norm(z[3:])
    return float(np.mean(logs[10:]))


def neighbors(
    J_NN: np.ndarray, gain: float, start: float, num_steps: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The distance between two orbits over time, initially `start` in a random direction, and the first orbit."""
    h_N = rng.standard_normal(len(J_NN))
    for _ in range(200):
        h_N = np.tanh(gain * J_NN @ h_N)
    delta_N = rng.standard_normal(len(J_NN))
    other_N = h_N + start * delta_N / np.linalg.norm(delta_N)
    distances, orbit = [start], [h_N]
    for _ in range(num_steps):
        h_N, other_N = np.tanh(gain * J_NN @ h_N), np.tanh(gain * J_NN @ other_N)
        distances.append(float(np.linalg.norm(h_N - other_N)))
        orbit.append(h_N)
    return np.array(distances), np.array(orbit)


def run(
    size: int = 200, num_steps: int = 2000, networks: int = 3, duration: Annotated[float, Gt(0)] = 400.0, seed: int = 0
) -> Chaos:
    """Compare the exponents of random networks with theory at every gain, and follow pairs of orbits."""
    rng = np.random.default_rng(seed)
    gains = np.array([0.6, 0.8, 0.95, 1.1, 1.3, 1.5, 2.0, 2.5, 3.0])
    exponents, radii = np.empty((networks, len(gains))), np.empty(networks)
    for network in range(networks):
        J_NN = rng.standard_normal((size, size)) / np.sqrt(size)
        radii[network] = abs(np.linalg.eigvals(J_NN)).max()
        for column, gain in enumerate(gains):
            exponents[network, column] = largest_exponent(J_NN, gain, num_steps, rng)
    theory_gains = np.linspace(0.55, 3.0, 60)
    theory = np.array([mean_field_exponent(gain) for gain in theory_gains])
    mean = exponents.mean(0)
    at_rest = exponents[:, :2] - np.log(gains[:2] * radii[:, None])
    chaotic = gains >= 1.5
    predicted = np.array([mean_field_exponent(gain) for gain in gains[chaotic]])

    starts, butterfly_gain = (1e-12, 1e-9, 1e-6), 2.0
    J_NN = rng.standard_normal((size, size)) / np.sqrt(size)
    reference = largest_exponent(J_NN, butterfly_gain, 2 * num_steps, rng)
    pairs = np.array([neighbors(J_NN, butterfly_gain, start, 120, rng)[0] for start in starts])
    slopes, arrivals = [], []
    for start in (1e-12, 1e-6):
        runs = [neighbors(J_NN, butterfly_gain, start, 400, rng)[0] for _ in range(12)]
        arrivals.append(np.mean([np.argmax(distances > 0.1) for distances in runs]))
        slopes += [np.log(d[np.argmax(d > 1e-3)] / d[5]) / (np.argmax(d > 1e-3) - 5) for d in runs if start == 1e-12]
    claims = (
        near(
            "The method gives ln 2 for the logistic map x ← 4x(1 - x)",
            "conjugate to the tent map; Strogatz (2015), section 10.5",
            float(np.log(2)),
            logistic_exponent(20_000),
            0.01,
            "four standard errors for 20,000 steps, each correlated with the next",
        ),
        near(
            "The method gives 0.906 for Lorenz's equations",
            f"{SPROTT}: 0.9056; Lorenz (1963)",
            0.9056,
            lorenz_exponent(duration),
            0.04,
            f"scatter of the mean over {duration:.0f} time units",
        ),
        near(
            "Below the gain at which the spectral radius is 1, the exponent of a random tanh network is the logarithm "
            "of that radius: orbits go to 0",
            "the Jacobian at 0 is g J",
            0.0,
            float(abs(at_rest).max()),
            0.01,
            "largest difference; the leading eigenvalues are complex, and the norm averages over their rotation",
        ),
        near(
            "For g ≥ 1.5 the exponent follows the mean-field value ½ ln(g²⟨(1 - tanh² z)²⟩) > 0: chaos",
            MEAN_FIELD,
            0.0,
            float(abs(mean[chaotic] - predicted).max()),
            0.02,
            f"largest difference, a third of the least value; {networks} networks of {size} units, gains vary by a few "
            f"percent: {', '.join(f'{m:.3f} ({p:.3f})' for m, p in zip(mean[chaotic], predicted, strict=True))}",
        ),
        near(
            "Two orbits that start 1e-12 apart separate at the rate of the exponent",
            "definition of the exponent; Lorenz (1963)",
            reference,
            float(np.mean(slopes)),
            0.12 * reference,
            "three standard errors of the mean over 12 pairs of about 60 steps each",
        ),
        near(
            "A displacement a million times smaller delays the separation only by ln(10⁶)/exponent steps",
            "ln(0.1/ε)/exponent",
            float(np.log(1e6) / reference),
            float(arrivals[0] - arrivals[1]),
            0.2 * np.log(1e6) / reference,
            "three standard errors, as above",
        ),
    )
    return Chaos(claims, gains, mean, theory_gains, theory, butterfly_gain, starts, pairs, reference)


def draw(result: Chaos) -> Figure:
    """The exponent as a function of the gain, and pairs of orbits that separate."""
    figure, ((exponent, pairs),) = new_figure(1, 2, panel_width=4.0, panel_height=3.2)
    exponent.axhline(0, **LIMIT)
    exponent.plot(result.theory_gains, result.theory_exponents, **THEORY, label="mean-field theory")
    exponent.plot(result.gains, result.exponents, **points(0), label="random networks")
    exponent.text(0.62, 0.04, "chaos", fontsize=9)
    exponent.text(0.62, -0.09, "rest", fontsize=9)
    exponent.set(xlabel="gain g of h ← tanh(g J h)", ylabel="largest Lyapunov exponent (1/step)")
    exponent.legend(loc="lower right", fontsize=8.5)
    heading(exponent, "Chaos sets in above g = 1")

    steps = np.arange(result.distances.shape[1])
    for index, (start, distances) in enumerate(zip(result.starts, result.distances, strict=True)):
        growing = start * np.exp(result.butterfly_exponent * steps)
        pairs.semilogy(steps[growing < 1], growing[growing < 1], **THEORY)
        pairs.semilogy(steps, distances, **line(index), label=f"start {start:g}")
    pairs.set(xlabel="step", ylabel="distance of two orbits")
    pairs.legend(loc="lower right", fontsize=8.5, title="gray: exponent", title_fontsize=8.5)
    heading(pairs, f"Butterfly effect at g = {result.butterfly_gain:g}")
    return figure


DEMONSTRATIONS = (Demonstration("chaos", run, draw),)
