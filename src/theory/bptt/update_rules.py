"""Beyond the gradient: the reports on momentum, Adam, the loss near a wrong answer, initialization and the inner loop.

Shapes: I iterations, Q values of a probability, M hidden units.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from matplotlib.figure import Figure
from torch import Tensor

from src.models.fastweights import FastWeights, FastWeightsState
from src.models.irnn import IRNN
from src.theory.base import Claim
from src.theory.bptt.jacobians import Array
from src.theory.bptt.printed_forms import FINAL, REPORT
from src.theory.claims import near
from src.theory.figures import LIMIT, heading, line, new_figure

MINIMUM = 1.0


@dataclass
class UpdateRules:
    """Paths to the minimum of a quadratic, and gradients of a loss with and without its logarithm."""

    claims: list[Claim]
    right_I: Array
    printed_I: Array
    fixed_point: float
    probability_Q: Array
    with_log_Q: Array
    without_log_Q: Array


def compare_update_rules(
    lr: Annotated[float, Gt(0)] = 0.1, momentum: Annotated[float, Ge(0), Lt(1)] = 0.9, num_iterations: int = 120
) -> UpdateRules:
    """Test momentum on E = (θ - 1)²/2, Adam's second moment, and the report's loss, initialization and inner loop."""
    right_I, printed_I = np.zeros(num_iterations + 1), np.zeros(num_iterations + 1)
    velocity = 0.0
    for i in range(num_iterations):
        velocity = momentum * velocity - lr * (right_I[i] - MINIMUM)
        right_I[i + 1] = right_I[i] + velocity
        printed_I[i + 1] = momentum * printed_I[i] - lr * (printed_I[i] - MINIMUM)
    fixed_point = lr * MINIMUM / (1 - momentum + lr)
    probability_Q = np.linspace(0.005, 0.995, 199)
    with_log_Q, without_log_Q = (loss_gradients(probability_Q, with_log) for with_log in (True, False))
    momentum_error = float(np.abs(right_I - sgd_path(lr, momentum, num_iterations)).max())
    claims = [
        near(
            "Momentum keeps a velocity, v_i = μ v_{i-1} - η∇E, θ_i = θ_{i-1} + v_i: distance from torch.optim.SGD",
            f"{FINAL}; Sutskever et al. 2013",
            0,
            momentum_error,
            1e-12,
            "numbers near 1 in float64",
            f"θ_i = μ θ_{{i-1}} - η∇E, which on (θ - 1)²/2 comes to rest at {printed_I[-1]:.3f} and not at 1",
        ),
        near(
            "θ_i = μ θ_{i-1} - η∇E comes to rest at η/(1 - μ + η) if the minimum is at 1",
            "Fixed point of the printed rule",
            fixed_point,
            printed_I[-1],
            1e-6,
            f"(μ - η)^{num_iterations} is {(momentum - lr) ** num_iterations:.0e}",
        ),
        *_adam(),
        near(
            "For a one-hot target, the loss without the logarithm has the correct gradient times ŷ, which vanishes for "
            "the most wrong answers: largest difference over ŷ",
            f"{REPORT}, section 7; ∂ŷ/∂o = ŷ (1 - ŷ)",
            0,
            float(np.abs(without_log_Q - probability_Q * with_log_Q).max()),
            1e-12,
            "both from automatic differentiation in float64",
        ),
        *_activation(),
        _start(),
        _inner_loop(),
    ]
    return UpdateRules(claims, right_I, printed_I, fixed_point, probability_Q, with_log_Q, without_log_Q)


def sgd_path(lr: float, momentum: float, num_iterations: int) -> Array:
    """The path of θ from 0 under `torch.optim.SGD`, [I + 1]."""
    theta = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([theta], lr, momentum)
    path = [0.0]
    for _ in range(num_iterations):
        optimizer.zero_grad()
        (0.5 * (theta - MINIMUM) ** 2).backward()
        optimizer.step()
        path.append(theta.item())
    return np.array(path)


def loss_gradients(probability_Q: Array, with_log: bool) -> Array:
    """-∂E/∂o for the correct one of two classes as its probability varies, with a one-hot target, [Q]."""
    logit_Q = torch.tensor(np.log(probability_Q / (1 - probability_Q)), requires_grad=True)
    right_Q = torch.softmax(torch.stack([logit_Q, torch.zeros_like(logit_Q)]), 0)[0]
    E_Q = -right_Q.log() if with_log else -right_Q
    return -torch.autograd.grad(E_Q.sum(), logit_Q)[0].numpy()


def _adam(gradient: float = 2.0, num_updates: int = 50) -> list[Claim]:
    """Claims about the second moment under a constant gradient, and about an update with zero gradient."""
    theta = torch.zeros((), dtype=torch.float64, requires_grad=True)
    beta = 0.999
    optimizer = torch.optim.Adam([theta], betas=(0.9, beta))
    for _ in range(num_updates):
        theta.grad = torch.full_like(theta, gradient)
        optimizer.step()
    second_moment = optimizer.state[theta]["exp_avg_sq"].item() / (1 - beta**num_updates)
    still = torch.zeros((), dtype=torch.float64, requires_grad=True)
    still.grad = torch.zeros_like(still)
    torch.optim.Adam([still]).step()
    first, second = torch.zeros(2, dtype=torch.float64)
    without_epsilon = float(first / second.sqrt())
    return [
        near(
            "v̂ of Adam is the second moment about 0: under a constant gradient of 2 it is 4",
            f"{FINAL}; Kingma & Ba 2014",
            gradient**2,
            second_moment,
            1e-12,
            "a geometric sum in float64",
            "v̂ is called a variance, which is 0 for a constant gradient",
        ),
        near(
            "Adam divides by √v̂ + ε, so a weight with zero gradient does not change: its change",
            f"{FINAL}; Kingma & Ba 2014",
            0,
            still.item(),
            0.0,
            "0/ε is exact",
            f"the update has no ε and is {without_epsilon} there",
        ),
    ]


def _activation(x: float = 0.7) -> list[Claim]:
    """The claim about the chain rule for tanh(y(x)), here with y = x²."""
    at = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    exact = torch.autograd.grad(torch.tanh(at**2), at)[0].item()
    right = (1 - np.tanh(x**2) ** 2) * 2 * x
    printed = 1 - np.tanh(x) ** 2
    return [
        near(
            "d tanh(y(x))/dx = (1 - tanh²(y(x))) y'(x), here for y = x² at 0.7",
            f"{REPORT}, section 6.2",
            exact,
            right,
            1e-12,
            "one expression in float64",
            f"1 - tanh²(x), which is {printed:.3f}",
        )
    ]


def _start(num_units: int = 20) -> Claim:
    """The claim about the initial recurrent matrices of Ba et al."""
    irnn = IRNN(num_units, hidden_size=num_units, recurrent_scale=0.5).recurrent.weight
    fast = FastWeights(num_units, hidden_size=num_units).recurrent.weight
    eye_MM = torch.eye(num_units)
    off = max(float((irnn - 0.5 * eye_MM).detach().abs().max()), float((fast - 0.05 * eye_MM).detach().abs().max()))
    return near(
        "W starts from 0.5 I in the IRNN and from 0.05 I in fast weights; only the input and output weights "
        "are uniform: largest deviation of W",
        f"Ba et al. 2016, appendix A.1; {FINAL}",
        0,
        off,
        0.0,
        "multiples of the identity are exact",
        "the weights of the IRNN are uniform and those of fast weights the identity",
    )


def _inner_loop(num_units: int = 6, num_inner_steps: int = 3) -> Claim:
    """The claim about the inner loop: in a linear network h_S = Σ_{j=0..S} A^j z, which shows how often A was read."""
    generator = torch.Generator().manual_seed(0)
    core = FastWeights(
        num_units, hidden_size=num_units, num_inner_steps=num_inner_steps, layer_norm=False, nonlinearity="linear"
    ).double()
    h_1M, z_1M = torch.randn(2, 1, num_units, generator=generator, dtype=torch.float64)
    state = FastWeightsState(h_1M, torch.zeros(1, num_units, num_units, dtype=torch.float64))
    with torch.no_grad():
        found_1M, state = core.step(z_1M - core.recurrent(h_1M), state)

    def series(num_terms: int) -> Tensor:
        powers = [torch.linalg.matrix_power(state.A_BHH[0], j) for j in range(num_terms + 1)]
        return sum(powers) @ z_1M[0]

    # s = 1, 2, ... while s + 1 <= S
    printed_reads = len(range(1, num_inner_steps))
    right, printed = (
        float((found_1M[0] - series(reads)).norm() / found_1M.norm()) for reads in (num_inner_steps, printed_reads)
    )
    return near(
        "The inner loop reads A S times: with linear units h_S = Σ_{j=0..S} A^j z, relative error for S = 3",
        f"Ba et al. 2016, equation 2; {FINAL}",
        0,
        right,
        1e-12,
        "a few products in float64",
        f"s starts at 1 and the loop ends at s + 1 = S, one read too few: relative error {printed:.2g}",
    )


def draw_update_rules(result: UpdateRules) -> Figure:
    """Momentum on its way to the minimum, and the loss whose gradient vanishes for wrong answers."""
    figure, ((paths, losses),) = new_figure(1, 2, panel_width=4)
    paths.axhline(MINIMUM, **LIMIT)
    paths.text(len(result.right_I) - 1, MINIMUM + 0.03, "minimum", ha="right", va="bottom")
    paths.plot(result.right_I, label="v ← μv - η∇E, θ ← θ + v", **line(0))
    paths.plot(result.printed_I, label="as printed: θ ← μθ - η∇E", **line(2))
    paths.set(xlabel="update", ylabel="θ", ylim=(0, 2.15))
    paths.legend(frameon=False, loc="upper right")
    heading(paths, "no velocity, no rest at the minimum")
    losses.plot(result.probability_Q, result.with_log_Q, label="E = -Σ y ln ŷ", **line(0))
    losses.plot(result.probability_Q, result.without_log_Q, label="as printed: E = -Σ ŷ^y", **line(2))
    losses.set(
        xlabel="probability ŷ of the correct class", ylabel="pull on its logit, -∂E/∂o", xlim=(0, 1), ylim=(0, 1.05)
    )
    losses.legend(frameon=False, loc="upper right")
    heading(losses, "no logarithm, no pull on the worst answers")
    return figure
