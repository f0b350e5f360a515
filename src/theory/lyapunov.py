"""Lyapunov functions of a linear system, a damped pendulum, and the continuous Hopfield network."""

from typing import Annotated, Any, NamedTuple

import numpy as np
from annotated_types import Ge
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp
from scipy.linalg import block_diag, solve_continuous_lyapunov

from src.theory.base import Claim, Demonstration
from src.theory.claims import at_least, at_most, near
from src.theory.figures import heading, line, wrapped

REPORT = "Wayman & Mathew, report, section 5.1.3"
ATTRACTORS = "Wayman & Mathew, report, section 5.2"
A = np.array([[-0.3, 4.0], [0.0, -0.5]])
"""A stable matrix that is far from normal, so that the distance from 0 first grows."""
DAMPING = 0.3
TIGHT: dict[str, Any] = {"method": "DOP853", "rtol": 1e-10, "atol": 1e-12}


class Functions(NamedTuple):
    """Trajectories, and the functions that decrease along them."""

    claims: tuple[Claim, ...]
    P: np.ndarray
    """The matrix of V = xᵀ P x for the linear system."""
    linear_times: np.ndarray
    linear: np.ndarray
    """Trajectory of the linear system, [T, 2]."""
    pendulum: np.ndarray
    """Angles and velocities of the pendulum, [T, starts, 2]."""
    network_times: np.ndarray
    symmetric: np.ndarray
    """Energies of the continuous Hopfield network with symmetric weights, [T, starts]."""
    asymmetric: np.ndarray
    """Energies with asymmetric weights, [T, starts]."""


def pendulum_energy(angle: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """V = ½ ω² + 1 - cos θ."""
    return 0.5 * velocity**2 + 1 - np.cos(angle)


def swing(starts_S2: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Solve θ' = ω, ω' = -sin θ - c ω from many starts, [T, S, 2]."""

    def rates(_: float, z: np.ndarray) -> np.ndarray:
        angle, velocity = z.reshape(2, -1)
        return np.concatenate([velocity, -np.sin(angle) - DAMPING * velocity])

    y = solve_ivp(rates, (0, times[-1]), starts_S2.T.ravel(), t_eval=times, **TIGHT).y
    return y.reshape(2, len(starts_S2), -1).transpose(2, 1, 0)


def network_energy(T_NN: np.ndarray, input_N: np.ndarray, u: np.ndarray) -> np.ndarray:
    """E = -½ vᵀTv - Iᵀv + Σ ∫_0^v artanh, v = tanh u; the integral is v artanh v + ½ ln(1 - v²)."""
    v = np.tanh(u)
    stored = -0.5 * np.einsum("...i,ij,...j", v, T_NN, v) - v @ input_N
    return stored + (v * u + 0.5 * np.log1p(-(v**2))).sum(-1)


def relax(T_NN: np.ndarray, input_N: np.ndarray, u_SN: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Solve u' = -u + T tanh(u) + I from many starts, [T, S, N]."""

    def rates(_: float, z: np.ndarray) -> np.ndarray:
        u = z.reshape(u_SN.shape)
        return (-u + np.tanh(u) @ T_NN.T + input_N).ravel()

    return solve_ivp(rates, (0, times[-1]), u_SN.ravel(), t_eval=times, **TIGHT).y.T.reshape(-1, *u_SN.shape)


def run(starts: Annotated[int, Ge(4)] = 1000, network_size: Annotated[int, Ge(2)] = 8, seed: int = 0) -> Functions:
    """Follow each function along trajectories from many starts; four trajectories of the pendulum are plotted."""
    rng = np.random.default_rng(seed)
    P = solve_continuous_lyapunov(A.T, -np.eye(2))
    linear_times = np.linspace(0, 20, 401)
    linear = solve_ivp(lambda _, x: A @ x, (0, 20), [0.0, 1.0], t_eval=linear_times, **TIGHT).y.T

    pendulum, pendulum_claims = _pendulum(starts, rng)
    symmetric_NN = rng.standard_normal((network_size, network_size))
    symmetric_NN = 1.2 * (symmetric_NN + symmetric_NN.T) / np.sqrt(2 * network_size) * 2
    pairs, alone = divmod(network_size, 2)
    asymmetric_NN = block_diag(*[[[2.0, -2.0], [2.0, 2.0]]] * pairs, np.zeros((alone, alone)))
    input_N = 0.2 * rng.standard_normal(network_size)
    u_SN = rng.standard_normal((20, network_size))
    network_times = np.linspace(0, 60, 601)
    paths_TSN = relax(symmetric_NN, input_N, u_SN, network_times)
    symmetric = network_energy(symmetric_NN, input_N, paths_TSN)
    rotating_TSN = relax(asymmetric_NN, 0 * input_N, u_SN, network_times)
    asymmetric = network_energy(asymmetric_NN, 0 * input_N, rotating_TSN)
    claims = (
        *_claims_of_the_linear_system(P, linear_times, linear),
        *pendulum_claims,
        *_claims_of_the_network(symmetric_NN, input_N, paths_TSN, symmetric, asymmetric),
    )
    return Functions(claims, P, linear_times, linear, pendulum, network_times, symmetric, asymmetric)


def _claims_of_the_linear_system(P: np.ndarray, times: np.ndarray, path_T2: np.ndarray) -> tuple[Claim, ...]:
    """Claims about V = xᵀPx with AᵀP + PA = -I."""
    V = np.einsum("ti,ij,tj->t", path_T2, P, path_T2)
    along = np.trapezoid((path_T2**2).sum(1), times)
    unstable = solve_continuous_lyapunov(-A.T, -np.eye(2))
    return (
        at_least(
            "AᵀP + PA = -I has a positive definite solution if A is stable",
            "Lyapunov's theorem; Khalil (2002), theorem 4.6",
            0.0,
            float(np.linalg.eigvalsh(P).min()),
            "smallest eigenvalue of P",
        ),
        at_most(
            "AᵀP + PA = -I has no positive definite solution if A is unstable",
            "Lyapunov's theorem; Khalil (2002), theorem 4.6",
            0.0,
            float(np.linalg.eigvalsh(unstable).min()),
            "smallest eigenvalue of P for -A",
        ),
        at_most(
            "V = xᵀPx never rises, while the distance from 0 first grows",
            REPORT,
            0.0,
            float(np.diff(V).max()),
            f"largest change of V; ‖x‖ rises to {np.linalg.norm(path_T2, axis=1).max():.1f} times its start",
        ),
        near(
            "V = xᵀPx falls at the rate ‖x‖²: V(0) is the integral of ‖x‖² along the trajectory",
            "V' = xᵀ(AᵀP + PA)x = -‖x‖²",
            float(V[0] - V[-1]),
            float(along),
            2e-3,
            "trapezoidal rule with steps of 0.05",
        ),
    )


def _pendulum(starts: int, rng: np.random.Generator) -> tuple[np.ndarray, tuple[Claim, ...]]:
    """Trajectories from the compact set {V ≤ 1.9, |θ| < π} and from outside it, and claims about them."""
    times = np.linspace(0, 120, 601)
    candidates = rng.uniform([-np.pi, -2.3], [np.pi, 2.3], (8 * starts, 2))
    values = pendulum_energy(*candidates.T)
    inside = candidates[values <= 1.9][:starts]
    beyond = candidates[values > 2.1][:starts]
    paths, outer = swing(inside, times), swing(beyond, times)
    V = pendulum_energy(paths[..., 0], paths[..., 1])
    V_outer = pendulum_energy(outer[..., 0], outer[..., 1])
    # once V has fallen to a level, it never rises above it again
    crossed = np.maximum.accumulate(V_outer <= 1.0, axis=0)
    elsewhere = np.abs(outer[-1, :, 0]) > np.pi
    claims = (
        at_most(
            "Along a damped pendulum V = ½ω² + 1 - cos θ never rises",
            f"{REPORT}, theorem 5.6; V' = -cω² ≤ 0",
            1e-9,
            float(np.diff(V, axis=0).max()),
            f"error of the integrator; largest change along {len(inside)} trajectories",
        ),
        at_most(
            "Every start in the compact set {V ≤ 1.9, |θ| < π} comes to rest at 0, although V' = 0 wherever ω = 0",
            "LaSalle's invariance principle; Khalil (2002), theorem 4.4",
            1e-6,
            float(np.linalg.norm(paths[-1], axis=1).max()),
            f"largest distance at t = 120 of {len(inside)} starts; e^(-ct/2) is 1.5e-8",
        ),
        at_least(
            "The set must be compact and within the neighborhood: from V > 2.1, where the level sets are unbounded, "
            "some starts end at another equilibrium",
            "the saddles at θ = ±π have V = 2",
            0.05,
            float(elsewhere.mean()),
            f"share of {len(beyond)} starts",
            refuted=f"the sets {{x ∈ U : V(x) ≤ c}} are in the basin of attraction ({ATTRACTORS}): only if compact",
        ),
        at_most(
            "Once V ≤ c, the state stays in the set {V ≤ c}",
            f"{REPORT}: the report's first correction of Haykin (2009), p. 683",
            1.0,
            float(V_outer[crossed].max()),
            "largest V after V ≤ 1 was first reached",
        ),
        at_least(
            "Near the equilibrium it is V that is positive, and V' that is not",
            f"{REPORT}, theorems 5.6 and 5.7",
            0.0,
            float(pendulum_energy(*inside.T).min()),
            f"smallest V of {len(inside)} random states",
            refuted=f"a neighborhood “where V(x) is negative definite” ({ATTRACTORS})",
        ),
    )
    return np.concatenate([paths[:, :4], outer[:, elsewhere][:, :2]], axis=1), claims


def _claims_of_the_network(
    T_NN: np.ndarray, input_N: np.ndarray, paths_TSN: np.ndarray, symmetric: np.ndarray, asymmetric: np.ndarray
) -> tuple[Claim, ...]:
    """Claims about the energy of Hopfield's network of graded units."""
    u = paths_TSN[5]
    rates = -u + np.tanh(u) @ T_NN.T + input_N
    predicted = -((1 - np.tanh(u) ** 2) * rates**2).sum(-1)
    step = 1e-5
    ahead, behind = (network_energy(T_NN, input_N, u + sign * step * rates) for sign in (1, -1))
    speeds = np.linalg.norm(-paths_TSN[-1] + np.tanh(paths_TSN[-1]) @ T_NN.T + input_N, axis=1)
    return (
        at_most(
            "The energy of the continuous Hopfield network never rises if its weights are symmetric",
            "Hopfield (1984); Cohen & Grossberg (1983)",
            1e-9,
            float(np.diff(symmetric, axis=0).max()),
            f"error of the integrator; largest change along {symmetric.shape[1]} trajectories",
        ),
        near(
            "The energy of the continuous Hopfield network falls at the rate Σ (1 - v_i²) u_i'²",
            "Hopfield (1984), equation 8",
            0.0,
            float(abs((ahead - behind) / (2 * step) - predicted).max()),
            1e-6,
            "error of the difference quotient",
        ),
        at_most(
            "A strict decrease makes trajectories converge: every start ends at an equilibrium",
            f"{REPORT}: the report's second correction of Haykin (2009), p. 683",
            1e-3,
            float(speeds.max()),
            "largest speed at t = 60",
        ),
        at_least(
            "With asymmetric weights the same function rises and falls, along limit cycles",
            "the proof needs T_ij = T_ji",
            0.1,
            float(np.diff(asymmetric[400:], axis=0).clip(min=0).sum(0).min()),
            "smallest sum of all rises in the last third",
        ),
    )


def draw(result: Functions) -> Figure:
    """Level sets with trajectories, and energies over time."""
    figure, (linear, pendulum, network) = wrapped(3, panel_height=3.2)
    x, y = np.meshgrid(np.linspace(-1, 5, 200), np.linspace(-1.5, 1.5, 200))
    V = result.P[0, 0] * x**2 + 2 * result.P[0, 1] * x * y + result.P[1, 1] * y**2
    linear.contour(x, y, V, levels=np.array([2, 8, 18, 32, 50]), colors="0.6", linewidths=1)
    linear.plot(*result.linear.T, **line(2))
    linear.plot(*result.linear[0], "o", color=line(2)["color"])
    linear.plot(0, 0, "k+", markersize=9)
    linear.set(xlabel="$x_1$", ylabel="$x_2$")
    heading(linear, "The level of V falls, ‖x‖ does not")

    angle, velocity = np.meshgrid(np.linspace(-np.pi, 3 * np.pi, 400), np.linspace(-2.6, 2.9, 200))
    V = pendulum_energy(angle, velocity)
    inside = np.where(abs(angle) < np.pi, V, np.nan)
    pendulum.contourf(angle, velocity, inside, levels=[0, 1.9], colors=["0.85"])
    pendulum.contour(angle, velocity, V, levels=[0.5, 1.9], colors="0.5", linewidths=0.8)
    pendulum.contour(angle, velocity, V, levels=[2.1, 3.0], colors="0.5", linewidths=0.8, linestyles="--")
    for index in (0, 1, 2):
        pendulum.plot(*result.pendulum[:, index].T, **line(1) | {"linewidth": 0.9, "linestyle": "-"})
    leaving = [i for i in range(4, result.pendulum.shape[1]) if result.pendulum[-1, i, 0] > np.pi]
    for index in leaving[:1]:
        pendulum.plot(*result.pendulum[:, index].T, **line(2) | {"linestyle": "--", "linewidth": 1.3})
    pendulum.plot([0, 2 * np.pi], [0, 0], "ko", markersize=5)
    pendulum.set(xticks=[0, np.pi, 2 * np.pi], xticklabels=["0", "π", "2π"], xlabel="angle θ (radians)")
    pendulum.set(ylabel="velocity ω (radians per unit time)", xlim=(-np.pi, 3 * np.pi), ylim=(-2.6, 2.9))
    heading(pendulum, "From the compact set (gray) all go to 0")

    network.plot(result.network_times, result.symmetric, color="0.65", linewidth=0.8)
    network.plot(result.network_times, result.symmetric[:, 0], **line(0), label="symmetric")
    network.plot(result.network_times, result.asymmetric[:, 0], **line(2), label="asymmetric")
    network.set(xlabel="time", ylabel="energy of the network")
    network.legend(loc="upper right", fontsize=8.5)
    network.set_xlim(0, 15)
    heading(network, "Continuous Hopfield network")
    return figure


DEMONSTRATIONS = (Demonstration("lyapunov_functions", run, draw),)
