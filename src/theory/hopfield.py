"""The Hopfield network: its energy, the effect of asymmetric weights or synchronous updates, and its basins.

Shapes: N units, P patterns, S states updated in parallel.
"""

from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Ge
from matplotlib.figure import Figure

from src.theory.base import Claim, Demonstration
from src.theory.claims import at_least, at_most, near
from src.theory.figures import LIMIT, heading, line, new_figure

HOPFIELD = "Hopfield (1982)"
ROTATION = np.array([[0.0, 1.0], [-1.0, 0.0]])
"""Unit 1 follows unit 2, and unit 2 opposes unit 1."""
EXCHANGE = np.array([[0.0, 1.0], [1.0, 0.0]])
"""Each unit follows the other one."""


def random_patterns(num_units: int, num_patterns: int, rng: np.random.Generator) -> np.ndarray:
    """Independent patterns of -1 and 1, [N, P]."""
    return rng.choice(np.array([-1.0, 1.0]), (num_units, num_patterns))


def store(patterns_NP: np.ndarray) -> np.ndarray:
    """W = 1/N Σ ξ ξᵀ with zero diagonal, [N, N]."""
    W_NN = patterns_NP @ patterns_NP.T / len(patterns_NP)
    np.fill_diagonal(W_NN, 0)
    return W_NN


def energy(W_NN: np.ndarray, s_NS: np.ndarray) -> np.ndarray:
    """E = -½ sᵀ W s of each state."""
    return -0.5 * np.einsum("is,ij,js->s", s_NS, W_NN, s_NS, optimize=True)


def signs(field: np.ndarray, s: np.ndarray) -> np.ndarray:
    """The sign of the field; a unit with zero field keeps its state."""
    return np.where(field == 0, s, np.sign(field))


def settle(W_NN: np.ndarray, s_NS: np.ndarray, rng: np.random.Generator, max_sweeps: int = 60) -> np.ndarray:
    """Update one unit at a time, in a new random order each sweep, until none changes, at most `max_sweeps` times."""
    s_NS = s_NS.copy()
    for _ in range(max_sweeps):
        changed = False
        for unit in rng.permutation(len(W_NN)):
            updated_S = signs(W_NN[unit] @ s_NS, s_NS[unit])
            changed = changed or bool((updated_S != s_NS[unit]).any())
            s_NS[unit] = updated_S
        if not changed:
            break
    return s_NS


def period(W_NN: np.ndarray, s_N: np.ndarray, *, synchronous: bool, max_steps: int = 1000) -> int:
    """The period, in steps, of the cycle in which a trajectory ends.

    A step updates all units together if `synchronous`, and otherwise the next unit in a fixed order. In that case a
    state counts as recurring only if the same unit is to be updated next.

    Raises:
        RuntimeError: no state recurs within `max_steps` steps.
    """
    seen: dict[tuple[bytes, int], int] = {}
    turn = 0
    for step in range(max_steps):
        now = s_N.tobytes(), turn
        if now in seen:
            return step - seen[now]
        seen[now] = step
        if synchronous:
            s_N = signs(W_NN @ s_N, s_N)
        else:
            s_N = s_N.copy()
            s_N[turn] = signs(W_NN[turn] @ s_N, s_N[turn])
            turn = (turn + 1) % len(s_N)
    raise RuntimeError(f"no state recurred within {max_steps} steps")


class Descent(NamedTuple):
    """The energy over updates of a symmetric and an asymmetric network."""

    claims: tuple[Claim, ...]
    symmetric: np.ndarray
    """Energies with symmetric weights, [updates + 1, S]."""
    asymmetric: np.ndarray
    """The same with asymmetric weights."""
    cycle: np.ndarray
    """The two units of the smallest asymmetric network, updated in turn, [updates + 1, 2]."""
    alternation: np.ndarray
    """The two units of a symmetric network, updated together, [updates + 1, 2]."""


def descend(W_NN: np.ndarray, s_NS: np.ndarray, updates: int, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Energies over updates of random units, and the largest deviation of a change from -Δs_i · field_i."""
    s_NS = s_NS.copy()
    energies = [energy(W_NN, s_NS)]
    worst = 0.0
    for unit in rng.integers(len(W_NN), size=updates):
        field_S = W_NN[unit] @ s_NS
        change_S = signs(field_S, s_NS[unit]) - s_NS[unit]
        s_NS[unit] += change_S
        energies.append(energy(W_NN, s_NS))
        worst = max(worst, float(abs(energies[-1] - energies[-2] + change_S * field_S).max()))
    return np.array(energies), worst


def run_descent(num_units: int = 100, num_patterns: int = 8, starts: int = 20, seed: int = 0) -> Descent:
    """Follow the energy from random states, and find the periods of networks that need not come to rest."""
    rng = np.random.default_rng(seed)
    W_NN = store(random_patterns(num_units, num_patterns, rng))
    s_NS = random_patterns(num_units, starts, rng)
    symmetric, worst = descend(W_NN, s_NS, 8 * num_units, rng)
    A_NN = rng.standard_normal((num_units, num_units)) / np.sqrt(num_units)
    np.fill_diagonal(A_NN, 0)
    asymmetric, _ = descend(A_NN, s_NS, 8 * num_units, rng)

    periods = []
    for _ in range(200):
        B_NN = rng.standard_normal((20, 20))
        periods.append(period(B_NN + B_NN.T, random_patterns(20, 1, rng)[:, 0], synchronous=True))
    claims = (
        at_most(
            "The energy -½ sᵀWs never rises when one unit at a time follows its field (W symmetric, no diagonal)",
            f"{HOPFIELD}; Wayman & Mathew, final report: the energy is a Lyapunov function",
            1e-12,
            float(np.diff(symmetric, axis=0).max()),
            f"rounding; largest change in {8 * num_units} updates from {starts} random states",
        ),
        near(
            "Each update changes the energy by -Δs_i · field_i ≤ 0",
            f"{HOPFIELD}, equation 8",
            0.0,
            worst,
            1e-12,
            "rounding; largest difference",
        ),
        at_least(
            "With asymmetric weights the energy can rise",
            "the proof needs w_ij = w_ji",
            0.1,
            float(np.diff(asymmetric, axis=0).max()),
            "largest rise in one update; the energies themselves are about 30",
        ),
        near(
            "Two units, one following and one opposing the other, never come to rest: period 4 updates",
            "a fixed point would need s_1 = s_2 and s_2 = -s_1",
            4.0,
            float(period(ROTATION, np.ones(2), synchronous=False)),
            0.0,
            "exact",
        ),
        near(
            "Updated together, two units that follow each other exchange their states forever: period 2",
            "s(t + 1) = (s_2(t), s_1(t))",
            2.0,
            float(period(EXCHANGE, np.array([1.0, -1.0]), synchronous=True)),
            0.0,
            "exact",
        ),
        near(
            "Updated together, a symmetric network ends in a fixed point or in a cycle of period 2",
            "Goles-Chacc, Fogelman-Soulié & Pellegrin (1985)",
            2.0,
            float(max(periods)),
            0.0,
            f"exact: longest period of 200 random networks, {periods.count(1)} of which came to rest",
        ),
    )
    cycle, alternation = [np.ones(2)], [np.array([1.0, -1.0])]
    for step in range(12):
        s_2 = cycle[-1].copy()
        s_2[step % 2] = ROTATION[step % 2] @ s_2
        cycle.append(s_2)
        alternation.append(EXCHANGE @ alternation[-1])
    return Descent(claims, symmetric, asymmetric, np.array(cycle), np.array(alternation))


def draw_descent(result: Descent) -> Figure:
    """The energy with and without symmetry, and the two networks that never come to rest."""
    figure, all_axes = new_figure(2, 2, panel_height=2.4)
    (down, up), (turns, together) = all_axes
    updates = np.arange(len(result.symmetric))
    down.plot(updates, result.symmetric, color="0.6", linewidth=0.8)
    down.plot(updates, result.symmetric[:, 0], **line(0))
    up.plot(updates, result.asymmetric[:, 1:6], color="0.75", linewidth=0.8)
    up.plot(updates, result.asymmetric[:, 0], **line(0) | {"linewidth": 1.0})
    heading(down, "Symmetric weights: the energy falls")
    heading(up, "Asymmetric weights: it rises and falls")
    for axes in (down, up):
        axes.set(xlabel="updates of single units", ylabel="energy $-½\\,s^{T}Ws$")
    heading(turns, "Follow and oppose, in turn: period 4")
    heading(together, "Follow each other, together: period 2")
    for axes, states, label in ((turns, result.cycle, "unit updates"), (together, result.alternation, "joint updates")):
        for unit in range(2):
            axes.step(np.arange(len(states)), states[:, unit] + 3 * (1 - unit), where="post", **line(unit))
        axes.set(
            yticks=[-1, 1, 2, 4],
            yticklabels=["−1", "1", "−1", "1"],
            xlabel=label,
            ylim=(-1.6, 4.6),
            xticks=range(0, 13, 4),
        )
        axes.set_ylabel("unit 2        unit 1")
    return figure


class Basins(NamedTuple):
    """How much of a pattern is recovered, as a function of how much of it was corrupted."""

    claims: tuple[Claim, ...]
    loads: tuple[float, ...]
    corrupted: np.ndarray
    """Share of units flipped at the start."""
    recovered: np.ndarray
    """Mean overlap with the pattern at the end, [loads, shares]."""


def run_basins(num_units: Annotated[int, Ge(26)] = 400, draws: int = 4, patterns: int = 12, seed: int = 0) -> Basins:
    """Start from stored patterns with a share of their units flipped.

    With fewer than 26 units, the lowest load would round to zero patterns.
    """
    rng = np.random.default_rng(seed)
    loads = (0.02, 0.05, 0.08, 0.11)
    corrupted = np.arange(0, 0.51, 0.05)
    recovered = np.zeros((len(loads), len(corrupted)))
    found = np.zeros(len(loads))
    fewest = min(patterns, round(loads[0] * num_units))
    for row, load in enumerate(loads):
        for _ in range(draws):
            stored_NP = random_patterns(num_units, round(load * num_units), rng)
            shown_NP = stored_NP[:, :patterns]
            starts = [flipped(shown_NP, share, rng) for share in corrupted]
            final_NS = settle(store(stored_NP), np.concatenate(starts, axis=1), rng)
            overlaps_S = (final_NS * np.tile(shown_NP, len(corrupted))).mean(0)
            recovered[row] += overlaps_S.reshape(len(corrupted), -1).mean(1) / draws
            from_half_P = overlaps_S.reshape(len(corrupted), -1)[-1]
            found[row] += (abs(from_half_P) > 0.9).mean() / draws
    half = np.array([np.interp(-0.9, -curve, corrupted) for curve in recovered])

    small_NP = random_patterns(60, 4, rng)
    W_NN, order = store(small_NP), np.random.default_rng(seed)
    upright = settle(W_NN, small_NP, order)
    mirrored = settle(W_NN, -small_NP, np.random.default_rng(seed))
    claims = (
        at_least(
            "At a load of 0.05 a pattern is recovered with a quarter of its units flipped",
            "Amit, Gutfreund & Sompolinsky (1987): overlap above 0.99 of retrieval states at this load",
            0.97,
            float(recovered[1, 5]),
            "0.99 minus the few starts that end in a mixture of patterns",
        ),
        at_most(
            "From a state that agrees with a pattern in half of the units, this pattern or its negative is hardly ever "
            "recovered",
            "the initial overlap is zero",
            0.1,
            float(found.max()),
            f"largest share of final overlaps beyond ±0.9, over loads with at least {draws * fewest} starts each; with "
            "14 seeds and the default settings, at most one start of a load ended there",
        ),
        at_most(
            "The basins shrink as the load grows: less corruption is tolerated at every higher load",
            "Amit (1989), section 6.3",
            -0.01,
            float(np.diff(half).max()),
            "largest change, from load to load, of the share of flipped units at which an overlap of 0.9 is recovered: "
            + ", ".join(f"{share:.2f}" for share in half),
        ),
        near(
            "Every pattern is stored together with its negative: -ξ is as stable as ξ",
            "E(-s) = E(s)",
            0.0,
            float(abs(upright + mirrored).max()),
            0.0,
            "exact, with the same order of updates",
        ),
    )
    return Basins(claims, loads, corrupted, recovered)


def flipped(patterns_NP: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """The patterns, each with this share of its units flipped at random."""
    places_NP = rng.random(patterns_NP.shape).argsort(axis=0)
    return np.where(places_NP < round(share * len(patterns_NP)), -patterns_NP, patterns_NP)


def draw_basins(result: Basins) -> Figure:
    """The recovered overlap as a function of the initial corruption, one curve per load."""
    figure, ((axes,),) = new_figure(1, 1, panel_width=4.6, panel_height=3.4)
    axes.plot(result.corrupted, 1 - 2 * result.corrupted, **LIMIT, label="as at the start")
    for index, (load, curve) in enumerate(zip(result.loads, result.recovered, strict=True)):
        axes.plot(result.corrupted, curve, **line(index, marker=True), label=f"load {load:g}")
    axes.set(xlabel="flipped units at the start (share)", ylabel="overlap with the pattern at the end")
    axes.legend(loc="lower left", fontsize=8.5)
    return figure


DEMONSTRATIONS = (
    Demonstration("hopfield_energy", run_descent, draw_descent),
    Demonstration("hopfield_basins", run_basins, draw_basins),
)
