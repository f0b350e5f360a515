r"""The fast-weights recurrence as a dynamical system with state (h, A), for many λ and η at once.

Without layer norm, everything follows from one number, κ = η/(1 - λ). With ‖f(a)‖ ≤ ‖a‖ (ReLU, tanh), w = σ_max(W),
‖C x_t‖ ≤ x and S reads,

    ‖h_{t+1}‖ ≤ (w ‖h_t‖ + x) Σ_{j=0..S} ‖A_t‖^j          ‖A_t‖ ≤ λ ‖A_{t-1}‖ + η ‖h_t‖²

and for ReLU a constant non-negative input with W = w I turns both into equalities. The right-hand sides increase with
‖h‖ and ‖A‖, so from rest they rise to their smallest fixed point, ‖A‖ = κ ‖h‖², or without bound if there is none:

    bounded  <=>  √κ x ≤ c(w, S) = max_u [ u / Σ_{j=0..S} u^{2j} - w u ]          u = √κ ‖h‖

for this input; for any other input only "<=" holds. c(0, 1) = 1/2, at u = 1, where ‖A‖ = 1.

Shapes: G settings of (λ, η), T time steps, H hidden units, N = H + H² state entries.
"""

import copy
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

from src.models.fastweights import FastWeights, FastWeightsState
from src.models.sequence import SequenceModel
from src.theory.networks import seeded_float64

Array = NDArray[np.float64]
BOUND = "Comparison with the scalar recursion of ‖h‖ and ‖A‖ (page of this topic); Ba et al. 2016, equations 1 and 2"
STEPS = (1, 2, 3)
W = 0.05
"""The recurrent matrix starts from W I (Ba et al. 2016, appendix A.1)."""


def grid(num_decays: int, num_lrs: int, lowest_lr: float, highest_lr: float) -> tuple[Array, Array]:
    """Decays λ from 0.5 to 0.99 and fast learning rates η, evenly spaced in log(1 - λ) and log η."""
    return 1 - np.geomspace(0.5, 0.01, num_decays), np.geomspace(lowest_lr, highest_lr, num_lrs)


def critical_strength(w: float = 0.0, num_inner_steps: int = 1) -> float:
    """c(w, S) from the docstring of this module."""

    def negative(u: float) -> float:
        return w * u - u / sum(u ** (2 * j) for j in range(num_inner_steps + 1))

    return -float(minimize_scalar(negative, bounds=(0, 2), method="bounded", options={"xatol": 1e-12}).fun)


def make_core(num_units: int, num_inner_steps: int, layer_norm: bool, seed: int = 0, **settings) -> FastWeights:
    """A core of fast weights in float64; the stability tests pass C x to its steps, so its projection is not used."""
    with seeded_float64(seed):
        core = FastWeights(
            num_units, hidden_size=num_units, num_inner_steps=num_inner_steps, layer_norm=layer_norm, **settings
        )
    return core.requires_grad_(False)


def on_grid(core: FastWeights, decay_G: Array, fast_lr_G: Array) -> FastWeights:
    """The same core with separate λ and η for each sequence of a batch, which the definition of its step broadcasts."""
    core = copy.deepcopy(core)
    core.decay = torch.tensor(decay_G)[:, None, None]  # type: ignore[assignment]
    core.fast_lr = torch.tensor(fast_lr_G)[:, None]  # type: ignore[assignment]
    return core


def with_settings(model: SequenceModel, decay: float, fast_lr: float) -> SequenceModel:
    """A model with the same weights and another λ and η."""
    changed = copy.copy(model)
    # a shallow copy shares the dictionary of modules
    changed._modules = model._modules | {"core": copy.copy(model.core)}
    assert isinstance(changed.core, FastWeights)
    changed.core.decay, changed.core.fast_lr = decay, fast_lr
    return changed


def run(core: FastWeights, p_TGH: Tensor) -> tuple[Array, FastWeightsState]:
    """‖h_t‖ at all steps [T, G], infinite once the state has overflowed, and the final state."""
    state = core.initial_state(p_TGH.shape[1])
    norms = []
    for p_GH in p_TGH:
        h_GH, state = core.step(p_GH, state)
        norms.append(h_GH.norm(dim=1))
    return torch.stack(norms).nan_to_num(nan=torch.inf, posinf=torch.inf).numpy(), state


def lyapunov_exponents(core: FastWeights, p_TGH: Tensor, num_skipped: int, separation: float = 1e-7) -> Array:
    """The mean growth of ln ‖(δh, δA)‖ per step along the path, [G], without the first `num_skipped` steps.

    The method of Benettin et al. (1980): follow a neighbor at a small distance, and reset the distance after each step.
    """
    state = core.initial_state(p_TGH.shape[1])
    generator = torch.Generator().manual_seed(0)
    offset = tuple(torch.randn(part.shape, generator=generator, dtype=part.dtype) for part in state)
    growth_G = torch.zeros(p_TGH.shape[1], dtype=torch.float64)
    for t, p_GH in enumerate(p_TGH):
        length_G = torch.cat([part.flatten(1) for part in offset], dim=1).norm(dim=1)
        if t > num_skipped:
            growth_G += (length_G / separation).log()
        factor_G = separation / length_G
        h_GH, A_GHH = state.h_BH + factor_G[:, None] * offset[0], state.A_BHH + factor_G[:, None, None] * offset[1]
        _, neighbor = core.step(p_GH, FastWeightsState(h_GH, A_GHH))
        _, state = core.step(p_GH, state)
        offset = neighbor.h_BH - state.h_BH, neighbor.A_BHH - state.A_BHH
    exponent_G = growth_G / (len(p_TGH) - num_skipped - 1)
    return exponent_G.nan_to_num(nan=torch.inf, posinf=torch.inf).numpy()


def full_jacobian(core: FastWeights, p_H: Tensor, state: FastWeightsState) -> Tensor:
    """∂(h_{t+1}, A_{t+1})/∂(h_t, A_t), [N, N], for one sequence."""
    num_units = len(p_H)

    def step(state_N: Tensor) -> Tensor:
        h_H, A_HH = state_N[:num_units], state_N[num_units:].view(num_units, num_units)
        _, after = core.step(p_H[None], FastWeightsState(h_H[None], A_HH[None]))
        return torch.cat([part.flatten() for part in after])

    return torch.func.jacrev(step)(torch.cat([part.flatten() for part in state]))


def spectral_radius(matrix_NN: Tensor) -> float:
    """The largest modulus of the eigenvalues; infinite if the matrix is not finite."""
    if not bool(matrix_NN.isfinite().all()):
        return float("inf")
    return float(torch.linalg.eigvals(matrix_NN).abs().max())


def jacobian_radii(core: FastWeights, decay_G: Array, fast_lr_G: Array, p_TGH: Tensor, num_last: int = 5) -> Array:
    """Spectral radius of the full Jacobian, as a geometric mean over the last `num_last` steps, [G]."""
    gridded = on_grid(core, decay_G, fast_lr_G)
    _, state = run(gridded, p_TGH[:-num_last])
    log_TG = np.empty((num_last, len(decay_G)))
    single = copy.copy(core)
    for t, p_GH in enumerate(p_TGH[-num_last:]):
        for g, (decay, fast_lr) in enumerate(zip(decay_G, fast_lr_G, strict=True)):
            single.decay, single.fast_lr = float(decay), float(fast_lr)
            one = FastWeightsState(state.h_BH[g], state.A_BHH[g])
            log_TG[t, g] = np.log(max(spectral_radius(full_jacobian(single, p_GH[g], one)), 1e-300))
        _, state = gridded.step(p_GH, state)
    return np.exp(log_TG.mean(0))


def draw_map(axes: Axes, decay_L: Array, fast_lr_E: Array, values_LE: Array, **scale: Any) -> QuadMesh:
    """Draw values as a function of η and λ, on logarithmic axes of η and 1 - λ; the latter is labeled with λ."""
    x, y = (np.geomspace(v[0] * (v[0] / v[1]) ** 0.5, v[-1] * (v[1] / v[0]) ** 0.5, len(v) + 1)
            for v in (fast_lr_E, 1 - decay_L))  # fmt: skip
    mesh = axes.pcolormesh(x, y, values_LE, **scale)
    shown = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
    axes.set(xscale="log", yscale="log", xlabel="fast learning rate η", xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    axes.set_yticks([1 - decay for decay in shown], [str(decay) for decay in shown])
    axes.minorticks_off()
    axes.grid(visible=False)
    return mesh
