"""With layer norm, the state is bounded at every setting, and no setting is far from neutral on the unstable side.

Shapes: G settings of (λ, η), L decays, E fast learning rates, T time steps, H hidden units.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from matplotlib.figure import Figure

from src.theory.base import Claim
from src.theory.claims import at_least, at_most, near
from src.theory.fast_weights_stability import dynamics
from src.theory.fast_weights_stability.dynamics import BOUND, STEPS, Array, W, grid
from src.theory.figures import heading, wrapped


@dataclass
class Bounded:
    """Lyapunov exponents with layer norm, by S, and the settings at which the state overflows without it."""

    claims: list[Claim]
    decay_L: Array
    fast_lr_E: Array
    exponent_LE: dict[int, Array]
    blown_up_LE: dict[int, Array]


def normalize_dynamics(
    num_units: Annotated[int, Ge(2)] = 10,
    num_steps: Annotated[int, Ge(2)] = 160,
    num_decays: Annotated[int, Ge(2)] = 9,
    num_lrs: Annotated[int, Ge(2)] = 9,
    seed: int = 0,
) -> Bounded:
    """Measure the dynamics with layer norm, N(0, 1) inputs and W = 0.05 I, and which settings overflow without it."""
    decay_L, fast_lr_E = grid(num_decays, num_lrs, 1e-3, 10.0)
    decay_G, fast_lr_G = (a.ravel() for a in np.meshgrid(decay_L, fast_lr_E, indexing="ij"))
    generator = torch.Generator().manual_seed(seed)
    p_TGH = torch.randn(num_steps, 1, num_units, generator=generator, dtype=torch.float64).expand(-1, len(decay_G), -1)
    exponents, blown_up, norm, memory, radius = {}, {}, 0.0, 0.0, 0.0
    for S in STEPS:
        core = dynamics.make_core(num_units, S, layer_norm=True, recurrent_scale=W)
        gridded = dynamics.on_grid(core, decay_G, fast_lr_G)
        norms_TG, state = dynamics.run(gridded, p_TGH)
        bound_G = torch.tensor(fast_lr_G * num_units / (1 - decay_G))
        norm = max(norm, float(norms_TG.max()))
        memory = max(memory, float((torch.linalg.matrix_norm(state.A_BHH, 2) / bound_G).max()))
        exponents[S] = dynamics.lyapunov_exponents(gridded, p_TGH, num_steps // 4).reshape(num_decays, num_lrs)
        radius = max(radius, float(dynamics.jacobian_radii(core, decay_G, fast_lr_G, p_TGH, 1).max()))
        without = dynamics.make_core(num_units, S, layer_norm=False, recurrent_scale=W)
        norms_TG, _ = dynamics.run(dynamics.on_grid(without, decay_G, fast_lr_G), p_TGH)
        blown_up[S] = np.isinf(norms_TG[-1]).reshape(num_decays, num_lrs)
    count = len(STEPS) * len(decay_G)
    highest = max(float(exponent.max()) for exponent in exponents.values())
    faint = float(exponents[1][0, 0])
    shortest = [float(exponent[0, -1]) for exponent in exponents.values()]
    claims = [
        at_most(
            f"Layer norm: ‖h_t‖ ≤ √H for all {count} settings of λ, η and S: largest ‖h_t‖",
            "‖LN(a)‖ ≤ √H with gain 1 and bias 0, and ReLU does not increase it; Ba et al. 2016, section 3.1",
            num_units**0.5,
            norm,
            "a theorem, no tolerance",
        ),
        at_most(
            "Layer norm: ‖A_t‖ ≤ η H/(1 - λ): largest ratio",
            "Geometric series with ‖h‖² ≤ H",
            1.0,
            memory,
            "a theorem, no tolerance",
        ),
        at_least(
            f"Without layer norm most settings blow up under the same inputs: share of {count}",
            BOUND,
            0.5,
            float(np.mean([v.mean() for v in blown_up.values()])),
            "inputs of norm 3 are stable only below η/(1 - λ) of 0.02",
        ),
        at_most(
            "Layer norm: no setting is far from neutral on the unstable side: largest Lyapunov exponent",
            "Measured; without layer norm the exponent is infinite beyond the boundary",
            0.3,
            highest,
            "a factor of 1.35 per step; fluctuations are 0.1 over a path of this length",
        ),
        near(
            "Layer norm does not make the dynamics robust: for small η the exponent is ln λ (λ = 0.5, η = 0.001) ...",
            "As η → 0, only A' = λ A remains, and W = 0.05 I contracts faster",
            np.log(0.5),
            faint,
            0.05,
            "η = 0.001 is not 0",
        ),
        near(
            "... and for η = 10 and λ above 0.8 it is 0 for every S: largest modulus",
            "Measured; reads from A then outweigh the input, and a state is neither lost nor amplified",
            0.0,
            float(max(np.abs(exponent[decay_L > 0.8, -1]).max() for exponent in exponents.values())),
            0.1,
            "the fluctuation over a path of this length; at most 0.06 with three seeds; ln λ is -0.21 for λ = 0.81",
        ),
        at_least(
            "... while for λ = 0.5 no exponent is near ln λ any more, though they scatter: lowest",
            "Measured; the exponent for small η is ln 0.5 = -0.69",
            np.log(0.5) / 2,
            min(shortest),
            "half of ln 0.5; from -0.22 to +0.13 with three seeds",
        ),
        at_most(
            "... while for λ = 0.5 no exponent is near ln λ any more, though they scatter: highest",
            "Measured, as above",
            0.2,
            max(shortest),
            "from -0.22 to +0.13 with three seeds, and fluctuations of 0.1",
        ),
        at_least(
            "A spectral radius above 1 at one step does not make a driven network unstable: largest radius of the full "
            "Jacobian at the last step",
            "Growth is the exponent of the product, not an eigenvalue of a factor; Wayman & Mathew, report, "
            "section 5.1.1, on nonautonomous systems",
            1.5,
            radius,
            f"no exponent is above {highest:.2f}, a factor of {np.exp(highest):.2f} per step",
        ),
    ]
    return Bounded(claims, decay_L, fast_lr_E, exponents, blown_up)


def draw_bounded(result: Bounded) -> Figure:
    """The exponents with layer norm, with a cross wherever the same network overflows without it."""
    figure, all_axes = wrapped(3, panel_height=3.3, sharey=True)
    edge = max(float(np.abs(exponent).max()) for exponent in result.exponent_LE.values())
    for S, axes in zip(STEPS, all_axes, strict=True):
        mesh = dynamics.draw_map(
            axes, result.decay_L, result.fast_lr_E, result.exponent_LE[S], cmap="PuOr_r", vmin=-edge, vmax=edge
        )
        rows, columns = np.nonzero(result.blown_up_LE[S])
        axes.plot(result.fast_lr_E[columns], 1 - result.decay_L[rows], "x", color="black", markersize=5)
        heading(axes, f"S = {S}")
    for axes in all_axes[::2]:
        axes.set_ylabel("decay λ")
    figure.colorbar(mesh, ax=all_axes, label="largest Lyapunov exponent,\nwith layer norm")
    figure.supxlabel("×: without layer norm, the state overflows", fontsize=10)
    return figure
