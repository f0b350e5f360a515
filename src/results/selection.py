"""Selection on the validation set: what a run is for in a search, which grid point counts, and what it reached."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, median, stdev

from src.config.schema import SearchSettings
from src.results.runs import LOST, Run, varied_settings
from src.specs import Objective

Pairs = tuple[tuple[str, object], ...]
"""Settings as (key, value) pairs, so that they can be compared."""


@dataclass(frozen=True)
class Choice:
    """The grid point that was chosen.

    Attributes:
        point: its settings.
        objective: its validation objective, the mean over its finished runs.
        tied: points further on in the grid with exactly the same objective.
    """

    point: Pairs
    objective: float
    tied: tuple[Pairs, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One cell of the table: all runs with the same compared settings.

    Attributes:
        settings: the compared settings.
        runs: all of them, in the order of the sweep.
        points: the runs of each grid point, one for each repetition, in the order of the sweep.
        two_stage: whether the grid was searched with the first repetition only.
        repeated: the keys that tell repetitions apart.
    """

    settings: Pairs
    runs: Sequence[Run]
    points: Mapping[Pairs, Sequence[Run]]
    two_stage: bool
    repeated: tuple[str, ...]

    @property
    def objective(self) -> Objective:
        """What the choice goes by: the most frequent one, of finished runs if possible, else of those that ended."""
        runs = [run for run in self.runs if run.finished] or [run for run in self.runs if run.ended] or self.runs
        objectives = [run.objective for run in runs]
        return max(objectives, key=objectives.count)

    @cached_property
    def searched(self) -> Mapping[Pairs, Sequence[Run]]:
        """The runs that the choice is made from."""
        if not self.two_stage:
            return self.points
        first = self.repetition(self.runs[0])
        found = {point: [run for run in runs if self.repetition(run) == first] for point, runs in self.points.items()}
        return {point: runs for point, runs in found.items() if runs}

    @cached_property
    def choice(self) -> Choice | None:
        """The grid point with the best mean validation objective; None if no run has finished."""
        return choose(self.searched, self.objective)

    @property
    def chosen(self) -> list[Run]:
        """All runs at the chosen point."""
        return list(self.points[self.choice.point]) if self.choice else []

    @property
    def measured(self) -> list[Run]:
        """The runs at the chosen point that have finished: those that the mean is over."""
        return [run for run in self.chosen if run.finished]

    @property
    def means(self) -> dict[Pairs, float]:
        """The mean validation objective of each grid point that has a finished run."""
        return {point: mean for point, runs in self.searched.items() if (mean := _mean_objective(runs)) is not None}

    def repetition(self, run: Run) -> Pairs:
        """Which repetition a run is."""
        return tuple((key, run.settings.get(key)) for key in self.repeated)


@dataclass(frozen=True)
class Summary:
    """What a cell reached at its chosen point, as numbers; nan where there is none.

    Attributes:
        cell: the cell.
        metric: the test metric of the same name as the validation objective.
        mean: over the finished runs at the chosen point.
        sd: standard deviation, of a sample.
        ci95: half the width of the 95 % interval of the mean, by Student's t.
        n: how many runs these are.
        val: the validation objective that the choice went by.
        spread: minimum, median and maximum of the objective over the grid's points.
        notes: what has to be said besides.
    """

    cell: Cell
    metric: str
    mean: float
    sd: float
    ci95: float
    n: int
    val: float
    spread: tuple[float, float, float]
    notes: str


def cells(runs: Sequence[Run], search: SearchSettings) -> list[Cell]:
    """The cells of some runs, in their order. What varies and is neither searched nor repeated is compared."""
    keys = varied_settings(runs)
    compared = [key for key in keys if key not in {*search.grid, *search.repeated}]
    searched = [key for key in keys if key in search.grid]
    by_cell: dict[Pairs, list[Run]] = {}
    for run in runs:
        by_cell.setdefault(_pairs(run, compared), []).append(run)
    repeated = tuple(key for key in keys if key in search.repeated and key not in search.grid)
    found = []
    for settings, of_cell in by_cell.items():
        points: dict[Pairs, list[Run]] = {}
        for run in of_cell:
            points.setdefault(_pairs(run, searched), []).append(run)
        found.append(Cell(settings, of_cell, points, search.two_stage, repeated))
    return found


def choose(points: Mapping[Pairs, Sequence[Run]], objective: Objective) -> Choice | None:
    """The point with the best mean validation objective, the first of equals; None if no run has finished.

    A point with a run that diverged or failed is chosen only if there is no point without.
    """
    sign = -1 if objective.higher_is_better else 1
    ranked: dict[Pairs, tuple[bool, float]] = {}
    for point, runs in points.items():
        mean = _mean_objective(runs)
        if mean is not None:
            ranked[point] = any(run.status in LOST for run in runs), sign * mean
    if not ranked:
        return None
    best = min(ranked.values())
    first, *others = [point for point, rank in ranked.items() if rank == best]
    return Choice(first, sign * best[1], tuple(others))


def summarize(cell: Cell) -> Summary:
    """What a cell reached."""
    metric = f"test/{cell.objective.metric}"
    values = [run.metrics[metric] for run in cell.measured if not math.isnan(run.metrics.get(metric, math.nan))]
    several = len(values) > 1 and all(map(math.isfinite, values))
    means = list(cell.means.values())
    ci95 = math.nan
    if several:
        from scipy import stats  # takes half a second to import

        ci95 = float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))
    return Summary(
        cell,
        metric,
        mean=fmean(values) if values else math.nan,
        sd=stdev(values) if several else math.nan,
        ci95=ci95,
        n=len(values),
        val=cell.choice.objective if cell.choice else math.nan,
        spread=(min(means), median(means), max(means)) if means else (math.nan,) * 3,
        notes="; ".join(_notes(cell)),
    )


def first_stage(runs: Sequence[Run], search: SearchSettings) -> list[Run]:
    """The runs to begin with: all, or in a two-stage search the first repetition of every grid point."""
    if not search.two_stage:
        return list(runs)
    first = {points[0].name for cell in cells(runs, search) for points in cell.points.values()}
    return [run for run in runs if run.name in first]


def second_stage(runs: Sequence[Run], search: SearchSettings) -> tuple[list[Run], list[str]]:
    """The other repetitions of each cell's chosen grid point, and what has to be said of the choice.

    Args:
        runs: all that the sweep may come to ask for; those of the first stage with their results.
        search: of the sweep.
    """
    chosen: set[str] = set()
    notes = []
    for cell in cells(runs, search):
        first = {point: [repetitions[0]] for point, repetitions in cell.points.items()}
        open_points = [point for point, (run,) in first.items() if run.status in ("missing", "running", "interrupted")]
        choice = choose(first, cell.objective)
        title = spelled(cell.settings) or "all"
        if open_points:
            notes.append(f"{title}: no second stage before {spelled(open_points[0])} has ended")
        elif choice is None:
            notes.append(f"{title}: no second stage, since no run of the first has finished")
        else:
            chosen.update(run.name for run in cell.points[choice.point][1:])
            tied = f", first of equals: {', '.join(map(spelled, choice.tied))}" if choice.tied else ""
            point = spelled(choice.point) or "the only point"
            notes.append(f"{title}: chosen {point} (validation {choice.objective:.4g}{tied})")
    return [run for run in runs if run.name in chosen], notes


def num_of_second_stage(runs: Sequence[Run], search: SearchSettings) -> int:
    """How many runs the second stage will have, whatever is chosen."""
    return sum(len(next(iter(cell.points.values()))) - 1 for cell in cells(runs, search))


def spelled(pairs: Pairs) -> str:
    """Settings as one would type them: "model=lstm model.hidden_size=20"."""
    return " ".join(f"{key}={value}" for key, value in pairs)


def label_of(pairs: Iterable[tuple[str, object]]) -> str:
    """Settings in words: "lstm, 50 units, decay 0.9"."""
    return ", ".join(_words(key, value) for key, value in pairs)


def _words(key: str, value: object) -> str:
    if key == "model.hidden_size":
        return f"{value} units"
    if "." not in key and key != "seed":  # which model, task, optimizer or schedule
        return str(value)
    return f"{key.rpartition('.')[2]} {value:g}" if isinstance(value, float) else f"{key.rpartition('.')[2]} {value}"


def _pairs(run: Run, keys: Iterable[str]) -> Pairs:
    return tuple((key, run.settings[key]) for key in keys if key in run.settings)


def _mean_objective(runs: Iterable[Run]) -> float | None:
    values = [run.validation_objective for run in runs]
    finite = [value for value in values if value is not None]
    return math.fsum(finite) / len(finite) if finite else None


def _notes(cell: Cell) -> list[str]:
    """Whatever a reader has to know about a cell besides its numbers."""
    notes = []
    if cell.choice is None:
        notes.append("nothing to choose from")
    elif cell.choice.tied:
        notes.append(f"{len(cell.choice.tied) + 1} points tied, the first taken")
    point_of = {run.name: point for point, runs in cell.points.items() for run in runs}
    by_status: dict[str, list[Run]] = {}
    for run in cell.runs:
        if not run.finished:
            status = "pruned" if run.reason.startswith("pruned") else run.status
            by_status.setdefault(status, []).append(run)
    for status, found in by_status.items():
        points = [label_of(point) for point in dict.fromkeys(point_of[run.name] for run in found) if point]
        where = f" at {' and '.join(points)}" if len(points) <= 3 else f" at {len(points)} points"
        reasons = dict.fromkeys(run.reason for run in found if run.reason) if status == "failed" else ()
        why = f" ({', '.join(reasons)})" if reasons else ""
        notes.append(f"{len(found)} {status}{where * bool(points)}{why}")
    return notes
