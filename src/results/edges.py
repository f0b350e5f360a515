"""Choices at the edge of their grid, beyond which there may be better ones."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class Edge:
    """A chosen number that is the smallest or the largest of those tried.

    Attributes:
        key: the key of the setting.
        chosen: the chosen value.
        beyond: the value to try next; None if the scale does not suggest one.
    """

    key: str
    chosen: float
    beyond: float | None

    def __str__(self) -> str:
        where = f"{self.key.rpartition('.')[2]} {self.chosen:g} is at the edge of the grid"
        return where if self.beyond is None else f"{where}, try {self.beyond:g} next"


def edges_of(best: Sequence[Mapping[str, Any]], tried: Sequence[Mapping[str, Any]]) -> list[Edge]:
    """The edges at which the first of several equally good points lies, unless another one lies inside the grid."""
    found = []
    for key, chosen in best[0].items():
        values = sorted({point[key] for point in tried if _is_number(point.get(key))})
        if len(values) > 1 and all(point.get(key) in (values[0], values[-1]) for point in best):
            found.append(Edge(key, chosen, _beyond(values, chosen)))
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _beyond(values: Sequence[float], edge: float) -> float | None:
    """The next value on a geometric scale, rounded to one digit: 1e-4 below 3e-4 and 1e-3. None on any other scale.

    A scale counts as geometric if each value is at least one and a half times the one before.
    """
    if not all(isinstance(value, float) and value > 0 for value in values):
        return None
    if any(1.5 * value > following for value, following in pairwise(values)):
        return None
    neighbor = values[1] if edge == values[0] else values[-2]
    exact = math.log10(edge**2 / neighbor)
    scale = [math.log10(digit) + math.floor(exact) for digit in (1, 2, 3, 5, 10)]
    return float(f"{10 ** min(scale, key=lambda value: abs(value - exact)):.0e}")
