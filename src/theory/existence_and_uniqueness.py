"""Existence and uniqueness of solutions of x' = F(x): what continuity and the Lipschitz condition guarantee."""

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp

from src.theory.base import Claim, Demonstration
from src.theory.claims import at_least, near
from src.theory.figures import LIMIT, THEORY, heading, line, points, wrapped

REPORT = "Wayman & Mathew, report, section 5.1"
TEXTBOOK = "Hirsch, Smale & Devaney (2013), chapter 7"


class Solutions(NamedTuple):
    """Many solutions from one initial value, an unbounded derivative, and solutions that end in finite time."""

    claims: tuple[Claim, ...]
    times: np.ndarray
    delays: tuple[float, ...]
    places: np.ndarray
    """Points at which x² sin(1/x²) is differentiated numerically."""
    slopes: np.ndarray
    blow_up_times: tuple[np.ndarray, ...]
    blow_up_states: tuple[np.ndarray, ...]


def delayed_parabola(times: np.ndarray, delay: float) -> np.ndarray:
    """A solution of x' = √|x| with x(0) = 0 that leaves 0 after the delay s: 0 until t = s, then (t - s)²/4."""
    return np.maximum(times - delay, 0) ** 2 / 4


def wild(x: np.ndarray) -> np.ndarray:
    """F(x) = x² sin(1/x²) with F(0) = 0, which has a finite derivative everywhere."""
    return x**2 * np.sin(1 / x**2)


def blow_up(start: float, limit: float = 1e8) -> tuple[np.ndarray, np.ndarray]:
    """Solve x' = x² until x reaches the limit; the times and the states."""

    def at_limit(_: float, x: np.ndarray) -> float:
        return float(x[0] - limit)

    at_limit.terminal = True  # type: ignore[attr-defined]
    solution = solve_ivp(
        lambda _, x: x**2, (0, 2 / start), [start], events=at_limit, rtol=1e-11, atol=1e-12, method="DOP853"
    )
    return solution.t, solution.y[0]


def run() -> Solutions:
    """Check that the counterexamples have the properties claimed of them."""
    times = np.linspace(0, 6, 601)
    delays = (0.0, 1.0, 2.0, 3.0)
    residual = 0.0
    for delay in delays:
        rate = np.maximum(times - delay, 0) / 2  # the derivative of the delayed parabola
        residual = max(residual, float(abs(rate - np.sqrt(delayed_parabola(times, delay))).max()))
    rest = solve_ivp(lambda _, x: np.sqrt(abs(x)), (0, 6), [0.0], rtol=1e-9).y[0]
    nudged = solve_ivp(lambda _, x: np.sqrt(abs(x)), (0, 6), [1e-12], rtol=1e-10, atol=1e-16).y[0]

    places = 1 / np.sqrt(np.pi * np.arange(1, 2001))  # |cos(1/x²)| = 1
    step = 1e-7 * places**3  # small compared with the distance between neighboring extrema
    quotients = (wild(places + step) - wild(places - step)) / (2 * step)
    ends = [blow_up(start) for start in (0.5, 1.0, 2.0)]
    claims = (
        near(
            "x' = √|x| with x(0) = 0 is solved by x ≡ 0 and by every delayed parabola (t - s)²/4",
            f"{TEXTBOOK}: the right-hand side is continuous, but its slope at 0 is infinite",
            0.0,
            residual,
            1e-12,
            "rounding; largest |x' - √|x|| over four delays",
        ),
        near(
            "Solutions of x' = √|x| part at 0: an integrator started there stays, one started at 1e-12 reaches t²/4",
            "t²/4 at t = 6, and 0",
            9.0,
            float(nudged[-1] - rest[-1]),
            1e-4,
            "from 1e-12 the solution is (t + 2e-6)²/4",
        ),
        at_least(
            "Finite partial derivatives do not make F Lipschitz: that of x² sin(1/x²) is finite everywhere, "
            "but its difference quotients are unbounded near 0",
            f"{TEXTBOOK}: continuous derivatives make F Lipschitz on compact sets",
            100.0,
            float(abs(quotients).max()),
            f"largest quotient, at x = {places[-1]:.4f}; no constant is enough",
            refuted="if all partial derivatives “are finite everywhere”, then F “satisfies the Lipschitz condition”",
        ),
        near(
            "Near 0 the difference quotients of x² sin(1/x²) grow like 2/x",
            "F'(x) = 2x sin(1/x²) - (2/x) cos(1/x²)",
            -1.0,
            float(np.polyfit(np.log(places[100:]), np.log(abs(quotients[100:])), 1)[0]),
            0.01,
            "slope on log axes; error of the difference quotient",
        ),
        near(
            "x² is only locally Lipschitz: x' = x² from x(0) = 1 is infinite at t = 1",
            f"{TEXTBOOK}: x = x(0)/(1 - x(0) t)",
            1.0,
            float(ends[1][0][-1]),
            1e-7,
            "the integration stops at x = 1e8, 1e-8 before the end",
        ),
        *_claims_of_the_equation(),
    )
    return Solutions(
        claims,
        times,
        delays,
        places,
        abs(quotients),
        tuple(t for t, _ in ends),
        tuple(x for _, x in ends),
    )


def _claims_of_the_equation() -> tuple[Claim, ...]:
    """Claims about nonautonomous systems, coupled components, and the meaning of linearity."""
    tight = {"rtol": 1e-11, "atol": 1e-13}
    times = np.linspace(0, 2, 201)
    residual = float(abs(times**3 - 2 * times * np.sqrt(times**4 / 4)).max())
    # √x = t²/2 + √x(0)
    extended = solve_ivp(lambda _, z: [2 * z[1] * np.sqrt(abs(z[0])), 1.0], (0, 2), [1e-6, 0.0], **tight).y[0, -1]
    rotated = solve_ivp(lambda _, x: [x[1], -x[0]], (0, np.pi / 2), [1.0, 0.0], **tight).y[:, -1]
    u_2, v_2 = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    return (
        near(
            "A nonautonomous system is an autonomous one with time as an additional state, so continuity gives "
            "local existence there as well: x' = 2t √|x| with x(0) = 0, not Lipschitz, is solved by x = t⁴/4 (and 0)",
            "Peano's theorem; separation of variables",
            0.0,
            max(residual, float(abs(extended - 2.001**2))),
            1e-9,
            "rounding in x' - 2t √|x|, and the error of the integrator with the additional state, from x(0) = 1e-6",
            refuted="continuity is sufficient for existence but “this is not true for nonautonomous systems”",
        ),
        near(
            "The rate of a component depends on the whole state, x_j' = F_j(x): x_1' = x_2, x_2' = -x_1 takes (1, 0) "
            "to (0, -1) in a quarter of a turn",
            REPORT,
            0.0,
            float(abs(rotated - [0.0, -1.0]).max()),
            1e-9,
            "error of the integrator",
            refuted="x_j' = F_j(x_j), “each element depending on the corresponding element of x”: the second component "
            "would then stay at 0, where it started with x_2' = F_2(0), whatever the first one is",
        ),
        near(
            "Linear means superposition: x_1 x_2 has only first powers, yet F(u + v) - F(u) - F(v) = u_1 v_2 + u_2 v_1",
            f"{REPORT}; e.g. Strang (2016), section 8.1",
            10.0,
            float(np.prod(u_2 + v_2) - np.prod(u_2) - np.prod(v_2)),
            0.0,
            "exact, for u = (1, 2), v = (3, 4); a linear F gives 0",
            refuted="a system is linear if “the exponents of x_j are to the first power only”",
        ),
    )


def draw(result: Solutions) -> Figure:
    """Solutions that are not unique, an unbounded slope, and solutions that end in finite time."""
    figure, (many, slopes, end) = wrapped(3)
    for index, delay in enumerate(result.delays):
        many.plot(result.times, delayed_parabola(result.times, delay), **line(index), label=f"waits until {delay:g}")
    many.axhline(0, color="black", linewidth=3, alpha=0.4, label="waits forever")
    many.set(xlabel="time t", ylabel="x(t)", ylim=(-0.4, 9))
    many.legend(loc="upper left", fontsize=8.5)
    heading(many, r"$x'=\sqrt{|x|}$: all of these start at 0")

    slopes.loglog(result.places, 2 / result.places, **THEORY, label="2/x")
    shown = np.unique(np.geomspace(1, len(result.places), 25).astype(int)) - 1
    slopes.loglog(result.places[shown], result.slopes[shown], **points(0), label="|F′(x)|")
    slopes.set(xlabel="x", ylabel="local Lipschitz constant")
    slopes.set_xticks([0.02, 0.1, 0.5], ["0.02", "0.1", "0.5"])
    slopes.set_xticks([], minor=True)
    slopes.legend(loc="upper right")
    heading(slopes, r"$F=x^2\,\sin(1/x^2)$: finite, not bounded")

    for index, (times, states) in enumerate(zip(result.blow_up_times, result.blow_up_states, strict=True)):
        end.semilogy(times, states, **line(index), label=f"x(0) = {states[0]:g}")
        end.axvline(1 / states[0], **LIMIT)
    end.set(xlabel="time t (dotted: 1/x(0))", ylabel="x(t)", xlim=(0, 3.3), ylim=(0.3, 1e6))
    end.legend(loc="upper right", fontsize=8.5)
    heading(end, "$x'=x^2$ ends in finite time")
    return figure


DEMONSTRATIONS = (Demonstration("existence_and_uniqueness", run, draw),)
