"""What layer normalization is invariant to, and the consequences for fast weights.

Shapes: C scales, E fast learning rates, H hidden units.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from matplotlib.figure import Figure
from torch import nn
from torch.nn.functional import layer_norm

from src.theory.base import Claim
from src.theory.claims import at_most, near
from src.theory.fast_weights_stability import dynamics
from src.theory.fast_weights_stability.dynamics import Array
from src.theory.figures import LIMIT, THEORY, heading, line, wrapped

LAYER_NORM = "Ba, Kiros & Hinton 2016, section 3 and table 1"
FAST = "Ba et al. 2016, section 3.1"


@dataclass
class Invariance:
    """Norms of the next state as a function of the scale of the current one, and distances to the limit of large η."""

    claims: list[Claim]
    scale_C: Array
    without_C: dict[int, Array]
    with_C: Array
    num_units: int
    epsilon_scale_C: Array
    epsilon_error_C: Array
    predicted_error_C: Array
    fast_lr_E: Array
    distance_E: Array


def scale_states(num_units: Annotated[int, Ge(15)] = 20, seed: int = 0) -> Invariance:
    """Take one step of fast weights from states of many scales, and apply layer norm to sums of many scales."""
    generator = torch.Generator().manual_seed(seed)
    h_1H, p_1H, a_1H = torch.randn(3, 1, num_units, generator=generator, dtype=torch.float64)
    h_1H = h_1H.relu()

    def next_state(S: int, normalized: bool, scale: float, fast_lr: float = 0.5) -> torch.Tensor:
        core = dynamics.make_core(num_units, S, normalized)
        core.fast_lr = fast_lr
        state = core.initial_state(1)._replace(h_BH=scale * h_1H)
        return core.step(p_1H, state)[0][0]

    scale_C = np.geomspace(1e-2, 1e3, 26)
    without = {S: np.array([float(next_state(S, False, c).norm()) for c in scale_C]) for S in (1, 2)}
    with_C = np.array([float(next_state(1, True, c).norm()) for c in scale_C])
    slopes = {S: float(np.log(v[-1] / v[-4]) / np.log(scale_C[-1] / scale_C[-4])) for S, v in without.items()}

    fast_lr_E = np.geomspace(1e-2, 1e6, 25)
    limit_H = next_state(1, True, 1.0, 1e12)
    distance_E = np.array([float((next_state(1, True, 1.0, e) - limit_H).norm() / limit_H.norm()) for e in fast_lr_E])
    late = float(np.log(distance_E[-1] / distance_E[-7]) / np.log(fast_lr_E[-1] / fast_lr_E[-7]))

    a_1H = (a_1H - a_1H.mean()) / a_1H.std(correction=0)
    exact_1H = layer_norm(a_1H, (num_units,), eps=0.0)
    moved_1H = layer_norm(3.7 * a_1H - 2.0, (num_units,), eps=0.0)
    epsilon_scale_C = np.geomspace(1e-3, 1e2, 26)
    error_C = np.array([float((layer_norm(c * a_1H, (num_units,)) - exact_1H).norm() / exact_1H.norm())
                        for c in epsilon_scale_C])  # fmt: skip
    predicted_C = 1 - 1 / np.sqrt(1 + 1e-5 / epsilon_scale_C**2)
    norm = nn.LayerNorm(num_units, dtype=torch.float64)
    modes = float((norm.train()(a_1H) - norm.eval()(a_1H)).detach().abs().max())
    claims = [
        near(
            "LN(α a + β 1) = LN(a) for α > 0 and ε = 0: largest difference (α = 3.7, β = -2)",
            LAYER_NORM,
            0,
            float((moved_1H - exact_1H).abs().max()),
            1e-12,
            "one expression in float64",
        ),
        at_most(
            "With ε = 1e-5 a sum of standard deviation α is normalized to 1/√(1 + ε/α²): largest distance of the "
            "relative error from this, α from 0.001 to 100",
            "(a - μ)/√(σ² + ε)",
            1e-12,
            float(np.abs(error_C - predicted_C).max()),
            "one expression in float64",
        ),
        near(
            "Layer norm keeps no statistics from step to step and is the same in training and evaluation: buffers plus "
            "largest difference",
            f"{LAYER_NORM}; Wayman & Mathew, final report",
            0,
            len(list(norm.buffers())) + modes,
            0.0,
            "the same operations",
            "mean and deviation are kept and updated through time",
        ),
        *(
            near(
                f"Without layer norm, a state h scaled by c gives a next one of order c^(2S+1): slope for S = {S}",
                "A h is cubic in h, and every further read multiplies by ‖h‖²",
                2 * S + 1,
                slope,
                0.02,
                "lower-order terms are 1e-6 of the sum at c = 1000",
            )
            for S, slope in slopes.items()
        ),
        at_most(
            "With layer norm the next state stays below √H when h is scaled by up to 1000: largest norm",
            f"{FAST}; ‖LN(a)‖ ≤ √H",
            num_units**0.5,
            float(with_C.max()),
            "a theorem, no tolerance",
        ),
        near(
            "With layer norm the next state tends to a limit as η → ∞, at the rate 1/η: log-log slope of the distance",
            "LN(z + η B q) = LN(z/η + B q)",
            -1,
            late,
            0.02,
            "relative size 1/η of the second-order term at η = 1e4",
        ),
    ]
    return Invariance(claims, scale_C, without, with_C, num_units, epsilon_scale_C, error_C, predicted_C, fast_lr_E,
                      distance_E)  # fmt: skip


def draw_invariance(result: Invariance) -> Figure:
    """The effects of the scale of the state, of the fast learning rate, and of ε."""
    figure, (scales, rates, epsilons) = wrapped(3)
    for index, (S, norm_C) in enumerate(result.without_C.items()):
        scales.plot(result.scale_C, norm_C, label=f"no layer norm, S = {S}", **line(index + 1))
    scales.plot(result.scale_C, result.with_C, label="layer norm", **line(0))
    scales.axhline(result.num_units**0.5, **LIMIT)
    scales.text(0.012, 1.3 * result.num_units**0.5, "√H", va="bottom")
    scales.set(xscale="log", yscale="log", ylim=(0.5, 1e12), xlabel="h(t) scaled by", ylabel="‖h(t+1)‖")
    scales.legend(frameon=False, loc="upper left")
    heading(scales, "the size of h does not matter")
    rates.plot(result.fast_lr_E, result.distance_E, **line(0))
    tail = result.fast_lr_E > 1e2
    rates.plot(result.fast_lr_E[tail], result.distance_E[-1] * result.fast_lr_E[-1] / result.fast_lr_E[tail], **THEORY)
    rates.text(3e3, 1e-2, r"$\propto 1/\eta$")
    rates.set(xscale="log", yscale="log", xlabel="fast learning rate η", ylabel="h(t+1), distance to η → ∞")
    heading(rates, "nor does a large η")
    predicted = r"$1 - 1/\sqrt{1+\epsilon/\alpha^2}$"
    epsilons.plot(result.epsilon_scale_C, result.predicted_error_C, **THEORY, label=predicted)
    epsilons.plot(result.epsilon_scale_C, result.epsilon_error_C, "o", color="black", markersize=3.5, label="measured")
    epsilons.set(xscale="log", yscale="log", xlabel="deviation α of the sum", ylabel="relative error of LN(αa)")
    epsilons.legend(frameon=False, loc="lower left")
    heading(epsilons, "but ε = 1e-5 shows in small sums")
    return figure
