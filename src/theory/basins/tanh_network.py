"""Two tanh units, h ← M(h) = tanh(W h): fixed points, Jacobian and basins.

Shapes: S states.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import root


class Portrait(NamedTuple):
    """Fixed points, basins and Jacobian norms of one network."""

    W: np.ndarray
    fixed_points: np.ndarray
    """All fixed points that were found, [points, 2]."""
    radii: np.ndarray
    """Spectral radius of the Jacobian at each fixed point."""
    basins: np.ndarray
    """Index of the attractor to which each grid point converges, -1 if there is none, [y, x]."""
    norm: np.ndarray
    """Spectral norm of the Jacobian on the grid."""
    radius: np.ndarray
    """Spectral radius of the Jacobian on the grid."""
    ends: np.ndarray
    """States reached from 200 of the grid points after many steps, [200, 2]."""
    late: np.ndarray
    """Points on the further orbits of 20 of these states, [points, 2]."""


def step(W: np.ndarray, h_S2: np.ndarray) -> np.ndarray:
    """M(h) = tanh(W h)."""
    return np.tanh(h_S2 @ W.T)


def jacobian(W: np.ndarray, h_S2: np.ndarray) -> np.ndarray:
    """diag(1 - tanh²(W h)) W at each h, [..., 2, 2]."""
    return (1 - step(W, h_S2) ** 2)[..., :, None] * W


def find_fixed_points(W: np.ndarray) -> np.ndarray:
    """All solutions of h = M(h) that a solver finds from a grid of starts, sorted by their coordinates."""
    found: list[np.ndarray] = []
    for start in np.stack(np.meshgrid(*2 * (np.linspace(-1, 1, 9),)), axis=-1).reshape(-1, 2):
        solution = root(lambda h: step(W, h) - h, start, jac=lambda h: jacobian(W, h) - np.eye(2), tol=1e-13)
        new = all(np.linalg.norm(solution.x - other) > 1e-6 for other in found)
        if abs(step(W, solution.x) - solution.x).max() < 1e-10 and new:
            found.append(solution.x)
    return np.array(sorted(found, key=tuple))


def portrait(W: np.ndarray, resolution: int, num_steps: int = 400) -> Portrait:
    """Find the fixed points, and the attractor that each point of a grid over [-1, 1]² reaches in `num_steps` steps."""
    fixed = find_fixed_points(W)
    radii = abs(np.linalg.eigvals(jacobian(W, fixed))).max(-1)
    axis = np.linspace(-1, 1, resolution)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    h = grid.reshape(-1, 2)
    for _ in range(num_steps):
        h = step(W, h)
    basins = np.full(len(h), -1)
    for number, point in enumerate(fixed[radii < 1]):
        basins[np.linalg.norm(h - point, axis=1) < 1e-6] = number
    J = jacobian(W, grid)
    ends = h[np.linspace(0, len(h) - 1, 200).astype(int)]
    late = [ends[::10]]
    for _ in range(20):
        late.append(step(W, late[-1]))
    return Portrait(
        W,
        fixed,
        radii,
        basins.reshape(grid.shape[:2]),
        np.linalg.norm(J, ord=2, axis=(-2, -1)),
        abs(np.linalg.eigvals(J)).max(-1),
        ends,
        np.concatenate(late),
    )
