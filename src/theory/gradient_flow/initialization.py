"""Gradients of recurrent networks at initialization, with the known bounds.

Shapes: B sequences, T time steps, X input features, H hidden units, L lags from 0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from matplotlib.figure import Figure

from src.models.alstm import ALSTM
from src.models.base import Core
from src.models.fastweights import FastWeights
from src.models.gru import GRU
from src.models.irnn import IRNN
from src.models.lstm import LSTM
from src.models.nprnn import NPRNN
from src.models.rnn import RNN
from src.theory.base import Claim
from src.theory.claims import at_least, at_most, near
from src.theory.figures import LIMIT, heading, line, wrapped
from src.theory.gradient_flow.norms import (
    Array,
    norms_by_lag,
    norms_through_memory,
    state_jacobians,
)
from src.theory.networks import seeded_float64

REPORT, MATHEWS = "Wayman & Mathew, report", "Mathews, report, section 2.1.2"
ROUNDING = "products of matrices in float64, each rounded to 1e-16"
LOWEST = 1e-14
"""The bottom of the logarithmic axes; exact zeros are drawn there."""


def tanh_rnn(scale: float, num_units: int) -> RNN:
    """A tanh RNN whose W is `scale` times an orthogonal matrix."""
    return RNN(num_units, hidden_size=num_units, recurrent_scale=scale)


def irnn(scale: float, num_units: int) -> IRNN:
    """An IRNN with W = scale I."""
    return IRNN(num_units, hidden_size=num_units, recurrent_scale=scale)


def fast_weights(layer_norm: bool, fast_lr: float, num_units: int) -> FastWeights:
    """Fast weights with λ = 0.95, the project's default."""
    return FastWeights(num_units, hidden_size=num_units, layer_norm=layer_norm, fast_lr=fast_lr)


@dataclass
class Initial:
    """Norms of ∂h_T/∂s_{T-l} for every lag l, as medians over the sequences, by panel and architecture."""

    claims: list[Claim]
    panels: dict[str, dict[str, Array]]
    bounds: dict[str, Array]


def measure_at_start(
    num_units: int = 20, num_steps: Annotated[int, Ge(3)] = 51, num_sequences: int = 8, seed: int = 0
) -> Initial:
    """Measure several architectures at initialization under N(0, 1) inputs.

    The IRNN is measured without input, from a positive state.
    """

    def core_of(make: Callable[[], Core]) -> Core:
        with seeded_float64(seed):
            return make()

    with seeded_float64(seed):
        contracting = tanh_rnn(0.9, num_units)
    generator = torch.Generator().manual_seed(seed)
    x_BTX = torch.randn(num_sequences, num_steps, num_units, generator=generator, dtype=torch.float64)
    positive_BH = torch.rand(num_sequences, num_units, generator=generator, dtype=torch.float64) + 0.1

    def norms(core: Core, scale: float = 1.0) -> Array:
        return norms_by_lag(core, core.project(scale * x_BTX))

    def norms_without_input(core: Core) -> Array:
        return norms_by_lag(core, 0 * x_BTX, positive_BH)

    lag_L = np.arange(num_steps, dtype=float)
    one_matrix = {f"tanh, ‖W‖ = {g}": norms(core_of(partial(tanh_rnn, g, num_units))) for g in (1.5, 0.9)}
    one_matrix["np-RNN"] = norms(core_of(partial(NPRNN, num_units, hidden_size=num_units)))
    for s in (1.0, 0.5, 0.05):
        one_matrix[f"IRNN, W = {s} I"] = norms_without_input(core_of(partial(irnn, s, num_units)))
    gates = {
        f"LSTM, forget bias {b}": norms(core_of(partial(LSTM, num_units, hidden_size=num_units, forget_bias=b)))
        for b in (4, 1, 0)
    }
    gates["GRU"] = norms(core_of(partial(GRU, num_units, hidden_size=num_units)))
    gates["A-LSTM"] = norms(core_of(partial(ALSTM, num_units, hidden_size=num_units, num_heads=1)))
    normalized = core_of(partial(fast_weights, True, 0.5, num_units))
    assert isinstance(normalized, FastWeights)
    fast = {
        "layer norm": norms(normalized),
        "no norm, inputs × 0.1": norms(core_of(partial(fast_weights, False, 0.5, num_units)), 0.1),
        "layer norm, η = 0": norms(core_of(partial(fast_weights, True, 0.0, num_units))),
    }
    lags = min(20, num_steps - 1), num_steps - 1
    with torch.no_grad():
        p_BTH = normalized.project(x_BTX)
    assert isinstance(p_BTH, torch.Tensor)
    direct = [norms_through_memory(normalized, p_BTH, lag) for lag in lags]
    bounds = {f"tanh, ‖W‖ = {0.9}": 0.9**lag_L, "np-RNN": np.ones(num_steps)}
    claims = [
        _jacobian_product(contracting, x_BTX),
        *(
            at_most(
                f"{name}: ‖∂h_T/∂h_t‖ stays below γ^lag: largest ratio to the bound",
                f"Submultiplicative norm, |f'| ≤ 1; {REPORT}, section 5.3; Hochreiter et al. 2001",
                1 + 1e-9,
                float((one_matrix[name] / bound_L[:, None])[1:].max()),
                "1, and rounding; from lag 1 on",
            )
            for name, bound_L in bounds.items()
        ),
        *(
            near(
                f"IRNN, W = {s} I, no input, h_0 > 0: ‖∂h_T/∂h_t‖ is {s}^lag exactly, largest relative error",
                "Le, Jaitly & Hinton 2015, section 3",
                0,
                float(np.abs(one_matrix[f"IRNN, W = {s} I"] / (s**lag_L)[:, None] - 1).max()),
                0.0 if s == 1 else 1e-10,
                "products of 1 are exact" if s == 1 else ROUNDING,
                '"the effect of h(t-T) on h(t) is negligible" because of T multiplications by U (section 3)'
                if s == 1
                else "",
            )
            for s in (1.0, 0.5, 0.05)
        ),
        *_gated(gates, fast, [float(np.median(norm_B)) for norm_B in direct], num_steps),
    ]
    panels = {"one matrix": one_matrix, "gates": gates, "fast weights, λ = 0.95": fast}
    medians = {title: {name: np.median(v, axis=1) for name, v in panel.items()} for title, panel in panels.items()}
    return Initial(claims, medians, bounds)


def _jacobian_product(core: RNN, x_BTX: torch.Tensor) -> Claim:
    """The claim about the order of factors in the product of diag(f'(a)) W: the latest is leftmost, not rightmost."""
    p_BTH = core.project(x_BTX).detach()
    with torch.no_grad():
        h_BTH, _ = core.scan(p_BTH)
    W_HH = core.recurrent.weight.detach()
    exact_TBHH = state_jacobians(core, p_BTH)
    left = right = torch.eye(len(W_HH), dtype=W_HH.dtype).expand(len(h_BTH), -1, -1)
    errors, reversed_errors = [], []
    for t in range(h_BTH.shape[1] - 1, 0, -1):
        factor_BHH = (1 - h_BTH[:, t] ** 2)[:, :, None] * W_HH
        left, right = left @ factor_BHH, factor_BHH @ right
        exact_BHH = exact_TBHH[t - 1]
        errors.append(float((left - exact_BHH).norm() / exact_BHH.norm()))
        reversed_errors.append(float((right - exact_BHH).norm() / exact_BHH.norm()))
    return near(
        "∂h_T/∂h_t = Π diag(f'(a_τ)) W with the latest factor leftmost: largest relative error against autograd",
        f"{MATHEWS}, equation 2.2; {REPORT}, section 5.3",
        0,
        max(errors),
        1e-10,
        ROUNDING,
        f"Π over k = i+1 ... j, read as ascending from the left: relative error {max(reversed_errors):.2g}",
    )._replace(reading=True)


def _gated(gates: dict[str, Array], fast: dict[str, Array], direct: list[float], num_steps: int) -> list[Claim]:
    """Claims about what gates and fast weights retain of the gradient, and how much of it goes through A alone."""
    last = {name: float(np.median(v[-1])) for name, v in (gates | fast).items()}
    middle = min(20, num_steps - 1)
    retained = float(np.median(fast["layer norm"][middle]))
    return [
        at_least(
            f"A larger forget bias retains more of the gradient over {num_steps - 1} steps: smaller of the ratios "
            "b = 4 to 1, and 1 to 0",
            "Le, Jaitly & Hinton 2015, section 4; Gers et al. 2000",
            10.0,
            min(
                last["LSTM, forget bias 4"] / last["LSTM, forget bias 1"],
                last["LSTM, forget bias 1"] / last["LSTM, forget bias 0"],
            ),
            "along the cell state the ratios are (σ(4)/σ(1))^lag and (σ(1)/σ(0))^lag, above 1e6 for 50 steps; paths "
            "through h add to all of them",
        ),
        at_least(
            f"Fast weights with layer norm retain a gradient over {middle} steps that W = 0.05 I alone loses",
            "Ba et al. 2016, equation 4: the direct path through A has the weight η λ^(lag-1)",
            1e-3,
            retained,
            f"the direct path, η λ^{middle - 1} = {0.5 * 0.95 ** (middle - 1):.2f} times two derivatives of the layer "
            f"norm, contributes {direct[0]:.2g}; the rest goes through the states written in between; 0.05^{middle} = "
            f"{0.05**middle:.0e}",
        ),
        at_most(
            f"Of the gradient over {num_steps - 1} steps the direct path through A carries little: its norm, with all "
            "states in between fixed, over that of the whole",
            "Derivative of the last step by a state that A was written from",
            0.1,
            direct[1] / last["layer norm"],
            f"a tenth; {direct[1]:.2g} of {last['layer norm']:.2g}",
        ),
        at_most(
            f"Without fast weights (η = 0) the gradient has vanished after {middle} steps",
            "W = 0.05 I, divided by the standard deviation of a sum of order 1",
            1e-10,
            float(np.median(fast["layer norm, η = 0"][middle])),
            "factors of about 0.05/0.6",
        ),
    ]


def draw_initial(result: Initial) -> Figure:
    """Three panels with a shared logarithmic axis."""
    figure, all_axes = wrapped(3, panel_height=4.2, sharey=True)
    for axes, (title, panel) in zip(all_axes, result.panels.items(), strict=True):
        for index, (name, norm_L) in enumerate(panel.items()):
            lag_L = np.arange(len(norm_L))
            axes.plot(lag_L, norm_L, label=name, markevery=(3 + index, 8), **line(index, marker=True))
        axes.set(yscale="log", ylim=(LOWEST, 1e2), xlabel="lag $T - t$")
        axes.axhline(1, **LIMIT)
        axes.legend(
            frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(-0.1, -0.17), ncols=2, columnspacing=1
        )
        heading(axes, title)
    for axes in all_axes[::2]:
        axes.set_ylabel(r"$\|\partial h_T\,/\,\partial s_t\|$ at initialization")
    return figure
