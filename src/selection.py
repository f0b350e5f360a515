"""Selection on the validation set: what a run is for in a search, and which grid point counts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from src.identity import varied

Pairs = tuple[tuple[str, Any], ...]
"""Settings as (key, value) pairs, so that they can be compared and counted."""


@dataclass(frozen=True)
class Choice:
    """The grid point that was chosen.

    Attributes:
        point: the point.
        objective: its validation objective, the mean over the finished runs.
        tied: points further on in the grid with exactly the same objective.
    """

    point: Pairs
    objective: float
    tied: tuple[Pairs, ...] = ()


def split_settings(
    settings: Mapping[str, Any], varied_keys: Iterable[str], search: Mapping[str, Any]
) -> tuple[Pairs, Pairs, Pairs]:
    """The cell of the table, the grid point and the repetition that a run belongs to.

    Args:
        settings: of one run, flat.
        varied_keys: the keys in which the runs of the search differ.
        search: `grid` and `repeated` name keys; a varied key in neither is compared.
    """
    cell: list[tuple[str, Any]] = []
    point: list[tuple[str, Any]] = []
    repetition: list[tuple[str, Any]] = []
    for key in varied_keys:
        if key in settings:
            part = point if key in search["grid"] else repetition if key in search["repeated"] else cell
            part.append((key, settings[key]))
    return tuple(cell), tuple(point), tuple(repetition)


def choose(results_by_point: Mapping[Pairs, Sequence[Mapping[str, Any] | None]]) -> Choice | None:
    """The point with the lowest mean validation objective, the first one of equals; None if no run has finished.

    A point with a run that diverged or failed is chosen only where there is no point without.

    Args:
        results_by_point: for each point, in the order of the grid, the `result.json` of each of its runs, None for
            one that is missing.
    """
    candidates: list[tuple[bool, float, Pairs]] = []
    for point, results in results_by_point.items():
        objectives = [value for result in results if (value := validation_objective(result)) is not None]
        if objectives:
            unreliable = any(result is not None and result["status"] in ("diverged", "failed") for result in results)
            candidates.append((unreliable, math.fsum(objectives) / len(objectives), point))
    if not candidates:
        return None
    best = min(candidate[:2] for candidate in candidates)
    first, *others = [point for *rank, point in candidates if tuple(rank) == best]
    return Choice(first, best[1], tuple(others))


def objective_name(result: Mapping[str, Any]) -> str:
    """The metric that a run was selected on: "val/error"."""
    tags = [tag for tag in result.get("metrics", {}) if tag.startswith("val/")]
    named = f"val/{result.get('objective', 'error')}"
    return named if named in tags or not tags else tags[0]


def validation_objective(result: Mapping[str, Any] | None) -> float | None:
    """What selection looks at; None for a run that did not finish."""
    if result is None or result["status"] != "finished":
        return None
    value = result["metrics"].get(objective_name(result))
    return value if value is not None and math.isfinite(value) else None


def by_cell_and_point(
    runs: Mapping[str, Mapping[str, Any]], varied_keys: Iterable[str], search: Mapping[str, Any]
) -> dict[Pairs, dict[Pairs, list[str]]]:
    """The names of the runs of each cell by grid point; the first of them is the first repetition.

    Args:
        runs: flat settings by name, in the order of the sweep.
        varied_keys: the keys in which they differ.
        search: see `split_settings`.
    """
    keys = list(varied_keys)
    cells: dict[Pairs, dict[Pairs, list[str]]] = {}
    for name, settings in runs.items():
        cell, point, _ = split_settings(settings, keys, search)
        cells.setdefault(cell, {}).setdefault(point, []).append(name)
    return cells


def spelled(pairs: Pairs) -> str:
    """Settings as one would type them: "model=lstm model.hidden_size=20"."""
    return " ".join(f"{key}={value}" for key, value in pairs)


def first_stage(runs: Mapping[str, Mapping[str, Any]], search: Mapping[str, Any]) -> list[str]:
    """The runs to begin with: all, or in a two-stage search the first repetition of every grid point."""
    if not search["two_stage"]:
        return list(runs)
    cells = by_cell_and_point(runs, varied(list(runs.values())), search)
    first = {repetitions[0] for points in cells.values() for repetitions in points.values()}
    return [name for name in runs if name in first]


def second_stage(
    runs: Mapping[str, Mapping[str, Any]],
    search: Mapping[str, Any],
    results: Mapping[str, Mapping[str, Any] | None],
) -> tuple[list[str], list[str]]:
    """The other repetitions of each cell's chosen grid point, and what has to be said of the choice.

    Args:
        runs: flat settings by name, in the order of the sweep.
        search: see `split_settings`.
        results: the `result.json` of the runs of the first stage.
    """
    chosen: set[str] = set()
    notes = []
    for cell, points in by_cell_and_point(runs, varied(list(runs.values())), search).items():
        first = {point: results.get(repetitions[0]) for point, repetitions in points.items()}
        open_points = [point for point, result in first.items() if result is None or result["status"] == "interrupted"]
        choice = choose({point: [result] for point, result in first.items()})
        title = spelled(cell) or "all"
        if open_points:
            notes.append(f"{title}: no second stage before {spelled(open_points[0])} has ended")
        elif choice is None:
            notes.append(f"{title}: no second stage, since no run of the first has finished")
        else:
            chosen.update(points[choice.point][1:])
            tied = f", first of equals: {', '.join(map(spelled, choice.tied))}" if choice.tied else ""
            point = spelled(choice.point) or "the only point"
            notes.append(f"{title}: chosen {point} (validation {choice.objective:.4g}{tied})")
    return [name for name in runs if name in chosen], notes


def num_of_second_stage(runs: Mapping[str, Mapping[str, Any]], search: Mapping[str, Any]) -> int:
    """How many runs the second stage will have, whatever is chosen."""
    cells = by_cell_and_point(runs, varied(list(runs.values())), search)
    return sum(len(next(iter(points.values()))) - 1 for points in cells.values())
