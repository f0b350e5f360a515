"""The cell state of the LSTM: the effects of its self-loop and of its activation on a gradient.

Shapes: M hidden units, L lags from 0, T time steps, P projected features of the four gates.
"""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.special import expit

from src.models.lstm import LSTM, LSTMState
from src.theory.base import Claim
from src.theory.claims import at_least, near
from src.theory.figures import heading, line, new_figure
from src.theory.gradient_flow.limits import power_norms
from src.theory.gradient_flow.norms import Array
from src.theory.networks import seeded_float64

REPORT = "Wayman & Mathew, report"


@dataclass
class Carousel:
    """What remains of a gradient along the cell state, by lag, and the tanh derivative with which it was confused."""

    claims: list[Claim]
    along_cell_state: dict[str, Array]
    cell_state: Array
    activation_derivative: Array


def ride_carousel(num_units: int = 10, num_steps: int = 100, seed: int = 0) -> Carousel:
    """Check that ∂c_t/∂c_{t-1} = diag(f_t) along the cell state, and that ∂c_T/∂c_0 = I for i = 0 and f = 1."""
    generator = torch.Generator().manual_seed(seed)
    with seeded_float64(seed):
        core = LSTM(num_units, hidden_size=num_units)
    p_TP = torch.randn(num_steps, 4 * num_units, generator=generator, dtype=torch.float64)
    state = LSTMState(*torch.randn(2, 1, num_units, generator=generator, dtype=torch.float64))
    errors, ratios, states = [], [], []
    for p_P in p_TP:

        def next_c(h_BH: torch.Tensor, c_BH: torch.Tensor, p_P=p_P) -> torch.Tensor:
            return core.step(p_P[None], LSTMState(h_BH, c_BH))[1].c_BH

        with torch.no_grad():
            found = torch.func.jacrev(next_c, argnums=1)(*state)[0, :, 0]
            sums_P = core.recurrent(state.h_BH)[0] + p_P
            forget_M = torch.sigmoid(sums_P[num_units : 2 * num_units])
            errors.append(float((found - torch.diag(forget_M)).abs().max()))
            by_h = torch.func.jacrev(next_c, argnums=0)(*state)[0, :, 0]
            ratios.append(float(by_h.norm() / found.norm()))
            _, state = core.step(p_P[None], state)
            states.append(state.c_BH[0])
    # gates that are exactly open or shut: σ(1000) = 1, σ(-1000) = 0
    with torch.no_grad():
        core.input.bias[:num_units] = -1000.0
        core.input.bias[num_units : 2 * num_units] = 1000.0
    p_1TP = core.project(torch.randn(1, num_steps, num_units, generator=generator, dtype=torch.float64)).detach()
    c_BH = torch.randn(1, num_units, generator=generator, dtype=torch.float64)

    def at_end(c_BH: torch.Tensor) -> torch.Tensor:
        return core.scan(p_1TP, LSTMState(torch.zeros_like(c_BH), c_BH))[1].c_BH

    closed = torch.func.jacrev(at_end)(c_BH)[0, :, 0].detach()
    deviation = float((closed - torch.eye(num_units, dtype=torch.float64)).abs().max())

    rest = _retention_at_rest(num_units, num_steps)
    lag_L = np.arange(num_steps + 1.0)
    activation = 1 - torch.tanh(torch.stack(states)).detach().numpy().ravel() ** 2
    claims = [
        near(
            "Along the cell state, with h fixed, ∂c_t/∂c_{t-1} = diag(f_t): largest error over all steps",
            f"Hochreiter & Schmidhuber 1997; Gers et al. 2000; {REPORT}, section 2",
            0,
            max(errors),
            1e-12,
            "one expression in float64",
        ),
        near(
            f"Constant error carousel: with i = 0, f = 1 and any o, ∂c_T/∂c_0 is the identity over {num_steps} steps",
            "Hochreiter & Schmidhuber 1997, section 3.1",
            0,
            deviation,
            0.0,
            "σ(±1000) is exactly 1 and 0 in float64",
            '"whose activation function has a constant derivative": only the self-loop of the cell state has one; '
            f"tanh' of it ran from {activation.min():.3f} to {activation.max():.3f} here",
        ),
        at_least(
            "The gates see h_{t-1}, so the cell state is not the only path: smallest ‖∂c_t/∂h_{t-1}‖ / ‖∂c_t/∂c_{t-1}‖",
            f"Equations of the LSTM; {REPORT}, section 2",
            1e-3,
            min(ratios),
            "weights of order 1/√H times derivatives of gates",
        ),
        *(
            near(
                f"At rest, without input, the cell state keeps σ(b)^lag: b = {bias}, relative error at lag {num_steps}",
                "f = σ(b) while h = c = 0",
                0,
                float(abs(norm_L[-1] / expit(bias) ** num_steps - 1)),
                1e-10,
                f"{num_steps} products in float64; σ({bias})^{num_steps} = {expit(bias) ** num_steps:.1e}",
            )
            for bias, norm_L in rest.items()
        ),
    ]
    along = {f"forget bias {bias}": norm_L for bias, norm_L in rest.items()} | {"f = 1": np.ones_like(lag_L)}
    grid = np.linspace(-3, 3, 121)
    return Carousel(claims, along, grid, 1 - np.tanh(grid) ** 2)


def _retention_at_rest(num_units: int, num_steps: int) -> dict[int, Array]:
    """‖∂c_{t+l}/∂c_t‖ along the cell state for h = c = 0 and no input, for each forget bias, [L]."""
    found = {}
    zero_BH = torch.zeros(1, num_units, dtype=torch.float64)
    for bias in (0, 1, 4):
        with seeded_float64(0):
            core = LSTM(num_units, hidden_size=num_units, forget_bias=bias)
        p_BP = core.project(zero_BH).detach()

        def next_c(c_BH: torch.Tensor, core=core, p_BP=p_BP) -> torch.Tensor:
            return core.step(p_BP, LSTMState(zero_BH, c_BH))[1].c_BH

        found[bias] = power_norms(torch.func.jacrev(next_c)(zero_BH)[0, :, 0].detach().numpy(), num_steps)
    return found


def draw_carousel(result: Carousel) -> Figure:
    """The self-loop, which is constant, and the activation, which is not."""
    figure, ((retention, activation),) = new_figure(1, 2, panel_width=4)
    for index, (name, norm_L) in enumerate(reversed(result.along_cell_state.items())):
        retention.plot(norm_L, label=name, markevery=(5 + index, 16), **line(index, marker=True))
    retention.set(
        yscale="log",
        ylim=(1e-16, 10),
        xlabel="lag",
        ylabel=r"$\|\partial c_t\,/\,\partial c_{t-\mathrm{lag}}\|$ along $c$, at rest",
    )
    retention.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 0.93))
    heading(retention, "the self-loop keeps what the forget gate lets through")
    loop = np.ones_like(result.cell_state)
    activation.plot(result.cell_state, loop, label=r"$\partial c_t\,/\,\partial c_{t-1}$ with $f = 1$", **line(0))
    activation.plot(result.cell_state, result.activation_derivative, label=r"$\tanh'(c)$", **line(2))
    activation.set(ylim=(0, 1.35), xlabel="cell state c", ylabel="derivative")
    activation.legend(frameon=False, loc="upper right", ncols=2)
    heading(activation, "the loop is constant, the activation is not")
    return figure
