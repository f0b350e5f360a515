"""Selection on the validation set: cells of compared runs, the grid point chosen in each, and its test metric."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, median, stdev

from src.config.schema import SearchSettings
from src.config.settings import Pairs, label_of, spelled
from src.results.edges import Edge, edges_of
from src.results.runs import LOST, Run, varied_settings
from src.specs import Objective


@dataclass(frozen=True)
class Choice:
    """The chosen grid point.

    Attributes:
        point: the settings of the point.
        objective: the mean validation objective over its finished runs.
        tied: later grid points with exactly the same objective.
    """

    point: Pairs
    objective: float
    tied: tuple[Pairs, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One cell of the table: all runs with the same compared settings.

    Attributes:
        settings: the compared settings.
        runs: all runs of the cell, in sweep order.
        points: the runs at each grid point, one per repetition, in sweep order.
        two_stage: whether the grid was searched with the first repetition only.
        repeated: the keys that distinguish repetitions.
    """

    settings: Pairs
    runs: Sequence[Run]
    points: Mapping[Pairs, Sequence[Run]]
    two_stage: bool
    repeated: tuple[str, ...]

    @property
    def objective(self) -> Objective:
        """The most common objective of the finished runs, else of those that ended, else of all."""
        runs = [run for run in self.runs if run.finished] or [run for run in self.runs if run.ended] or self.runs
        objectives = [run.objective for run in runs]
        return max(objectives, key=objectives.count)

    @cached_property
    def searched(self) -> Mapping[Pairs, Sequence[Run]]:
        """The runs that the choice is based on, by grid point: the same repetitions at each point, if there are any.

        In a two-stage search this is the single repetition that is present at the most points, the first one in a tie.
        Otherwise these are the repetitions that have finished at every point, not counting points where none has
        finished or where a run was lost. Points with a lost run keep all their runs, so that the loss counts.
        """
        if self.two_stage:
            first = Counter(map(self.repetition, self.runs)).most_common(1)[0][0]
            first_at = {
                point: [run for run in at if self.repetition(run) == first] for point, at in self.points.items()
            }
            return {point: runs for point, runs in first_at.items() if runs}
        whole = [at for at in self.points.values() if any(run.finished for run in at) and not any_lost(at)]
        finished = [{self.repetition(run) for run in at if run.finished} for at in whole]
        common = set.intersection(*finished) if finished else set()
        if not common:
            return self.points
        return {
            point: at if any_lost(at) else [run for run in at if self.repetition(run) in common]
            for point, at in self.points.items()
        }

    @cached_property
    def choice(self) -> Choice | None:
        """The grid point with the best mean validation objective; None if no run has finished."""
        return choose(self.searched, self.objective)

    @cached_property
    def edges(self) -> list[Edge]:
        """The searched settings whose chosen number is the smallest or the largest that was tried.

        A setting is left out if a number inside its grid is equally good.
        """
        if self.choice is None:
            return []
        tried = [dict(point) for point, runs in self.searched.items() if any(run.ended for run in runs)]
        return edges_of([dict(point) for point in (self.choice.point, *self.choice.tied)], tried)

    @property
    def chosen(self) -> list[Run]:
        """All runs at the chosen point."""
        return list(self.points[self.choice.point]) if self.choice else []

    @property
    def measured(self) -> list[Run]:
        """The finished runs at the chosen point, over which means are taken."""
        return [run for run in self.chosen if run.finished]

    def repetition(self, run: Run) -> Pairs:
        """Which repetition a run is."""
        return tuple((key, run.settings.get(key)) for key in self.repeated)


@dataclass(frozen=True)
class Summary:
    """The results of a cell at its chosen point; nan for a missing number.

    Attributes:
        cell: the cell.
        metric: the test metric with the name of the validation objective.
        mean: mean of the metric over the finished runs at the chosen point, without those where it is nan.
        sd: sample standard deviation over the same runs.
        ci95: half the width of the 95 % confidence interval of the mean, by Student's t.
        n: number of these runs.
        val: the mean validation objective that the choice was based on.
        spread: minimum, median and maximum over the grid points of the mean validation objective.
        notes: remarks on edges of the grid, ties, runs that did not finish, and those without a finite test metric.
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
    """Group runs into cells, in order. Settings that vary and are neither searched nor repeated are compared."""
    keys = varied_settings(runs)
    compared = [key for key in keys if key not in {*search.grid, *search.repeated}]
    searched = [key for key in keys if key in search.grid]
    repeated = tuple(key for key in keys if key in search.repeated)
    return [
        Cell(settings, of_cell, _grouped(of_cell, searched), search.two_stage, repeated)
        for settings, of_cell in _grouped(runs, compared).items()
    ]


def choose(points: Mapping[Pairs, Sequence[Run]], objective: Objective) -> Choice | None:
    """The point with the best mean validation objective, the first of tied ones; None if no run has finished.

    A point with a diverged or failed run is chosen only if there is no other.
    """
    sign = -1 if objective.higher_is_better else 1
    ranked: dict[Pairs, tuple[bool, float]] = {}
    for point, runs in points.items():
        mean = _mean_objective(runs)
        if mean is not None:
            ranked[point] = any_lost(runs), sign * mean
    if not ranked:
        return None
    best = min(ranked.values())
    first, *others = [point for point, rank in ranked.items() if rank == best]
    return Choice(first, sign * best[1], tuple(others))


def summarize(cell: Cell) -> Summary:
    """The results of a cell at its chosen point."""
    metric = f"test/{cell.objective.metric}"
    values = [run.metrics[metric] for run in cell.measured if not math.isnan(run.metrics.get(metric, math.nan))]
    several = len(values) > 1 and all(map(math.isfinite, values))
    means = [mean for at_point in cell.searched.values() if (mean := _mean_objective(at_point)) is not None]
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
    """The runs to start with: all, or in a two-stage search the first repetition of every grid point."""
    if not search.two_stage:
        return list(runs)
    first = {points[0].name for cell in cells(runs, search) for points in cell.points.values()}
    return [run for run in runs if run.name in first]


def second_stage(runs: Sequence[Run], search: SearchSettings) -> tuple[list[Run], list[str]]:
    """The remaining repetitions at the grid point chosen in each cell, and a note on each choice.

    `runs` are all runs that the sweep may launch, with the results of the first stage.
    """
    chosen: set[str] = set()
    notes = []
    for cell in cells(runs, search):
        first = {point: [repetitions[0]] for point, repetitions in cell.points.items()}
        open_points = [point for point, (run,) in first.items() if run.status in ("missing", "running", "interrupted")]
        choice = choose(first, cell.objective)
        title = spelled(cell.settings) or "all"
        if open_points:
            waited_for = spelled(open_points[0]) or first[open_points[0]][0].name
            notes.append(f"{title}: no second stage until {waited_for} has ended")
        elif choice is None:
            notes.append(f"{title}: no second stage, since no run of the first stage has finished")
        else:
            chosen.update(run.name for run in cell.points[choice.point][1:])
            tied = f", tied with {', '.join(map(spelled, choice.tied))}" if choice.tied else ""
            point = spelled(choice.point) or "the only point"
            notes.append(f"{title}: chosen {point} (validation {choice.objective:.4g}{tied})")
    return [run for run in runs if run.name in chosen], notes


def num_of_second_stage(runs: Sequence[Run], search: SearchSettings) -> int:
    """The number of runs in the second stage, whatever is chosen."""
    return sum(len(next(iter(cell.points.values()))) - 1 for cell in cells(runs, search))


def _grouped(runs: Sequence[Run], keys: Sequence[str]) -> dict[Pairs, list[Run]]:
    """Group runs by their values of some settings."""
    groups: dict[Pairs, list[Run]] = {}
    for run in runs:
        pairs = tuple((key, run.settings[key]) for key in keys if key in run.settings)
        groups.setdefault(pairs, []).append(run)
    return groups


def any_lost(runs: Iterable[Run]) -> bool:
    """Whether one of these runs has diverged or failed."""
    return any(run.status in LOST for run in runs)


def _mean_objective(runs: Iterable[Run]) -> float | None:
    values = [run.validation_objective for run in runs]
    finite = [value for value in values if value is not None]
    return math.fsum(finite) / len(finite) if finite else None


def _notes(cell: Cell) -> list[str]:
    """Remarks on edges of the grid, on ties, and on runs that did not finish or lack a finite test metric."""
    notes = []
    if cell.choice is None:
        notes.append("no finished run to choose")
    elif cell.choice.tied:
        notes.append(f"{len(cell.choice.tied) + 1} points tied, the first taken")
    notes += map(str, cell.edges)
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
    tests = [run.metrics.get(f"test/{cell.objective.metric}", math.nan) for run in cell.measured]
    if unusable := sum(not math.isfinite(test) for test in tests):
        notes.append(f"{unusable} without a finite test metric")
    return notes
