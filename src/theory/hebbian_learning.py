"""Hebb's rule as a differential equation, dW/dt = W C: growth, discretization, and comparison with Oja's rule.

Shapes: M outputs, N inputs, T times.
"""

from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Ge, Gt
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from src.theory.base import Claim, Demonstration
from src.theory.claims import at_least, near
from src.theory.figures import THEORY, heading, line, points, wrapped

REPORT = "Wayman & Mathew, report, section 4.1"


class Growth(NamedTuple):
    """The weights under Hebb's and Oja's rules over time, and the error of Euler steps."""

    claims: tuple[Claim, ...]
    times: np.ndarray
    hebb_norm: np.ndarray
    oja_norm: np.ndarray
    hebb_alignment: np.ndarray
    """|cosine| of the first row of W with the leading eigenvector of C."""
    oja_alignment: np.ndarray
    largest_eigenvalue: float
    steps: np.ndarray
    euler_error: np.ndarray


def covariance(eigenvalues: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A symmetric matrix with these eigenvalues, and its eigenvectors as columns in the same order."""
    q_NN, _ = np.linalg.qr(rng.standard_normal((len(eigenvalues), len(eigenvalues))))
    return (q_NN * eigenvalues) @ q_NN.T, q_NN


def hebb_flow(W_MN: np.ndarray, C_NN: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Solve dW/dt = W C with an adaptive integrator, [T, M, N]."""
    solution = solve_ivp(
        lambda _, w: (w.reshape(W_MN.shape) @ C_NN).ravel(),
        (0, times[-1]), W_MN.ravel(), method="DOP853", t_eval=times, rtol=1e-12, atol=1e-14,
    )  # fmt: skip
    return solution.y.T.reshape(-1, *W_MN.shape)


def hebb_euler(W_MN: np.ndarray, C_NN: np.ndarray, rate: float, num_updates: int) -> np.ndarray:
    """The weights after Hebb's updates W ← W + α W C, which are Euler steps of size α."""
    for _ in range(num_updates):
        W_MN = W_MN + rate * W_MN @ C_NN
    return W_MN


def oja_flow(w_N: np.ndarray, C_NN: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Solve Oja's rule for one output, dw/dt = C w - (wᵀ C w) w, with an adaptive integrator, [T, N]."""
    solution = solve_ivp(
        lambda _, w: C_NN @ w - (w @ C_NN @ w) * w,
        (0, times[-1]), w_N, method="DOP853", t_eval=times, rtol=1e-11, atol=1e-13,
    )  # fmt: skip
    return solution.y.T


def oja_exact(w_N: np.ndarray, C_NN: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Oja's flow in closed form, u / √(1 - ‖w(0)‖² + ‖u‖²) with u = e^(Ct) w(0), [T, N]; differentiate to verify."""
    u_TN = np.stack([expm(C_NN * t) @ w_N for t in times])
    return u_TN / np.sqrt(1 - w_N @ w_N + (u_TN**2).sum(1))[:, None]


def run(
    num_outputs: int = 4, num_inputs: Annotated[int, Ge(2)] = 6, duration: Annotated[float, Gt(0)] = 8.0, seed: int = 0
) -> Growth:
    """Solve both rules from random weights, with inputs that have no component in one direction."""
    rng = np.random.default_rng(seed)
    eigenvalues = np.append(np.linspace(1.0, 0.2, num_inputs - 1), 0.0)
    C_NN, v_NN = covariance(eigenvalues, rng)
    W_MN = 0.3 * rng.standard_normal((num_outputs, num_inputs))
    times = np.linspace(0, duration, 81)
    hebb_TMN = hebb_flow(W_MN, C_NN, times)
    exact_TMN = np.stack([W_MN @ expm(C_NN * t) for t in times])
    oja_TN, oja_exact_TN = oja_flow(W_MN[0], C_NN, times), oja_exact(W_MN[0], C_NN, times)

    steps = 1 / 2.0 ** np.arange(2, 9)
    unit = W_MN @ expm(C_NN)
    euler_error = np.array([np.linalg.norm(hebb_euler(W_MN, C_NN, a, round(1 / a)) - unit) for a in steps])
    euler_error /= np.linalg.norm(unit)

    claims = (
        *_claims_of_the_rule(rng),
        near(
            "dW/dt = W C is solved by W(0) e^(Ct)",
            f"{REPORT}, with W and C in the right order",
            0.0,
            float(abs(hebb_TMN - exact_TMN).max() / abs(exact_TMN).max()),
            1e-8,
            "relative; the integrator's tolerance is 1e-12 per step",
        ),
        near(
            "Hebb's updates of size α approach the flow with an error of first order in α",
            "error of Euler's method, e.g. Hairer, Nørsett & Wanner (1993), I.7",
            1.0,
            float(np.polyfit(np.log(steps[-4:]), np.log(euler_error[-4:]), 1)[0]),
            0.03,
            "slope on log axes over the four smallest steps; second-order terms remain",
        ),
        *_claims_of_growth(times, hebb_TMN, eigenvalues, v_NN, duration),
        near(
            "Oja's rule bounds the weights: ‖w‖ → 1",
            "Oja (1982)",
            1.0,
            float(np.linalg.norm(oja_exact(W_MN[0], C_NN, np.array([40 / eigenvalues[0]]))[0])),
            1e-9,
            "the remainder after 40 time constants",
        ),
        near(
            "Oja's flow is u/√(1 - ‖w(0)‖² + ‖u‖²), u = e^(Ct) w(0)",
            "closed form of the matrix Riccati equation; Yan, Helmke & Moore (1994)",
            0.0,
            float(abs(oja_TN - oja_exact_TN).max()),
            1e-8,
            "the integrator's tolerance is 1e-11 per step",
        ),
    )
    leading_N = v_NN[:, 0]
    return Growth(
        claims,
        times,
        np.linalg.norm(hebb_TMN[:, 0], axis=1),
        np.linalg.norm(oja_TN, axis=1),
        abs(hebb_TMN[:, 0] @ leading_N) / np.linalg.norm(hebb_TMN[:, 0], axis=1),
        abs(oja_TN @ leading_N) / np.linalg.norm(oja_TN, axis=1),
        float(eigenvalues[0]),
        steps,
        euler_error,
    )


def _claims_of_the_rule(rng: np.random.Generator) -> tuple[Claim, ...]:
    """Claims about the order of W and C, and about the rule applied to zero weights."""
    W_NN, x_N = rng.standard_normal((5, 5)), rng.standard_normal(5)
    update_NN = np.outer(W_NN @ x_N, x_N)  # Δw_ij / α = y_i x_j
    C_NN = np.outer(x_N, x_N)
    printed = np.linalg.norm(C_NN @ W_NN - update_NN) / np.linalg.norm(update_NN)

    f_N, g_M = rng.standard_normal(5), rng.standard_normal(3)
    unclamped_MN = np.zeros((3, 5))
    for _ in range(1000):
        unclamped_MN += 0.1 * np.outer(unclamped_MN @ f_N, f_N)
    recalled_M = 0.1 * np.outer(g_M, f_N) @ f_N
    return (
        near(
            "Hebb's update Δw_ij = α y_i x_j of y = W x is ΔW = α W C, C = x xᵀ",
            REPORT,
            0.0,
            float(np.linalg.norm(W_NN @ C_NN - update_NN) / np.linalg.norm(update_NN)),
            1e-12,
            "rounding in float64",
            refuted=f"dW/dt = C W: right for the transposed W that is written out, but wrong by {printed:.0%} for the "
            "W of y = W x",
        ),
        near(
            "From zero weights Hebb's rule stores nothing, however often it is applied: y = 0, so ΔW = 0",
            REPORT,
            0.0,
            float(abs(unclamped_MN).max()),
            0.0,
            "exact",
            refuted="the associator is Hebb's rule with weights that are initially zero and one update",
        ),
        near(
            "With its output clamped to g, one update from zero stores the pair: the recalled value has cosine 1",
            "Hertz, Krogh & Palmer (1991), section 2.2",
            1.0,
            float(recalled_M @ g_M / np.linalg.norm(recalled_M) / np.linalg.norm(g_M)),
            1e-12,
            "rounding in float64",
        ),
    )


def _claims_of_growth(
    times: np.ndarray, hebb_TMN: np.ndarray, eigenvalues: np.ndarray, v_NN: np.ndarray, duration: float
) -> tuple[Claim, ...]:
    """Claims about the rate and direction of the growth, and about what does not change."""
    components = np.linalg.norm(hebb_TMN @ v_NN, axis=1)  # [T, N], along each eigenvector
    slopes = np.polyfit(times, np.log(components[:, :-1]), 1)[0]
    late_MN = hebb_TMN[0] @ expm(v_NN @ np.diag(eigenvalues) @ v_NN.T * 20 * duration)
    toward_MN = np.outer(hebb_TMN[0] @ v_NN[:, 0], v_NN[:, 0])
    return (
        near(
            "Along the eigenvectors of C Hebb's weights grow like e^(λ_i t)",
            "W(t) v_i = W(0) e^(Ct) v_i = e^(λ_i t) W(0) v_i",
            0.0,
            float(abs(slopes - eigenvalues[:-1]).max()),
            1e-6,
            "largest difference of a fitted rate and its eigenvalue",
        ),
        near(
            "On the null space of C Hebb's weights stay as they were: Hebb's rule never forgets",
            "the same with λ_i = 0",
            0.0,
            float(abs((hebb_TMN - hebb_TMN[0]) @ v_NN[:, -1]).max()),
            1e-8,
            "error of the integrator, which the growing directions dominate",
        ),
        near(
            "W/‖W‖ approaches W(0) v_1 v_1ᵀ/‖W(0) v_1‖: all rows align with the leading eigenvector",
            "the largest rate dominates",
            0.0,
            float(np.linalg.norm(late_MN / np.linalg.norm(late_MN) - toward_MN / np.linalg.norm(toward_MN))),
            1e-6,
            f"after {20 * duration:.0f} time units",
        ),
        at_least(
            "Without a constraint the weights do not converge",
            f"{REPORT}; Fyfe (2000), p. 40",
            float(np.exp(0.5 * duration)),
            float(np.linalg.norm(hebb_TMN[-1]) / np.linalg.norm(hebb_TMN[0])),
            "more than growth at half the largest rate",
        ),
    )


def draw(result: Growth) -> Figure:
    """Length and direction of the weights under both rules, and the error of Euler steps."""
    figure, (norm, direction, error) = wrapped(3)
    reference = result.hebb_norm[-1] * np.exp(result.largest_eigenvalue * (result.times - result.times[-1]))
    norm.semilogy(result.times, reference, **THEORY, label=r"slope $\lambda_{\max}$")
    norm.semilogy(result.times, result.hebb_norm, **line(2), label="Hebb")
    norm.semilogy(result.times, result.oja_norm, **line(1), label="Oja")
    norm.set(xlabel="time (1/largest eigenvalue)", ylabel="length of the weights ‖w‖")
    norm.legend(loc="upper left")
    heading(norm, "Hebb grows, Oja settles at 1")

    direction.plot(result.times, result.hebb_alignment, **THEORY, label="Hebb")
    direction.plot(result.times, result.oja_alignment, **line(1), label="Oja")
    direction.set(xlabel="time (1/largest eigenvalue)", ylabel="|cosine| with leading eigenvector", ylim=(0, 1.03))
    direction.legend(loc="lower right")
    heading(direction, "Both rotate identically")

    slope_one = result.euler_error[-1] * result.steps / result.steps[-1]
    error.loglog(result.steps, slope_one, **THEORY, label="slope 1")
    error.loglog(result.steps, result.euler_error, **points(0), label="Hebb's updates")
    error.set(xlabel=r"size of an update $\alpha$", ylabel="relative error at time 1")
    error.legend(loc="upper left")
    heading(error, "Updates are Euler steps of the flow")
    return figure


DEMONSTRATIONS = (Demonstration("hebbian_growth", run, draw),)
