"""Stability of equilibria: what the eigenvalues of the linearization decide, what they leave open, and definitions."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import numpy as np
from annotated_types import Gt
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp
from scipy.optimize import root

from src.theory.base import Claim, Demonstration
from src.theory.claims import at_most, near
from src.theory.figures import LIMIT, THEORY, heading, line, new_figure

DEFINITIONS = "Wayman & Mathew, report, section 5.1.2"
HARTMAN = "theorem of Hartman and Grobman; Strogatz (2015), section 6.3"
W = np.array([[1.8, 0.3], [-0.2, 1.7]])
TIGHT: dict[str, Any] = {"method": "DOP853", "rtol": 1e-11, "atol": 1e-14}
INVERTIBLE = "the eigenvalues of J determine the behavior if J is invertible; the condition is that no real part is 0"


class Stability(NamedTuple):
    """Distances from an equilibrium, and trajectories, over time."""

    claims: tuple[Claim, ...]
    times: np.ndarray
    distances: np.ndarray
    decay_rate: float
    """Decay rate of the flow at its equilibrium: minus the largest real part of the eigenvalues."""
    slow_times: np.ndarray
    radii: dict[str, np.ndarray]
    """Radii of the system with a center and cubic terms, by the sign of these terms."""
    homoclinic: np.ndarray
    """Positions of the system with a homoclinic orbit, [T, 2]."""
    frozen_times: np.ndarray
    frozen: np.ndarray
    """Norm of the state of a nonautonomous system whose eigenvalues are stable at every instant."""


def flow(_: float, x: np.ndarray) -> np.ndarray:
    """x' = -x + tanh(W x)."""
    return -x + np.tanh(W @ x)


def jacobian(x: np.ndarray) -> np.ndarray:
    """The Jacobian of `flow`, -I + diag(1 - tanh²(W x)) W."""
    return -np.eye(2) + (1 - np.tanh(W @ x) ** 2)[:, None] * W


def center(sign: float) -> Callable[[float, np.ndarray], np.ndarray]:
    """A rotation with r' = ± r³; for either sign its Jacobian at 0 equals the Jacobian of the rotation alone."""
    return lambda _, x: np.array([x[1], -x[0]]) + sign * (x @ x) * x


def markus_yamabe(t: float) -> np.ndarray:
    """A matrix with eigenvalues (-1 ± i√7)/4 at all times, although x' = A(t) x has a growing solution."""
    c, s = np.cos(t), np.sin(t)
    return np.array([[-1 + 1.5 * c * c, 1 - 1.5 * s * c], [-1 - 1.5 * s * c, -1 + 1.5 * s * s]])


def homoclinic(_: float, x: np.ndarray) -> np.ndarray:
    """r' = r (1 - r), θ' = 1 - cos θ: all states but 0 converge to (1, 0), those just past it after a full turn."""
    r = np.hypot(*x)
    angular_speed = 1 - x[0] / r
    return (1 - r) * x + angular_speed * np.array([-x[1], x[0]])


def run(start_distance: Annotated[float, Gt(0)] = 1e-4) -> Stability:
    """Measure decay rates at hyperbolic equilibria, and follow systems whose linearization is inconclusive."""
    equilibrium = root(lambda x: flow(0, x), [0.9, 0.8], tol=1e-14).x
    rate = float(-np.linalg.eigvals(jacobian(equilibrium)).real.max())
    times = np.linspace(0, 30, 121)
    start = equilibrium + start_distance * np.array([1.0, 0.5])
    solution = solve_ivp(flow, (0, times[-1]), start, t_eval=times, **TIGHT)
    distances = np.linalg.norm(solution.y.T - equilibrium, axis=1)
    late = times > 18

    slow_times = np.linspace(0, 40, 401)
    radii = {}
    for name, sign, until in (("−", -1.0, 401), ("+", 1.0, 121)):
        path = solve_ivp(center(sign), (0, slow_times[until - 1]), [0.2, 0], t_eval=slow_times[:until], **TIGHT)
        radii[name] = np.linalg.norm(path.y, axis=0)
    turn = solve_ivp(homoclinic, (0, 4000), [np.cos(0.02), np.sin(0.02)], **TIGHT)
    frozen_times = np.linspace(0, 10, 201)
    frozen = solve_ivp(lambda t, x: markus_yamabe(t) @ x, (0, 10), [-1.0, 0.0], t_eval=frozen_times, **TIGHT)
    claims = (
        near(
            "Near a hyperbolic equilibrium of x' = -x + tanh(Wx) the distance decays at the rate of the largest "
            "real part of an eigenvalue",
            HARTMAN,
            -rate,
            float(np.polyfit(times[late], np.log(distances[late]), 1)[0]),
            0.01 * rate,
            "slope of the logarithm of the distance; 1 %: the faster eigendirection has not quite died out",
        ),
        *_claims_of_the_map(),
        *_claims_of_inconclusive_systems(slow_times, radii),
        *_claims_of_nonautonomous_systems(frozen_times, np.linalg.norm(frozen.y, axis=0)),
        *_claims_of_definitions(turn.t, turn.y.T),
    )
    return Stability(
        claims, times, distances, rate, slow_times, radii, turn.y.T, frozen_times, np.linalg.norm(frozen.y, axis=0)
    )


def _claims_of_the_map() -> tuple[Claim, ...]:
    """Claims about the same network in discrete time."""
    fixed = np.array([0.9, 0.8])
    for _ in range(200):
        fixed = np.tanh(W @ fixed)
    J = (1 - fixed**2)[:, None] * W
    h = fixed + np.array([1e-4, 5e-5])
    distances = []
    for _ in range(24):
        h = np.tanh(W @ h)
        distances.append(np.linalg.norm(h - fixed))
    largest = float(np.log(abs(np.linalg.eigvals(J)).max()))
    return (
        near(
            "At a fixed point of the map h ← tanh(Wh) the distance shrinks by the largest |eigenvalue| per step",
            f"{HARTMAN}, for maps",
            largest,
            float(np.polyfit(np.arange(8, 24), np.log(distances[8:]), 1)[0]),
            0.01 * abs(largest),
            "slope of the logarithm, over steps 8 to 24; 1 % as above",
        ),
    )


def _claims_of_inconclusive_systems(times: np.ndarray, radii: dict[str, np.ndarray]) -> tuple[Claim, ...]:
    """Claims about equilibria with an eigenvalue on the imaginary axis."""
    start = 0.2
    stable = solve_ivp(lambda _, x: -(x**3), (0, 100), [1.0], **TIGHT).y[0, -1]
    unstable = solve_ivp(lambda _, x: x**3, (0, 0.4999), [1.0], **TIGHT).y[0, -1]
    inward = start / np.sqrt(1 + 2 * start**2 * times)
    outward = start / np.sqrt(1 - 2 * start**2 * times[: len(radii["+"])])
    return (
        near(
            "x' = -x³ has Jacobian 0 at its equilibrium, which is stable: x = x(0)/√(1 + 2 x(0)² t)",
            "separation of variables",
            1 / np.sqrt(201),
            float(stable),
            1e-9,
            "error of the integrator, at t = 100",
        ),
        near(
            "x' = +x³ has the same Jacobian, but its solutions leave: x = x(0)/√(1 - 2 x(0)² t), infinite at t = 1/2",
            "separation of variables",
            1 / np.sqrt(1 - 0.9998),
            float(unstable),
            1e-4,
            "error of the integrator near the singularity, at t = 0.4999",
        ),
        near(
            "A rotation with -r²x added is asymptotically stable, although its linearization is not",
            "r' = -r³",
            0.0,
            float(abs(radii["−"] - inward).max()),
            1e-8,
            "error of the integrator",
            refuted=INVERTIBLE,
        ),
        near(
            "A rotation with +r²x added is unstable: both Jacobians are that of the rotation, invertible, with "
            "eigenvalues ±i, which are inconclusive",
            f"r' = r³; {HARTMAN} requires that no real part is zero",
            0.0,
            float(abs(radii["+"] - outward).max()),
            1e-6,
            "error of the integrator",
            refuted=INVERTIBLE,
        ),
    )


def _claims_of_nonautonomous_systems(times: np.ndarray, sizes: np.ndarray) -> tuple[Claim, ...]:
    """Claims about the linearization along a driven trajectory, and about the eigenvalue test."""

    def driven(t: float, x: np.ndarray) -> np.ndarray:
        return flow(t, x) + 0.5 * np.array([np.sin(2 * t), np.cos(3 * t)])

    def with_tangent(t: float, z: np.ndarray) -> np.ndarray:
        return np.concatenate([driven(t, z[:2]), jacobian(z[:2]) @ z[2:]])

    start, offset, end = np.array([0.1, -0.2]), np.array([1e-6, -2e-6]), (0, 3.0)
    tangent = solve_ivp(with_tangent, end, np.concatenate([start, offset]), **TIGHT).y[:, -1]
    neighbor = solve_ivp(driven, end, start + offset, **TIGHT).y[:, -1]
    error = np.linalg.norm(neighbor - tangent[:2] - tangent[2:]) / np.linalg.norm(tangent[2:])
    eigenvalues = np.array([np.linalg.eigvals(markus_yamabe(t)).real.max() for t in times])
    return (
        near(
            "A nonautonomous system can be linearized along its trajectory: δ' = J(x(t), t) δ predicts a neighbor",
            "variational equation; Hirsch, Smale & Devaney (2013), section 7.4",
            0.0,
            float(error),
            1e-4,
            "relative; second-order terms, for a distance of 2e-6 that has grown",
            refuted="“the above linearization is not possible for nonautonomous systems”",
        ),
        near(
            "Markus and Yamabe's A(t) has the eigenvalues (-1 ± i√7)/4, all stable, at all times",
            "Markus & Yamabe (1960); Khalil (2002), example 4.22",
            -0.25,
            float(eigenvalues.max()),
            1e-9,
            "rounding; the largest real part",
        ),
        near(
            "Yet a solution of x' = A(t) x grows like e^(t/2): the eigenvalue test fails",
            "Markus & Yamabe (1960); Khalil (2002), example 4.22",
            0.5,
            float(np.polyfit(times, np.log(sizes), 1)[0]),
            1e-6,
            "error of the integrator; slope of the logarithm",
        ),
    )


def _claims_of_definitions(times: np.ndarray, path_T2: np.ndarray) -> tuple[Claim, ...]:
    """Claims about stable, convergent and uniformly stable equilibria."""
    distances = np.linalg.norm(path_T2 - [1.0, 0.0], axis=1)
    left = solve_ivp(lambda _, x: x, (0, 10), [1e-3], **TIGHT).y[0, -1]
    early = solve_ivp(flow, (0, 5), [0.3, 0.1], **TIGHT).y[:, -1]
    later = solve_ivp(flow, (7, 12), [0.3, 0.1], **TIGHT).y[:, -1]
    # cot(θ/2) decreases by t in time t, so the angle left at the end is about 2/t
    remaining = 2 * np.sin(0.5 * 2 * np.arctan(1 / (times[-1] - 1 / np.tan(0.01))))
    return (
        near(
            "Stable means close at all times t ≥ 0: x' = x meets the condition at t = 0, with any δ ≤ ε, but leaves",
            "Khalil (2002), definition 4.1",
            1e-3 * np.exp(10),
            float(left),
            1e-6,
            "error of the integrator; the state at t = 10 from 0.001",
            refuted=f"definition 5.2 ({DEFINITIONS}) does not say for which t",
        )._replace(reading=True),
        near(
            "Convergent does not imply stable: on the ring with a homoclinic orbit a start 0.02 from the equilibrium "
            "first moves 2 away",
            "diameter of the ring; Strogatz (2015), section 5.1",
            2.0,
            float(distances.max()),
            1e-3,
            "how close the integrator's steps come to the opposite point",
        ),
        near(
            "After that turn the state returns: the equilibrium attracts it",
            "cot(θ/2) = cot(θ(0)/2) - t, from θ' = 1 - cos θ",
            abs(float(remaining)),
            float(distances[-1]),
            1e-6,
            f"error of the integrator, at t = {times[-1]:.0f}",
        ),
        at_most(
            "For autonomous systems Lyapunov stability and uniform stability are the same: only the time since the "
            "start matters",
            "x(t + s) solves x' = F(x) if x(t) does",
            1e-12,
            float(abs(early - later).max()),
            "rounding; difference between starts at t = 0 and t = 7",
        ),
    )


def draw(result: Stability) -> Figure:
    """The decay rate at a hyperbolic equilibrium, and three systems whose eigenvalues do not decide stability."""
    figure, ((rate, undecided), (ring, frozen)) = new_figure(2, 2, panel_height=2.7)
    predicted = result.distances[-1] * np.exp(-result.decay_rate * (result.times - result.times[-1]))
    rate.semilogy(result.times, predicted, **THEORY, label=r"slope max Re $\lambda$")
    rate.semilogy(result.times, result.distances, **line(0), label="distance")
    rate.set(xlabel="time", ylabel="distance from equilibrium")
    rate.legend(loc="upper right", fontsize=8.5)
    heading(rate, "Hyperbolic: the eigenvalue decides")

    for index, (name, radius) in enumerate(result.radii.items()):
        undecided.plot(result.slow_times[: len(radius)], radius, **line(index + 1), label=f"rotation {name} r²x")
    undecided.set(xlabel="time", ylabel="radius", ylim=(0, 1))
    undecided.legend(loc="upper right", fontsize=8.5)
    heading(undecided, "Eigenvalues ±i: inconclusive")

    ring.plot(*result.homoclinic.T, **line(0))
    ring.plot(1, 0, "o", color="black", markersize=7)
    ring.annotate("start", result.homoclinic[0], (0.35, 0.25), arrowprops={"arrowstyle": "->"}, fontsize=9)
    ring.annotate("attracts all, unstable", (1, 0), (-0.75, -0.28), arrowprops={"arrowstyle": "->"}, fontsize=9)
    ring.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    heading(ring, "Convergent but not stable")

    frozen.semilogy(result.frozen_times, np.exp(result.frozen_times / 2), **THEORY, label=r"$e^{t/2}$")
    frozen.semilogy(result.frozen_times, result.frozen, **line(0), label="size of the state")
    frozen.semilogy(result.frozen_times, np.exp(-result.frozen_times / 4), **LIMIT, label=r"Re $\lambda$ = −1/4")
    frozen.set(xlabel="time", ylabel="‖x(t)‖")
    frozen.legend(loc="upper left", fontsize=8.5)
    heading(frozen, "Nonautonomous: eigenvalues mislead")
    return figure


DEMONSTRATIONS = (Demonstration("stability", run, draw),)
