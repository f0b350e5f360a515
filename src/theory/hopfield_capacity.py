"""The capacity of the Hopfield network: how many patterns it recalls, and how abruptly recall breaks down.

Shapes: N units, P patterns.
"""

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import brentq, minimize_scalar
from scipy.special import erf, erfc

from src.theory.base import Claim, Demonstration
from src.theory.claims import at_least, at_most, near
from src.theory.figures import LIMIT, THEORY, heading, line, new_figure, points
from src.theory.hopfield import random_patterns, settle, store

AMIT = "Amit, Gutfreund & Sompolinsky (1985, 1987)"
MCELIECE = "McEliece, Posner, Rodemich & Venkatesh (1987)"


class Capacity(NamedTuple):
    """The overlap after recall that starts from the pattern itself, and the share of wrong units after one update."""

    claims: tuple[Claim, ...]
    loads: np.ndarray
    sizes: tuple[int, ...]
    overlaps: np.ndarray
    """Mean overlap after recall, [sizes, loads]."""
    theory_loads: np.ndarray
    theory_overlaps: np.ndarray
    step_errors: np.ndarray
    """Share of units of the stored patterns that flip in one update, for the largest size, [loads]."""


def load_of(y: float) -> float:
    """The load α at which the retrieval state has overlap erf(y), for large N at zero temperature.

    With y = m/√(2αr), the equations m = erf(m/√(2αr)), χ = √(2/(παr)) e^(-m²/(2αr)) and r = (1 - χ)⁻² reduce to
    y (√(2α) + 2/√π e^(-y²)) = erf(y) (Amit, Gutfreund and Sompolinsky 1987; Hertz, Krogh and Palmer 1991, section 2.5).
    """
    return float((erf(y) / y - 2 / np.sqrt(np.pi) * np.exp(-(y**2))) ** 2 / 2)


def critical_load() -> tuple[float, float]:
    """The largest load that has a retrieval state, and the overlap at this load."""
    best = minimize_scalar(lambda y: -load_of(y), bounds=(0.5, 4), method="bounded", options={"xatol": 1e-10})
    return -float(best.fun), float(erf(best.x))


def overlap_at(loads: np.ndarray) -> np.ndarray:
    """The overlap of the retrieval state at loads below the critical one."""
    lowest = minimize_scalar(lambda y: -load_of(y), bounds=(0.5, 4), method="bounded").x
    return np.array([erf(brentq(lambda y, load=load: load_of(y) - load, lowest, 30)) for load in loads])


def step_error(load: np.ndarray) -> np.ndarray:
    """Probability that a unit of a stored pattern flips, ½ erfc(1/√(2α)): that crosstalk of variance α exceeds 1."""
    return 0.5 * erfc(1 / np.sqrt(2 * load))


def run(
    sizes: tuple[int, ...] = (100, 300, 1000), draws: tuple[int, ...] = (60, 16, 4), recalled: int = 20, seed: int = 0
) -> Capacity:
    """Store random patterns at every load, and recall each one starting from itself."""
    rng = np.random.default_rng(seed)
    loads = np.array([0.02, 0.06, 0.10, 0.12, 0.14, 0.16, 0.18, 0.20, 0.22])
    overlaps = np.zeros((len(sizes), len(loads)))
    step_errors = np.zeros(len(loads))
    for row, (size, repetitions) in enumerate(zip(sizes, draws, strict=True)):
        for column, load in enumerate(loads):
            for _ in range(repetitions):
                stored_NP = random_patterns(size, round(load * size), rng)
                W_NN, shown_NP = store(stored_NP), stored_NP[:, :recalled]
                overlaps[row, column] += (settle(W_NN, shown_NP, rng) * shown_NP).mean() / repetitions
                if row == len(sizes) - 1:
                    step_errors[column] += ((W_NN @ stored_NP) * stored_NP < 0).mean() / repetitions
    critical, at_critical = critical_load()
    theory_loads = np.linspace(0.005, critical - 1e-9, 200)
    claims = (
        *_claims_of_theory(critical, at_critical),
        *_claims_of_overlaps(sizes, loads, overlaps),
        *_claims_of_errors(sizes[-1], loads, step_errors, rng),
    )
    return Capacity(claims, loads, sizes, overlaps, theory_loads, overlap_at(theory_loads), step_errors)


def _claims_of_theory(critical: float, at_critical: float) -> tuple[Claim, ...]:
    """Claims about the mean-field equations for large N."""
    return (
        near(
            "Retrieval states exist up to P = 0.138 N, from the mean-field equations",
            AMIT,
            0.138,
            critical,
            0.0005,
            "the digits printed in the literature",
        ),
        near(
            "Just below that load the overlap is still 0.967: the transition is sudden",
            AMIT,
            0.967,
            at_critical,
            0.0005,
            "the digits printed in the literature",
        ),
    )


def _claims_of_overlaps(sizes: tuple[int, ...], loads: np.ndarray, overlaps: np.ndarray) -> tuple[Claim, ...]:
    """Claims about the simulation around the critical load."""
    at = {round(float(load), 2): column for column, load in enumerate(loads)}
    large = np.array(sizes) >= 300
    steepness = (overlaps[:, at[0.12]] - overlaps[:, at[0.18]]) / 0.06
    shown = ", ".join(f"{slope:.1f} for N = {size}" for size, slope in zip(sizes, steepness, strict=True))
    return (
        at_least(
            "At a load of 0.10 the overlap is at least 0.98, for every size",
            f"{AMIT}: {overlap_at(np.array([0.1]))[0]:.4f} for large N",
            0.98,
            float(overlaps[:, at[0.10]].min()),
            "the mean-field value minus the scatter of small networks",
        ),
        at_most(
            "At a load of 0.22 the overlap is below 0.7 for N ≥ 300",
            f"{AMIT}: no retrieval state; a remnant overlap of about 0.35 is left",
            0.7,
            float(overlaps[large, at[0.22]].max()) if large.any() else float("nan"),
            f"smaller networks keep more: {overlaps[0, at[0.22]]:.2f} for N = {sizes[0]}, whose transition is blurred",
        ),
        at_least(
            "The drop around 0.138 steepens with the size of the network",
            f"{AMIT}: discontinuous for large N",
            1.0,
            float((steepness[1:] / steepness[:-1]).min()),
            f"smallest ratio of successive slopes; overlap lost per load between 0.12 and 0.18: {shown}",
        ),
    )


def _claims_of_errors(
    size: int, loads: np.ndarray, step_errors: np.ndarray, rng: np.random.Generator
) -> tuple[Claim, ...]:
    """Claims about the units that flip, and about patterns in which no unit flips."""
    used = step_error(loads) > 1e-3
    relative = abs(step_errors[used] / step_error(loads[used]) - 1).max()

    def share_without_error(num_patterns: int, repetitions: int) -> float:
        stable = []
        for _ in range(repetitions):
            stored_NP = random_patterns(size, num_patterns, rng)
            stable.append((((store(stored_NP) @ stored_NP) * stored_NP) >= 0).all(axis=0).mean())
        return float(np.mean(stable))

    most, every = (round(size / (factor * np.log(size))) for factor in (2, 4))
    predicted = float(np.exp(-size * step_error(np.array((most - 1) / size))))
    return (
        near(
            "A unit of a stored pattern flips with probability ½ erfc(1/√(2α))",
            "Hertz, Krogh & Palmer (1991), section 2.2",
            0.0,
            float(relative),
            0.2,
            "largest relative difference, at loads with more than one wrong unit in a thousand; four standard errors "
            "at the smallest of them, where wrong units come in groups",
        ),
        near(
            "At P = N/(2 ln N) most patterns are free of errors",
            f"{MCELIECE}; exp(-N ½ erfc(1/√(2α))) for independent errors",
            predicted,
            share_without_error(most, 30),
            0.03,
            f"P = {most}; four standard errors for 30 draws, whose patterns are not independent",
        ),
        near(
            "At P = N/(4 ln N) all patterns are free of errors",
            MCELIECE,
            1.0,
            share_without_error(every, 30),
            0.005,
            f"P = {every}; the expected number of wrong units per memory is "
            f"{every * size * step_error(np.array((every - 1) / size)):.3f}",
        ),
    )


def draw(result: Capacity) -> Figure:
    """The overlap as a function of the load for every size, and the first errors."""
    figure, ((capacity, errors),) = new_figure(1, 2, panel_height=3.3, panel_width=4.0)
    capacity.plot(result.theory_loads, result.theory_overlaps, **THEORY, label="N → ∞ (theory)")
    capacity.axvline(critical_load()[0], **LIMIT)
    capacity.text(0.1365, 0.42, "load 0.138", rotation=90, ha="right", va="center", fontsize=9)
    for index, (size, curve) in enumerate(zip(result.sizes, result.overlaps, strict=True)):
        capacity.plot(result.loads, curve, **line(index, marker=True), label=f"N = {size}")
    capacity.set(xlabel=r"load $\alpha$ = P/N (patterns per unit)", ylabel="overlap after recall", ylim=(0, 1.05))
    capacity.legend(loc="lower left", fontsize=8.5)
    heading(capacity, "The larger the network, the sharper the drop")

    fine = np.linspace(0.02, result.loads.max(), 200)
    shown = result.step_errors > 0
    errors.semilogy(fine, step_error(fine), **THEORY, label=r"½ erfc$(1/\sqrt{2\alpha})$")
    errors.semilogy(result.loads[shown], result.step_errors[shown], **points(2), label=f"N = {result.sizes[-1]}")
    errors.set(xlabel=r"load $\alpha$ = P/N (patterns per unit)", ylabel="units wrong after one update (share)")
    errors.set(ylim=(1e-6, 0.1))
    errors.legend(loc="lower right", fontsize=8.5)
    heading(errors, "Crosstalk flips the first units")
    return figure


DEMONSTRATIONS = (Demonstration("hopfield_capacity", run, draw),)
