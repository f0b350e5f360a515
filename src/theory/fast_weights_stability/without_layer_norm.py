"""Without layer norm, the state stays bounded up to a memory strength that has a closed form.

Shapes: G settings of (λ, η), L decays, E fast learning rates, T time steps, H hidden units.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from matplotlib.figure import Figure
from scipy.optimize import brentq

from src.theory.base import Claim
from src.theory.claims import at_most, near
from src.theory.fast_weights_stability import dynamics
from src.theory.fast_weights_stability.dynamics import BOUND, STEPS, Array, W, grid
from src.theory.figures import COLORS, LIMIT, heading, line, new_figure


@dataclass
class BlowUp:
    """‖h_T‖ without layer norm for each S, and the two spectral radii on the way to the boundary."""

    claims: list[Claim]
    decay_L: Array
    fast_lr_E: Array
    num_steps: int
    """T, for `norm_LE`."""
    norm_LE: dict[int, Array]
    critical: dict[int, float]
    """The largest κ = η/(1 - λ) at which the state is bounded for inputs of norm 1, by S."""
    fraction: Array
    """κ divided by its critical value."""
    jacobian_radius: Array
    memory_radius: Array


def find_blow_up(
    num_units: int = 6,
    num_steps: int = 400,
    num_decays: Annotated[int, Ge(2)] = 24,
    num_lrs: Annotated[int, Ge(2)] = 28,
    num_trials: int = 200,
) -> BlowUp:
    """Find the boundary without layer norm for inputs of norm 1, constant non-negative (the worst case) and random."""
    constant_H = torch.full((num_units,), num_units**-0.5, dtype=torch.float64)
    decay_L, fast_lr_E = grid(num_decays, num_lrs, 1e-4, 1.0)
    decay_G, fast_lr_G = (a.ravel() for a in np.meshgrid(decay_L, fast_lr_E, indexing="ij"))
    norm_LE, critical, claims = {}, {}, []
    for S in STEPS:
        core = dynamics.make_core(num_units, S, layer_norm=False, recurrent_scale=W)
        norms_TG, _ = dynamics.run(
            dynamics.on_grid(core, decay_G, fast_lr_G), constant_H.expand(num_steps, len(decay_G), -1)
        )
        norm_LE[S] = norms_TG[-1].reshape(num_decays, num_lrs)
        critical[S] = dynamics.critical_strength(W, S) ** 2
        claims += [_boundary(S, critical[S], constant_H), _worst_input(S, critical[S], num_units, num_trials)]
        claims.append(_growth(S, constant_H))
    claims.insert(
        0,
        near(
            "Without layer norm, with one read and W = 0, h stays bounded for constant inputs up to √κ ‖C x‖ = 1/2, "
            "κ = η/(1 - λ)",
            "Maximum of u/(1 + u²), at u = 1",
            0.5,
            dynamics.critical_strength(0.0, 1),
            1e-9,
            "a numerical maximum, accurate to the square of the error of its abscissa, 1e-6",
        ),
    )
    fraction = 1 - np.geomspace(1, 1e-6, 25)
    radii = [_radii_at_rest(f * critical[1], 0.9, constant_H) for f in fraction]
    jacobian_radius, memory_radius = np.array(radii).T
    default = critical[1] ** 0.5 / np.sqrt(0.5 / (1 - 0.95))
    claims += [
        near(
            "At the boundary (S = 1) the spectral radius of the full Jacobian reaches 1: a saddle-node bifurcation",
            BOUND,
            1,
            jacobian_radius[-1],
            0.01,
            "it behaves like 1 - O(√(1 - κ/κ_c)), here √1e-6",
        ),
        near(
            "At the boundary (S = 1) the spectral radius of A is u², with u the maximizer of u/(1 + u²) - 0.05 u",
            BOUND,
            _maximizer() ** 2,
            memory_radius[-1],
            0.005,
            "as above",
        ),
        near(
            "With λ = 0.95, η = 0.5 and no layer norm, h stays bounded for constant inputs up to this norm",
            f"{BOUND}; the settings of Ba et al. 2016, section 3.1",
            default,
            _survived_norm(0.95, 0.5, constant_H),
            0.02 * default,
            "2 %: near the boundary 3,000 steps are too few to decide",
        ),
    ]
    return BlowUp(claims, decay_L, fast_lr_E, num_steps, norm_LE, critical, fraction, jacobian_radius, memory_radius)


def _maximizer() -> float:
    """The u > 0 with (u/(1 + u²))' = (1 - u²)/(1 + u²)² = W."""
    return float(brentq(lambda u: (1 - u**2) / (1 + u**2) ** 2 - W, 0, 1))


def _boundary(S: int, critical: float, constant_H: torch.Tensor) -> Claim:
    """The claim about the predicted boundary, with settings 2 % inside and outside it."""
    decay_G = np.repeat([0.5, 0.8, 0.9, 0.95], 2)
    kappa_G = critical * np.tile([0.98, 1.02], 4)
    core = dynamics.make_core(len(constant_H), S, layer_norm=False, recurrent_scale=W)
    p_TGH = constant_H.expand(2000, len(decay_G), -1)
    norms_TG, _ = dynamics.run(dynamics.on_grid(core, decay_G, kappa_G * (1 - decay_G)), p_TGH)
    right = int((np.isinf(norms_TG[-1]) == np.tile([False, True], 4)).sum())
    return near(
        f"S = {S}, inputs of norm 1: h blows up exactly for η/(1 - λ) > {critical:.3f}: correct decisions, of 8",
        BOUND,
        8,
        right,
        0,
        "2 % inside and outside, λ = 0.5, 0.8, 0.9, 0.95, 2,000 steps",
    )


def _worst_input(S: int, critical: float, num_units: int, num_trials: int) -> Claim:
    """The claim that no input of norm 1 is worse than the constant one.

    At the boundary, states under random inputs and a random W of norm 0.05 are compared with the fixed point there.
    """
    generator = torch.Generator().manual_seed(S)
    core = dynamics.make_core(num_units, S, layer_norm=False)
    W_HH = torch.randn(num_units, num_units, generator=generator, dtype=torch.float64)
    core.recurrent.weight.copy_(W * W_HH / torch.linalg.matrix_norm(W_HH, 2))
    p_TGH = torch.randn(300, num_trials, num_units, generator=generator, dtype=torch.float64)
    # half of the inputs keep nearly the same direction over time, like the worst input
    p_TGH[:, ::2] = p_TGH[:1, ::2].abs() + 0.1 * p_TGH[:, ::2]
    p_TGH /= p_TGH.norm(dim=2, keepdim=True)
    decay_G = np.linspace(0.5, 0.95, num_trials)
    norms_TG, _ = dynamics.run(dynamics.on_grid(core, decay_G, critical * (1 - decay_G)), p_TGH)
    u = np.linspace(0, 2, 200_001)
    highest = u[np.argmax(u / sum(u ** (2 * j) for j in range(S + 1)) - W * u)] / np.sqrt(critical)
    return at_most(
        f"S = {S}: no other input of norm 1 is worse than the constant one: largest ‖h_t‖ of {num_trials} sequences "
        "at the boundary",
        BOUND,
        float(highest),
        float(norms_TG.max()),
        "the fixed point there; a theorem, no tolerance",
    )


def _growth(S: int, constant_H: torch.Tensor) -> Claim:
    """The claim that beyond the boundary ‖h‖ → η^S W ‖h‖^(2S+1) in each step."""
    core = dynamics.make_core(len(constant_H), S, layer_norm=False, recurrent_scale=W)
    norms_TG, _ = dynamics.run(dynamics.on_grid(core, np.array([0.9]), np.array([0.5])), constant_H.expand(60, 1, -1))
    log_T = np.log(norms_TG[np.isfinite(norms_TG[:, 0]), 0])
    ratio = (log_T[-1] - S * np.log(0.5) - np.log(W)) / log_T[-2]
    return near(
        f"S = {S}: the blow-up is doubly exponential, ln ‖h‖ → {2 * S + 1} ln ‖h‖ + {S} ln η + ln w: coefficient",
        "Leading term of equations 1 and 2, A^S W h with A = η h hᵀ",
        2 * S + 1,
        float(ratio),
        0.01,
        "last step before overflow, h above about 1e10: lower-order terms are a millionth",
    )


def _radii_at_rest(kappa: float, decay: float, constant_H: torch.Tensor) -> tuple[float, float]:
    """Spectral radii of the full Jacobian and of A at the fixed point under a constant input of norm 1, S = 1."""
    core = dynamics.make_core(len(constant_H), 1, layer_norm=False, recurrent_scale=W)
    core.decay, core.fast_lr = decay, kappa * (1 - decay)
    # the smaller root of h = (W h + 1)(1 + κ h²); it lies below the maximizer, where the two roots meet at the boundary
    top = _maximizer() / np.sqrt(kappa) if kappa else 2.0
    norm = brentq(lambda h: h / (1 + kappa * h**2) - W * h - 1, 0, top)
    h_H = norm * constant_H
    state = dynamics.FastWeightsState(h_H, kappa * torch.outer(h_H, h_H))
    jacobian_NN = dynamics.full_jacobian(core, constant_H, state)
    return dynamics.spectral_radius(jacobian_NN), dynamics.spectral_radius(state.A_BHH)


def _survived_norm(decay: float, fast_lr: float, constant_H: torch.Tensor) -> float:
    """The largest norm of a constant input for which h does not blow up in 3,000 steps, in increments of 0.5 %."""
    strength_G = torch.tensor(0.1 * 1.005 ** np.arange(150))
    core = dynamics.make_core(len(constant_H), 1, layer_norm=False, recurrent_scale=W)
    core.decay, core.fast_lr = decay, fast_lr
    norms_TG, _ = dynamics.run(core, (strength_G[:, None] * constant_H).expand(3000, -1, -1))
    return float(strength_G[np.isfinite(norms_TG[-1])].max())


def draw_blow_up(result: BlowUp) -> Figure:
    """Three maps with the predicted boundary, and the spectral radii as κ approaches it."""
    figure, all_axes = new_figure(2, 2, panel_width=4, panel_height=3.3)
    for S, axes in zip(STEPS, all_axes.flat, strict=False):
        shown = np.where(np.isfinite(result.norm_LE[S]), np.log10(np.minimum(result.norm_LE[S], 1e9)), np.nan)
        axes.set_facecolor("0.25")
        mesh = dynamics.draw_map(axes, result.decay_L, result.fast_lr_E, shown, cmap="Blues", vmin=0, vmax=0.5)
        for style in ({"color": "white", "linewidth": 4}, {"color": COLORS[2], "linewidth": 2.2, "linestyle": "--"}):
            axes.plot(result.critical[S] * (1 - result.decay_L), 1 - result.decay_L, **style)
        axes.set_ylabel("decay λ")
        axes.text(0.97, 0.93, "h blows up", color="white", transform=axes.transAxes, ha="right", va="top")
        axes.text(0.04, 0.06, "stable", transform=axes.transAxes)
        heading(axes, f"S = {S}; dashed: η = {result.critical[S]:.3f} (1 - λ)")
    label = rf"$\log_{{10}}\|h_{{{result.num_steps}}}\|$, inputs of norm 1"
    figure.colorbar(mesh, ax=list(all_axes.flat), shrink=0.6, label=label, extend="max")
    radii = all_axes[1, 1]
    radii.plot(result.fraction, result.jacobian_radius, label="full Jacobian", **line(0))
    radii.plot(result.fraction, result.memory_radius, label="A", **line(1))
    radii.axhline(1, **LIMIT)
    radii.set(
        xlabel=r"$\kappa\,/\,\kappa_c$ with $\kappa = \eta/(1-\lambda)$", ylabel="spectral radius", ylim=(0, 1.08)
    )
    radii.legend(frameon=False, loc="center left")
    heading(radii, "on the way to the boundary, S = 1, λ = 0.9")
    return figure
