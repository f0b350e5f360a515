"""Phase portraits of two ReLU units with a positive definite matrix, the argument behind the np-RNN."""

from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from src.models.nprnn import normalized_positive_definite_
from src.theory.base import Claim, Demonstration
from src.theory.claims import at_least, at_most, near
from src.theory.figures import COLORS, heading, wrapped

TALATHI = "Talathi & Vartak (2015), section 3"
DIRECTION = np.array([2.0, 1.0]) / np.sqrt(5)
"""The leading eigenvector, inside the quadrant where ReLU is the identity."""
SPECTRA = {
    "Eigenvalues 1, 1: stay": (1.0, 1.0),
    "0.8, 0.5: all to 0": (0.8, 0.5),
    "1, 0.5: all to a line": (1.0, 0.5),
    "1.2, 0.5: away, or to 0": (1.2, 0.5),
}


class Portraits(NamedTuple):
    """Orbits from a grid of initial states, for each pair of eigenvalues."""

    claims: tuple[Claim, ...]
    orbits: dict[str, np.ndarray]
    """Orbits by panel title, each [num_steps + 1, S, 2]."""


def with_eigenvalues(leading: float, other: float, direction: np.ndarray = DIRECTION) -> np.ndarray:
    """The symmetric matrix with these eigenvalues, the first one along `direction`."""
    across = np.array([-direction[1], direction[0]])
    return leading * np.outer(direction, direction) + other * np.outer(across, across)


def orbit(W: np.ndarray, h_S2: np.ndarray, num_steps: int) -> np.ndarray:
    """Iterate h ← relu(W h) without input, [num_steps + 1, S, 2]."""
    states = [h_S2]
    for _ in range(num_steps):
        states.append(np.maximum(states[-1] @ W.T, 0))
    return np.array(states)


def run(num_steps: int = 60, matrices: int = 200, seed: int = 0) -> Portraits:
    """Compute orbits of the four cases, and the initial spectrum of the project's np-RNN."""
    axis = np.linspace(-1, 1, 9)
    starts_S2 = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    inside = (starts_S2 >= 0).all(1)
    orbits = {name: orbit(with_eigenvalues(*pair), starts_S2, num_steps) for name, pair in SPECTRA.items()}
    stay, vanish, collapse, leave = orbits.values()
    first = collapse[1]  # inside the quadrant, so the network is linear from this step on
    projected = (first @ DIRECTION)[:, None] * DIRECTION
    moving = np.linalg.norm(leave[1], axis=1) > 0
    growth = np.linalg.norm(leave[-1, moving], axis=1) / np.linalg.norm(leave[-2, moving], axis=1)

    repelling = with_eigenvalues(1.0, 0.5, np.array([2.0, -1.0]) / np.sqrt(5))
    cut = orbit(repelling, starts_S2, 200)
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    spectra = []
    for _ in range(matrices):
        weight = normalized_positive_definite_(torch.empty(50, 50, dtype=torch.float64))
        spectra.append(torch.linalg.eigvalsh(weight).numpy())
    leading = np.array(spectra)[:, -1]
    torch.random.set_rng_state(generator_state)
    claims = (
        near(
            "Both eigenvalues 1: every point of the positive quadrant stays where it is and is neutrally stable",
            TALATHI,
            0.0,
            float(abs(stay[-1, inside] - starts_S2[inside]).max()),
            1e-12,
            f"rounding; largest displacement in {num_steps} steps",
        ),
        at_most(
            "Both eigenvalues below 1: every start goes to 0, at least as fast as powers of the leading eigenvalue",
            TALATHI,
            float(0.8**num_steps * np.sqrt(2)),
            float(np.linalg.norm(vanish[-1], axis=1).max()),
            f"0.8^{num_steps} times the largest start",
        ),
        near(
            "One eigenvalue 1, the other below: everything collapses to the eigenline of 1, and stays there",
            TALATHI,
            0.0,
            float(abs(collapse[-1] - projected).max()),
            1e-12,
            f"0.5^{num_steps} and rounding; distance from the projection onto the line",
            refuted=f"that line is the stable manifold ({TALATHI}): it is the center (slow) manifold, on which "
            "nothing moves; the stable one is the direction in which states vanish",
        ),
        near(
            "One eigenvalue above 1: every start not mapped to 0 by ReLU diverges at that rate",
            TALATHI,
            1.2,
            float(growth[abs(growth - 1.2).argmax()]),
            1e-9,
            "the remainder of the other eigendirection; of the start that is farthest from it",
        ),
        near(
            "The line must lie in the positive quadrant: with the eigenvector (2, -1) everything goes to 0, although "
            "the eigenvalue is 1",
            "ReLU silences the negative unit, which leaves the diagonal entry 0.9",
            0.0,
            float(abs(cut[-1]).max()),
            1e-8,
            "0.9^200 is 7e-10",
        ),
        near(
            "An np-RNN starts with a leading eigenvalue of 1",
            f"{TALATHI}; src/models/nprnn.py",
            1.0,
            float(leading[abs(leading - 1).argmax()]),
            1e-12,
            f"rounding; that of {matrices} matrices of 50 units which is farthest from it",
        ),
        at_least(
            "All other eigenvalues of a new np-RNN lie above 0",
            "A + I is at least I, and at most about 5 I (Marchenko & Pastur 1967)",
            0.15,
            float(np.array(spectra).min()),
            "smallest eigenvalue; 1/5 minus finite-size effects",
        ),
        at_most(
            "All other eigenvalues of a new np-RNN lie below 1",
            "The largest of several eigenvalues is 1",
            1 - 1e-6,
            float(np.array(spectra)[:, -2].max()),
            "second largest eigenvalue of any of the matrices; 1, less a million times the rounding",
        ),
    )
    return Portraits(claims, orbits)


def draw(result: Portraits) -> Figure:
    """Each orbit as a line from an open circle at its start to a filled circle at its end."""
    figure, all_axes = wrapped(4, panel_width=3.6, panel_height=3.5, sharex=True, sharey=True)
    for axes, (name, states) in zip(all_axes, result.orbits.items(), strict=True):
        if SPECTRA[name] == (1.0, 0.5):
            axes.plot([0, 1.5 * DIRECTION[0]], [0, 1.5 * DIRECTION[1]], color=COLORS[2], linewidth=5, alpha=0.4)
        for index in range(states.shape[1]):
            axes.plot(*states[:40, index].T, color="0.55", linewidth=0.8)
        axes.plot(*states[0].T, "o", color="0.55", markerfacecolor="white", markersize=3)
        axes.plot(*states[-1].T, "o", color=COLORS[0], markersize=4)
        axes.set(xlim=(-1.1, 1.45), ylim=(-1.1, 1.45), box_aspect=1, xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        heading(axes, name)
    for index in (0, 2):
        all_axes[index].set_ylabel("unit 2")
    for axes in all_axes[2:]:
        axes.set_xlabel("unit 1")
    return figure


DEMONSTRATIONS = (Demonstration("nprnn_portraits", run, draw),)
