"""The linear feedback system y(n) = w (x(n) + y(n-1)) in all its regimes.

Shapes: B repetitions, T time steps.
"""

from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Ge, Gt
from matplotlib.figure import Figure
from scipy.signal import convolve, lfilter, tf2zpk

from src.theory.base import Claim, Demonstration
from src.theory.claims import near
from src.theory.figures import LIMIT, THEORY, heading, line, new_figure

REPORT = "Wayman & Mathew, report, section 5"
WEIGHTS = (0.8, 1.0, 1.1, -1.0, -1.1)
THREE_CASES = "the cases are |w| < 1, w = 1 and w > 1: w = -1 and w < -1 are missing"


class Regimes(NamedTuple):
    """The system's response to one input sequence with each weight."""

    claims: tuple[Claim, ...]
    weights: tuple[float, ...]
    outputs: np.ndarray
    """The outputs for one input sequence of noise with a positive mean, [regimes, T]."""
    means: np.ndarray
    """Expected output for inputs of this kind, [regimes, T]."""
    deviations: np.ndarray
    """Standard deviation of the output for these inputs, from the formula, [regimes, T]."""
    impulse_responses: np.ndarray


def simulate(weight: float, x_BT: np.ndarray) -> np.ndarray:
    """The outputs of the recursion y(n) = w (x(n) + y(n-1)) from y(-1) = 0."""
    return lfilter([weight], [1, -weight], x_BT)


def impulse_response(weight: float, num_steps: int) -> np.ndarray:
    """w^(n+1): y(n) = Σ_l w^(l+1) x(n-l)."""
    return weight ** np.arange(1.0, num_steps + 1)


def mean_and_deviation(weight: float, mean: float, deviation: float, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean μ Σ_l w^(l+1) and standard deviation σ √(Σ_l w^(2l+2)) of y(n) for independent inputs, both [T]."""
    response = impulse_response(weight, num_steps)
    return mean * response.cumsum(), deviation * np.sqrt((response**2).cumsum())


def run(
    num_steps: Annotated[int, Ge(11)] = 60,
    mean: float = 0.5,
    deviation: Annotated[float, Gt(0)] = 1.0,
    repetitions: Annotated[int, Ge(2)] = 20_000,
    seed: int = 0,
) -> Regimes:
    """Simulate every regime with the same inputs."""
    rng = np.random.default_rng(seed)
    x_BT = rng.normal(mean, deviation, (repetitions, num_steps))
    outputs_BT = {weight: simulate(weight, x_BT) for weight in WEIGHTS}
    predictions = np.array([mean_and_deviation(weight, mean, deviation, num_steps) for weight in WEIGHTS])
    claims = (
        *_claims_of_the_response(rng, num_steps),
        *_claims_of_decay(outputs_BT[0.8], mean, deviation),
        *_claims_of_divergence(outputs_BT[1.0], mean, deviation),
        *_claims_of_negative_weights(outputs_BT[-1.0], mean),
    )
    examples = np.array([outputs_BT[weight][0] for weight in WEIGHTS])
    responses = np.array([impulse_response(weight, num_steps) for weight in WEIGHTS])
    return Regimes(claims, WEIGHTS, examples, predictions[:, 0], predictions[:, 1], responses)


def _claims_of_the_response(rng: np.random.Generator, num_steps: int) -> tuple[Claim, ...]:
    """Claims about the convolution, the pole, and the same gain in a recurrent network."""
    x_T = rng.standard_normal(num_steps)
    worst = 0.0
    for weight in WEIGHTS:
        y, recursion_T = 0.0, np.empty(num_steps)
        for n, x in enumerate(x_T):
            y = recursion_T[n] = weight * (x + y)
        convolved_T = convolve(x_T, impulse_response(weight, num_steps), method="direct")[:num_steps]
        worst = max(worst, float(abs(recursion_T - convolved_T).max() / abs(convolved_T).max()))
    poles = [float(tf2zpk([weight, 0], [1, -weight])[1][0]) for weight in WEIGHTS]
    total = float(abs(impulse_response(0.8, 400)).sum())

    q_HH, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    W_HH = (q_HH * np.array([*WEIGHTS, 0.3])) @ q_HH.T
    gains = [np.linalg.norm(np.linalg.matrix_power(W_HH, 30) @ q_HH[:, i]) for i in range(5)]
    difference = abs(np.log(gains) - 30 * np.log(np.abs(WEIGHTS))).max()
    return (
        near(
            "The recursion is the convolution y(n) = Σ_l w^(l+1) x(n-l), in every regime",
            f"{REPORT}, the last equation before the cases",
            0.0,
            worst,
            1e-12,
            "relative to the largest output; summed in a different order",
        ),
        near(
            "The pole of the transfer function w/(1 - w/z) is at z = w",
            "Oppenheim & Schafer (2010), section 3.3",
            0.0,
            float(abs(np.array(poles) - WEIGHTS).max()),
            1e-12,
            "rounding in float64",
        ),
        near(
            "The system is stable if and only if |w| < 1: Σ|w^(n+1)| is |w|/(1 - |w|), and infinite for |w| ≥ 1",
            "Oppenheim & Schafer (2010), section 2.4: stable if the impulse response is summable",
            4.0,
            total,
            1e-9,
            "w = 0.8; truncation after 400 terms",
        ),
        near(
            "An eigendirection of a linear recurrent network is such a system: its gradient n steps back is w^n",
            "W^n v = w^n v",
            0.0,
            float(difference),
            1e-9,
            "logarithm of ‖W^30 v‖ for five eigenvalues; rounding grows with 1.1^30",
        ),
    )


def _claims_of_decay(y_BT: np.ndarray, mean: float, deviation: float) -> tuple[Claim, ...]:
    """Claims about |w| < 1."""
    weight = 0.8
    response = impulse_response(weight, 40)
    stationary = weight * deviation / np.sqrt(1 - weight**2)
    error = stationary / np.sqrt(len(y_BT))
    return (
        near(
            "|w| < 1: the effect of one input decays like w^n",
            f"{REPORT}, case 1",
            float(np.log(weight)),
            float(np.polyfit(np.arange(40), np.log(response), 1)[0]),
            1e-12,
            "slope of the logarithm; rounding",
        ),
        near(
            "|w| < 1: the output does not decay but settles at a mean of μ w/(1 - w)",
            "sum of the geometric series",
            mean * weight / (1 - weight),
            float(y_BT[:, -1].mean()),
            4 * error,
            "four standard errors of the mean over repetitions",
        ),
        near(
            "|w| < 1: the standard deviation of the output settles at σ w/√(1 - w²)",
            "the same series with w²",
            stationary,
            float(y_BT[:, -1].std()),
            4 * error / np.sqrt(2),
            "four standard errors of a standard deviation",
        ),
    )


def _claims_of_divergence(y_BT: np.ndarray, mean: float, deviation: float) -> tuple[Claim, ...]:
    """Claims about w = 1 and w > 1."""
    steps = np.arange(1, y_BT.shape[1] + 1)
    increments = y_BT[:, -1] - y_BT[:, 0]
    error = deviation / np.sqrt(len(y_BT) * (len(steps) - 1))
    growth = np.log(np.abs(simulate(1.1, np.eye(1, 300)[0])))
    with_noise = simulate(1.1, mean + deviation * np.random.default_rng(1).standard_normal(300))
    return (
        near(
            "w = 1: the mean of the output grows by μ per step, (n + 1) μ",
            f"{REPORT}, case 2",
            mean,
            float(increments.mean() / (len(steps) - 1)),
            4 * error,
            "four standard errors",
        ),
        near(
            "w = 1: the variance of the output grows by σ² per step, so for zero mean it is a random walk",
            "sum of independent terms",
            deviation**2,
            float(np.polyfit(steps, y_BT.var(0), 1)[0]),
            4 * deviation**2 * np.sqrt(2 / len(y_BT)),
            "four standard errors of the variance at the last step, per step",
        ),
        near(
            "w > 1: an impulse grows like w^n",
            f"{REPORT}, case 3",
            float(np.log(1.1)),
            float(np.polyfit(np.arange(300), growth, 1)[0]),
            1e-12,
            "slope of the logarithm, w = 1.1; rounding",
        ),
        near(
            "w > 1: the output for a random input also grows like w^n, once it is large",
            "y(n)/w^n converges",
            float(np.log(1.1)),
            float(np.polyfit(np.arange(200, 300), np.log(abs(with_noise[200:])), 1)[0]),
            1e-6,
            "slope of the logarithm, w = 1.1, n ≥ 200, where new inputs are 1e-8 of the output",
        ),
    )


def _claims_of_negative_weights(y_BT: np.ndarray, mean: float) -> tuple[Claim, ...]:
    """Claims about w = -1 and w < -1."""
    constant = simulate(-1.0, np.full(8, mean))
    steps = np.arange(1, y_BT.shape[1] + 1)
    exponent = np.polyfit(np.log(steps[9:]), np.log(y_BT[:, 9:].std(0)), 1)[0]
    response = simulate(-1.1, np.eye(1, 200)[0])
    return (
        near(
            "w = -1: an impulse alternates between -1 and 1 forever, neither decaying nor growing",
            "w^(n+1)",
            0.0,
            float(abs(simulate(-1.0, np.eye(1, 200)[0]) + np.resize([1.0, -1.0], 200)).max()),
            0.0,
            "exact",
            refuted=THREE_CASES,
        ),
        near(
            "w = -1: a constant input μ gives -μ, 0, -μ, 0, ...",
            "y(n) + y(n-1) = -μ",
            0.0,
            float(abs(constant - np.resize([-mean, 0.0], 8)).max()),
            1e-15,
            "rounding",
            refuted=THREE_CASES,
        ),
        near(
            "w = -1: noise makes the standard deviation grow like √n, without a trend",
            "sum of independent terms with alternating signs",
            0.5,
            float(exponent),
            0.02,
            f"slope on log axes; a standard deviation over {len(y_BT):,} repetitions is accurate to "
            f"{100 / np.sqrt(2 * len(y_BT)):.2g} %",
            refuted=THREE_CASES,
        ),
        near(
            "w < -1: the output alternates in sign at every step",
            "w^(n+1)",
            1.0,
            float(np.mean(response[1:] * response[:-1] < 0)),
            0.0,
            "exact: share of steps that change the sign, w = -1.1",
            refuted=THREE_CASES,
        ),
        near(
            "w < -1: an impulse grows like |w|^n",
            "w^(n+1)",
            float(np.log(1.1)),
            float(np.polyfit(np.arange(200), np.log(abs(response)), 1)[0]),
            1e-12,
            "slope of the logarithm, w = -1.1; rounding",
            refuted=THREE_CASES,
        ),
    )


def draw(result: Regimes) -> Figure:
    """One output and its expected range for each weight, next to the effect of the first input."""
    figure, all_axes = new_figure(5, 2, panel_width=4.0, panel_height=1.7)
    steps = np.arange(result.outputs.shape[1])
    names = ("settles", "linear trend", "exponential", "alternates", "alternates, grows")
    for row, (weight, name) in enumerate(zip(result.weights, names, strict=True)):
        left, right = all_axes[row]
        low = result.means[row] - 2 * result.deviations[row]
        high = result.means[row] + 2 * result.deviations[row]
        left.fill_between(steps, low, high, color="0.88", linewidth=0)
        left.plot(steps, result.means[row], **THEORY)
        left.plot(steps, result.outputs[row], **line(1) | {"linestyle": "-", "linewidth": 1.0})
        heading(left, f"w = {weight:g}: {name}".replace("-", "−"))
        shown = slice(None, 20) if weight < 0 else slice(None)
        right.plot(steps[shown], result.impulse_responses[row][shown], **line(0) | {"marker": ".", "linewidth": 0.8})
        right.axhline(0, **LIMIT | {"linewidth": 0.8})
        heading(right, "effect of the first input, $w^{n+1}$")
        left.set_ylabel("output y(n)")
    for axes, text in zip(all_axes[-1], ("step n (gray: mean ± 2 s.d.)", "step n"), strict=True):
        axes.set_xlabel(text)
    return figure


DEMONSTRATIONS = (Demonstration("feedback_regimes", run, draw),)
