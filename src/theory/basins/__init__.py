"""Attractors and basins of a recurrent network of two tanh units, h ← M(h) = tanh(W h + b).

Shapes: S starts.
"""

from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Ge
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from scipy.optimize import brentq

from src.theory.base import Claim, Demonstration
from src.theory.basins.tanh_network import Portrait, jacobian, portrait, step
from src.theory.claims import at_least, at_most, near
from src.theory.figures import heading, wrapped

REPORT = "Wayman & Mathew, report, section 5.3"
STRAIGHT = 1.5 * np.eye(2)
CURVED = np.array([[1.8, 0.3], [-0.2, 1.7]])
ROTATING = np.array([[1.2, 0.5], [-0.3, 1.4]])
SHADES = ListedColormap(["#f7f7f7", "#9ecae1", "#fdd0a2", "#74c476"])


class Basins(NamedTuple):
    """The portraits of three networks, from uncoupled units to a rotation."""

    claims: tuple[Claim, ...]
    portraits: tuple[Portrait, ...]


def run(resolution: Annotated[int, Ge(2)] = 300) -> Basins:
    """Compute the portraits of three networks. With an even resolution no grid point lies on a straight boundary."""
    straight, curved, rotating = portraits = tuple(portrait(W, resolution) for W in (STRAIGHT, CURVED, ROTATING))
    claims = (
        *_claims_of_straight_basins(straight),
        *_claims_of_curved_basins(curved, resolution),
        *_claims_of_the_rotation(rotating),
        *_claims_of_definitions(),
    )
    return Basins(claims, portraits)


def _claims_of_straight_basins(found: Portrait) -> tuple[Claim, ...]:
    """Claims about W = 1.5 I, two uncoupled units."""
    exact = brentq(lambda h: np.tanh(1.5 * h) - h, 0.5, 1, xtol=1e-15)
    attractors = found.fixed_points[found.radii < 1]
    J = np.array([np.linalg.eigvals(jacobian(STRAIGHT, point)).real for point in found.fixed_points])
    counts = [int((abs(J) < 1).sum(1).tolist().count(stable)) for stable in (2, 1, 0)]
    axis = np.linspace(-1, 1, len(found.basins))
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    same_quadrant = (np.sign(attractors)[found.basins] == np.sign(grid)).all(-1) & (found.basins >= 0)
    edge = brentq(lambda h: 1.5 * (1 - np.tanh(1.5 * h) ** 2) - 1, 0, 1, xtol=1e-15)
    inside = abs(grid).min(-1) > edge
    return (
        near(
            "W = 1.5 I: each unit has attractors at ±0.85856, the solutions of h = tanh(1.5 h)",
            f"root of h = tanh(1.5 h), for the map of {REPORT}",
            exact,
            float(abs(attractors).max()),
            1e-9,
            "tolerance of the solver",
        ),
        Claim(
            "W = 1.5 I has nine fixed points: four attractors, four saddles and a source",
            "the product of three fixed points per unit",
            "4, 4, 1",
            ", ".join(map(str, counts)),
            "exact",
            counts == [4, 4, 1],
        ),
        near(
            "W = 1.5 I: at the attractors the Jacobian has the eigenvalue 1.5 (1 - h²) = 0.394",
            "tanh' = 1 - tanh²",
            1.5 * (1 - exact**2),
            float(found.radii.min()),
            1e-9,
            "tolerance of the solver",
        ),
        near(
            "W = 1.5 I: the basins of the attractors are the quadrants",
            "a unit keeps its sign",
            1.0,
            float(same_quadrant.mean()),
            0.0,
            f"exact: share of {same_quadrant.size} starts that keep both signs",
        ),
        near(
            "The map contracts where both |h_i| > artanh(1/√3)/1.5 = 0.439, not where 1.5 (1 - h²) < 1: "
            "that is the Jacobian one step earlier",
            "1.5 (1 - tanh²(1.5 h)) = 1",
            1.0,
            float(((found.norm < 1) == inside).mean()),
            0.0,
            f"exact: share of {inside.size} points where ‖J‖ < 1 and |h_i| > {edge:.4f} agree",
        ),
    )


def _claims_of_curved_basins(found: Portrait, resolution: int) -> tuple[Claim, ...]:
    """Claims about a weak coupling, which bends the boundaries."""
    attractors, radii = found.fixed_points[found.radii < 1], found.radii[found.radii < 1]
    shares = np.array([(found.basins == number).mean() for number in range(len(attractors))])
    opposite = np.linalg.norm(attractors + attractors[::-1], axis=1)  # sorted by the first coordinate
    contracting = found.norm < 1
    return (
        Claim(
            "A weak coupling keeps nine fixed points, four of them attractors",
            "they are hyperbolic at W = 1.5 I, so they persist under a small change of W; counted by the solver",
            "9, 4",
            f"{len(found.fixed_points)}, {len(attractors)}",
            "exact",
            (len(found.fixed_points), len(attractors)) == (9, 4),
        ),
        near(
            "The attractors of the coupled units come in opposite pairs",
            "M(-h) = -M(h)",
            0.0,
            float(opposite.max()),
            1e-9,
            "tolerance of the solver",
        ),
        near(
            "The basins of opposite attractors have the same share of the square",
            "M(-h) = -M(h)",
            0.0,
            float(abs(shares - shares[::-1]).max()),
            1 / resolution,
            f"one row of the grid; shares {', '.join(f'{share:.3f}' for share in shares)} at spectral radii "
            f"{', '.join(f'{radius:.3f}' for radius in radii)}",
        ),
        at_least(
            "The boundaries are curved: a basin is not the quadrant of its attractor",
            "against W = 1.5 I",
            0.02,
            float(_share_outside_quadrant(found)),
            "share of starts that end in another quadrant",
        ),
        near(
            "‖J‖ < 1 implies a spectral radius below 1",
            "the spectral radius is at most every norm",
            0.0,
            float((contracting & (found.radius >= 1)).mean()),
            0.0,
            f"exact: share of points with one but not the other; the converse fails at "
            f"{((found.radius < 1) & ~contracting).mean():.1%}",
        ),
    )


def _share_outside_quadrant(found: Portrait) -> float:
    axis = np.linspace(-1, 1, len(found.basins))
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    attractors = found.fixed_points[found.radii < 1]
    return float((np.sign(attractors)[found.basins] != np.sign(grid)).any(-1).mean())


def _claims_of_the_rotation(found: Portrait) -> tuple[Claim, ...]:
    """Claims about a stronger rotation, which leaves no fixed point except the origin, and no point attractor."""
    sizes = np.linalg.norm(found.ends, axis=1)
    after = found.ends
    moved = []
    for _ in range(50):
        after = step(ROTATING, after)
        moved.append(np.linalg.norm(after - found.ends, axis=1))
    return (
        near(
            "A stronger rotation leaves the origin as the only fixed point",
            "counted by a solver from 81 starts",
            1.0,
            float(len(found.fixed_points)),
            0.0,
            "exact",
        ),
        near(
            "With that rotation the origin is a source: both eigenvalues of W have modulus √det W",
            "det [[1.2, 0.5], [-0.3, 1.4]] = 1.83",
            float(np.sqrt(1.83)),
            float(found.radii[0]),
            1e-9,
            "rounding",
        ),
        at_least(
            "Every orbit ends on an invariant circle around it, not at a point: no state stays near the origin",
            "Neimark-Sacker bifurcation; Kuznetsov (2004), section 4.6",
            0.5,
            float(sizes.min()),
            "smallest ‖h‖ of 200 states after 400 steps",
        ),
        at_least(
            "On that circle every orbit goes all the way around",
            "Neimark-Sacker bifurcation; Kuznetsov (2004), section 4.6",
            1.0,
            float(np.max(moved, axis=0).min()),
            "smallest of the largest displacements of each state within 50 further steps",
        ),
    )


def _claims_of_definitions() -> tuple[Claim, ...]:
    """Claims about the map M, attractors, and the basins of a nonautonomous system."""
    u, v = np.array([0.5, 0.2]), np.array([0.4, 0.6])
    superposed = np.linalg.norm(step(CURVED, u + v) - step(CURVED, u) - step(CURVED, v))
    h = u
    for _ in range(5):
        h = step(CURVED, h)

    def end(start_time: int) -> float:
        state = 0.3
        for time in range(start_time, 60):
            pulse = -2.0 if time == 10 else 0.0
            state = np.tanh(1.5 * state + pulse)
        return state

    return (
        at_least(
            "M is a nonlinear map, h(t) = M(h(t-1)): M(u + v) is not M(u) + M(v)",
            REPORT,
            0.1,
            float(superposed),
            "length of the difference for u = (0.5, 0.2), v = (0.4, 0.6)",
            refuted="h(t) = M h(t-1), which reads as a product",
        )._replace(reading=True),
        at_least(
            "A state reached after finitely many steps is not an attractor: it still moves",
            "an attractor is invariant; Strogatz (2015), section 9.3",
            1e-3,
            float(np.linalg.norm(step(CURVED, h) - h)),
            "length of the sixth step",
            refuted="the states h_τ are by definition in the basin of the attractor h_t (final report)",
        ),
        at_most(
            "In a nonautonomous system the basin depends on the start time: from 0.3 the same network converges "
            "to the other attractor if it starts after the pulse",
            "Kloeden & Rasmussen (2011), chapter 2: pullback and forward attraction",
            -0.7,
            float(end(0) * end(20)),
            "product of the final states from t = 0 and t = 20, -0.85856² if they are opposite",
            refuted="the definition of a basin “can be applied to nonautonomous systems as well” (report, section 5.2)",
        ),
    )


def draw(result: Basins) -> Figure:
    """Basins as shades, fixed points as markers, and contours where the Jacobian has norm or spectral radius 1."""
    figure, row = wrapped(3, panel_height=4.0)
    names = ("Separate units", "Weak coupling", "Strong rotation: no point attractor")
    for axes, found, name in zip(row, result.portraits, names, strict=True):
        axes.grid(visible=False)
        axis = np.linspace(-1, 1, len(found.basins))
        axes.pcolormesh(axis, axis, np.maximum(found.basins, 0), cmap=SHADES, vmin=0, vmax=3, rasterized=True)
        axes.contour(axis, axis, found.norm, levels=[1], colors="black", linewidths=1.4)
        axes.contour(axis, axis, found.radius, levels=[1], colors="black", linewidths=1.2, linestyles=":")
        stable = found.radii < 1
        sources = (abs(np.linalg.eigvals(jacobian(found.W, found.fixed_points))) > 1).all(-1)
        for mask, marker, fill in ((stable, "o", "black"), (~stable & ~sources, "X", "white"), (sources, "s", "white")):
            x, y = found.fixed_points[mask].T
            axes.scatter(x, y, marker=marker, c=fill, edgecolors="black", s=55, zorder=3)
        if not stable.any():
            x, y = found.late.T
            axes.scatter(x, y, s=4, c="black", zorder=3)
        axes.set(xlabel="unit 1", ylabel="unit 2", box_aspect=1, xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        heading(axes, name)
    handles = [
        row[0].plot([], [], marker, color="black", markerfacecolor=fill, markersize=7, label=label)[0]
        for marker, fill, label in (("o", "black", "attractor"), ("X", "white", "saddle"), ("s", "white", "source"))
    ]
    handles += [
        row[0].plot([], [], color="black", linestyle=style, marker=marker, label=label)[0]
        for style, marker, label in (("-", "", "‖J‖ = 1"), (":", "", "spectral radius 1"), ("", ".", "ends of orbits"))
    ]
    figure.legend(handles=handles, loc="center", bbox_to_anchor=(0.77, 0.25), frameon=False)
    return figure


DEMONSTRATIONS = (Demonstration("basins", run, draw),)
