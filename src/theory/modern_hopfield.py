"""The modern Hopfield network: exponentially many patterns, and the attention of a transformer as its update.

Shapes: N units, P patterns, S states updated in parallel.
"""

from typing import Annotated, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Le
from matplotlib.figure import Figure
from scipy.special import logsumexp, softmax
from torch.nn import functional

from src.theory.base import Claim, Demonstration
from src.theory.claims import at_least, at_most, near
from src.theory.figures import LIMIT, heading, line, new_figure
from src.theory.hopfield import flipped, random_patterns, settle, store

DEMIRCIGIL = "Demircigil et al. (2017), theorem 3"
RAMSAUER = "Ramsauer et al. (2021), “Hopfield Networks Is All You Need”"


class Comparison(NamedTuple):
    """Recall by the two networks as a function of the number of stored patterns."""

    claims: tuple[Claim, ...]
    num_units: int
    corrupted: float
    num_patterns: np.ndarray
    classical: np.ndarray
    modern: np.ndarray
    energies: np.ndarray
    """Energies over continuous updates, [updates + 1, S]."""


def update(patterns_NP: np.ndarray, s_NS: np.ndarray, beta: float) -> np.ndarray:
    """The update of continuous states, s ← X softmax(β Xᵀ s)."""
    return patterns_NP @ softmax(beta * patterns_NP.T @ s_NS, axis=0)


def energy(patterns_NP: np.ndarray, s_NS: np.ndarray, beta: float) -> np.ndarray:
    """-1/β log Σ_μ e^(β ξ_μᵀ s) + ½ sᵀ s, which `update` never raises."""
    return -logsumexp(beta * patterns_NP.T @ s_NS, axis=0) / beta + 0.5 * (s_NS**2).sum(0)


def recall(patterns_NP: np.ndarray, s_NS: np.ndarray) -> np.ndarray:
    """One update of every unit of ±1 states under the energy -Σ_μ e^(ξ_μᵀ s).

    Given the other units, unit i takes the sign with the lower energy, which is the sign of
    Σ_μ [e^(ξ_iμ + r_iμ) - e^(-ξ_iμ + r_iμ)] with r_iμ = ξ_μᵀ s - ξ_iμ s_i.
    """
    overlaps_PS = patterns_NP.T @ s_NS
    updated_NS = np.empty_like(s_NS)
    for unit, xi_P in enumerate(patterns_NP):
        rest_PS = overlaps_PS - xi_P[:, None] * s_NS[unit]
        # 2 sinh(ξ) = 2 ξ sinh(1) for ξ = ±1; the common factor does not affect the sign
        weights_PS = np.exp(rest_PS - rest_PS.max(0))
        updated_NS[unit] = np.sign(xi_P @ weights_PS)
    return updated_NS


def run(
    num_units: Annotated[int, Ge(50)] = 100,
    corrupted: Annotated[float, Ge(0), Le(1)] = 0.1,
    recalled: int = 20,
    seed: int = 0,
) -> Comparison:
    """Recall corrupted patterns with both networks, which store up to a hundred times as many patterns as units."""
    rng = np.random.default_rng(seed)
    num_patterns = np.array([2, 5, 10, 14, 20, 40, 100, 1000, 10_000]) * num_units // 100
    classical, modern = np.empty(len(num_patterns)), np.empty(len(num_patterns))
    for index, count in enumerate(num_patterns):
        stored_NP = random_patterns(num_units, int(count), rng)
        shown_NP = stored_NP[:, :recalled]
        start_NS = flipped(shown_NP, corrupted, rng)
        classical[index] = (settle(store(stored_NP), start_NS, rng) * shown_NP).mean()
        modern[index] = (recall(stored_NP, start_NS) * shown_NP).mean()

    X_NP = rng.standard_normal((16, 12))
    beta = 1.0
    s_NS = 2 * rng.standard_normal((16, 12))
    states = [s_NS]
    for _ in range(8):
        states.append(update(X_NP, states[-1], beta))
    energies = np.array([energy(X_NP, s, beta) for s in states])
    queries, keys = torch.from_numpy(s_NS.T.copy()), torch.from_numpy(X_NP.T.copy())
    attended = functional.scaled_dot_product_attention(queries, keys, keys, scale=beta).numpy()
    limit = round(0.138 * num_units)
    claims = (
        near(
            f"With exponential interactions {num_patterns[-1]} patterns of {num_units} units are recalled without a "
            f"wrong unit, {corrupted:.0%} of the units being flipped",
            f"{DEMIRCIGIL}: capacity e^(cN)",
            1.0,
            float(modern.min()),
            0.0,
            f"exact: overlap of {recalled} patterns after one update, at every number of patterns",
        ),
        at_most(
            "With at least as many patterns as units, the classical network keeps less than half of a pattern",
            "Amit, Gutfreund & Sompolinsky (1987): no retrieval state above 0.138 N",
            0.5,
            float(classical[num_patterns >= num_units].max()),
            f"its limit is {limit} patterns",
        ),
        at_least(
            "At a load of 0.05 the classical network also recalls",
            "Amit, Gutfreund & Sompolinsky (1987)",
            0.98,
            float(classical[1]),
            "the mean-field overlap is above 0.99",
        ),
        near(
            "The update of continuous states, X softmax(β Xᵀ s), is softmax attention over the stored patterns",
            f"{RAMSAUER}, equation 3",
            0.0,
            float(abs(attended.T - states[1]).max()),
            1e-12,
            "against torch's attention; rounding in float64",
        ),
        at_most(
            "This update never raises the energy -lse(β, Xᵀs) + ½ sᵀs",
            f"{RAMSAUER}, theorem 1",
            1e-12,
            float(np.diff(energies, axis=0).max()),
            "rounding; largest change from 12 random states",
        ),
    )
    return Comparison(claims, num_units, corrupted, num_patterns, classical, modern, energies)


def draw(result: Comparison) -> Figure:
    """The overlap as a function of the number of patterns, and the energy over continuous updates."""
    figure, ((capacity, descent),) = new_figure(1, 2, panel_width=4.0, panel_height=3.2)
    capacity.semilogx(result.num_patterns, result.modern, **line(1, marker=True), label="exponential (modern)")
    capacity.semilogx(result.num_patterns, result.classical, **line(0, marker=True), label="quadratic (classical)")
    limit = 0.138 * result.num_units
    capacity.axvline(limit, **LIMIT)
    capacity.text(limit * 0.88, 0.12, "0.138 N", rotation=90, ha="right", fontsize=9)
    capacity.set(xlabel=f"stored patterns of {result.num_units} units", ylabel="overlap after recall", ylim=(0, 1.06))
    capacity.legend(loc="center right", fontsize=8.5)
    heading(capacity, f"Recall with {result.corrupted:.0%} of the units flipped")

    descent.plot(result.energies, color="0.55", linewidth=1.0)
    descent.plot(result.energies[:, 0], **line(0, marker=True))
    descent.set(xlabel="updates by attention", ylabel="energy")
    heading(descent, "The energy falls")
    return figure


DEMONSTRATIONS = (Demonstration("modern_hopfield", run, draw),)
