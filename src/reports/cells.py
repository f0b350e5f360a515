"""Selection: for each compared cell the grid point chosen on validation, and the test metric over its repetitions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from scipy import stats

from src.reports.runs import varied_settings
from src.selection import Choice, Pairs, choose, split_settings

SPREAD = ("min", "median", "max")


@dataclass(frozen=True)
class Cell:
    """One cell of the table.

    Attributes:
        settings: the compared settings.
        choice: the grid point chosen on the validation set; None if no run has finished.
        grid: one row per run of the cell, with the columns of `load_runs` and `point` and `repetition`.
        two_stage: whether the grid was searched with the first repetition only.
    """

    settings: Pairs
    choice: Choice | None
    grid: pd.DataFrame
    two_stage: bool

    @property
    def objective(self) -> str:
        """The tag that the choice went by."""
        finished = self.grid[self.grid["status"] == "finished"]
        return str((finished if len(finished) else self.grid)["objective"].mode()[0])

    @property
    def chosen(self) -> pd.DataFrame:
        """All runs at the chosen point."""
        return self.grid[[self.choice is not None and point == self.choice.point for point in self.grid["point"]]]

    @property
    def measured(self) -> pd.DataFrame:
        """The runs at the chosen point that have finished: those that the mean is over."""
        return self.chosen[self.chosen["status"] == "finished"]

    @property
    def searched(self) -> pd.DataFrame:
        """The runs that the choice was made from."""
        if not self.two_stage:
            return self.grid
        return self.grid[[repetition == self.grid["repetition"].iloc[0] for repetition in self.grid["repetition"]]]

    def by_point(self) -> "pd.Series[float]":
        """The mean validation objective of each grid point that has a finished run, in the order of the grid."""
        finished = self.searched[self.searched["status"] == "finished"]
        if finished.empty:
            return pd.Series(dtype=float)
        return finished.groupby("point", sort=False)[self.objective].mean()


def select(runs: pd.DataFrame, search: Mapping[str, Any]) -> list[Cell]:
    """The cells of a folder's runs, in the order of the runs.

    Args:
        runs: from `load_runs`.
        search: `grid` and `repeated` name settings, `two_stage` says whether the grid has one repetition only.
    """
    keys = varied_settings(runs)
    parts = [split_settings(settings, keys, search) for settings in runs["settings"]]
    runs = runs.assign(**{name: pd.Series([part[i] for part in parts], runs.index, object) for i, name in _PARTS})
    cells = []
    for settings in dict.fromkeys(runs["cell"]):
        grid = runs[[cell == settings for cell in runs["cell"]]].drop(columns="cell")
        unchosen = Cell(settings, None, grid, bool(search.get("two_stage")))
        cells.append(Cell(settings, choose(_results_by_point(unchosen.searched)), grid, unchosen.two_stage))
    return cells


_PARTS = tuple(enumerate(("cell", "point", "repetition")))


def selection(runs: pd.DataFrame, search: Mapping[str, Any]) -> pd.DataFrame:
    """One row per compared cell.

    Columns: the compared settings, the chosen grid settings, `metric` (the test metric of the same name as the
    validation objective), `mean`, `sd` (of a sample), `ci95` (half the width of the 95 % interval of the mean, by
    Student's t), `n` (finished runs at the chosen point), `val` (the objective that the choice went by), the minimum,
    median and maximum of the objective over the grid's points, `points`, `runs` (of the whole cell), `notes`.
    """
    cells = select(runs, search)
    rows = [_summary(cell) for cell in cells]
    settings = {key: None for cell in cells for key, _ in cell.settings}
    grid = {key: None for cell in cells for points in cell.grid["point"] for key, _ in points}
    columns = [*settings, *grid, "metric", "mean", "sd", "ci95", "n", "val"]
    columns += [*(f"grid_{name}" for name in SPREAD), "points", "runs", "notes"]
    return pd.DataFrame(rows, columns=columns, dtype=object)


def _summary(cell: Cell) -> dict[str, Any]:
    metric = cell.objective.replace("val/", "test/")
    measured = cell.measured.get(metric, pd.Series(dtype=float)).dropna()
    row: dict[str, Any] = dict(cell.settings) | dict(cell.choice.point if cell.choice else ())
    row |= {"metric": metric, "mean": measured.mean(), "sd": measured.std(), "n": len(measured)}
    if len(measured) > 1:
        row["ci95"] = stats.sem(measured) * stats.t.ppf(0.975, len(measured) - 1)
    row["val"] = cell.choice.objective if cell.choice else float("nan")
    by_point = cell.by_point()
    row |= {f"grid_{name}": getattr(by_point, name)() for name in SPREAD}
    row |= {"points": cell.searched["point"].nunique(), "runs": len(cell.grid), "notes": "; ".join(_notes(cell))}
    return row


def _notes(cell: Cell) -> list[str]:
    """Whatever a reader has to know about a cell beside its numbers."""
    notes = []
    if cell.choice is None:
        notes.append("nothing to choose from")
    elif cell.choice.tied:
        notes.append(f"{len(cell.choice.tied) + 1} points tied, the first taken")
    unfinished = cell.grid[cell.grid["status"] != "finished"]
    became = unfinished["status"].where(~unfinished["reason"].str.startswith("pruned"), "pruned")
    for status, group in unfinished.groupby(became, sort=False):
        points = [label_of(point) for point in dict.fromkeys(group["point"]) if point]
        where = f" at {' and '.join(points)}" if len(points) <= 3 else f" at {len(points)} points"
        reasons = dict.fromkeys(filter(None, group["reason"])) if status == "failed" else ()
        why = f" ({', '.join(reasons)})" if reasons else ""
        notes.append(f"{len(group)} {status}{where * bool(points)}{why}")
    return notes


def _results_by_point(runs: pd.DataFrame) -> dict[Pairs, list[dict[str, Any]]]:
    """The results that a choice is made from, without their test metrics."""
    results: dict[Pairs, list[dict[str, Any]]] = {}
    for point, status, objective, (_, run) in zip(
        runs["point"], runs["status"], runs["objective"], runs.iterrows(), strict=True
    ):
        metrics = {objective: run[objective]} if objective in run and pd.notna(run[objective]) else {}
        name = str(objective).removeprefix("val/")
        results.setdefault(point, []).append({"status": status, "objective": name, "metrics": metrics})
    return results


def label_of(settings: Sequence[tuple[str, Any]]) -> str:
    """Settings in words: "lstm, 50 units, decay 0.9"."""
    return ", ".join(_words(key, value) for key, value in settings)


def _words(key: str, value: Any) -> str:
    if key == "model.hidden_size":
        return f"{value} units"
    if "." not in key and key != "seed":  # which model, task, optimizer or schedule
        return str(value)
    return f"{key.rpartition('.')[2]} {_short(value)}"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
