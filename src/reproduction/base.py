"""The parts of a reproduction: experiments, evidence from their runs, and claims with their tests."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from src.reproduction.effects import Effect, Verdict, verdict_of

Measure = Callable[[Path, pd.DataFrame], pd.DataFrame]
MANY = 4
"""Most effects of a claim that a report shows in full; if there are more, it shows those that decide the verdict."""
MEASURED = "measured.csv"
"""Name of the report file that contains the measurements on the trained networks."""


class NotRunError(Exception):
    """A claim needs runs that do not exist."""


@dataclass(frozen=True)
class Evidence:
    """The runs that count, at the settings chosen on the validation set, and their learning curves."""

    runs: pd.DataFrame
    """One row per run: `run`, `status`, settings by full keys, metrics, `updates`, `seconds`, `grid_points` (the number
    of grid points that its settings were chosen from), and `edge` (the keys of the settings at an edge of the grid,
    separated by spaces). A diverged run has the metrics of its best weights before it diverged. A run that belongs to
    several experiments has a row for each of them, all with the results of the same copy."""
    curves: pd.DataFrame
    """One row per run and evaluation: `run`, `update`, and the metrics on the validation set."""
    measured: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Measurements on the trained networks: `run`, settings, and numbers."""
    used: list[Any] = field(default_factory=list, compare=False)
    """The indices of the rows of `runs` that have been selected so far, directly or through their measurements."""

    def select(self, **settings: Any) -> pd.DataFrame:
        """The runs with these settings, whose keys have a double underscore for a dot: `model__hidden_size=20`.

        The value nan or None selects runs in which the setting is null or absent.

        Raises:
            NotRunError: no run has these settings.
        """
        found = _select(self.runs, settings)
        self.used.extend(found.index)
        return found

    def select_measured(self, **settings: Any) -> pd.DataFrame:
        """The measurements of runs with these settings, see `select`."""
        found = _select(self.measured, settings)
        self.used.extend(self.runs.index[self.runs["run"].isin(found["run"])])
        return found

    def values(self, metric: str, **settings: Any) -> np.ndarray:
        """A metric of the runs with these settings, one number per seed."""
        return self.select(**settings)[metric].to_numpy(float)

    def errors(self, **settings: Any) -> str:
        """The test errors of the runs with these settings as text: "1.23 ± 0.04 %, 1 of 3 diverged"."""
        runs = self.select(**settings)
        diverged = int((runs["status"] == "diverged").sum())
        if diverged == len(runs):  # mostly, the best weights before divergence are the initial ones
            points = int(runs["grid_points"].max())
            return "diverged" + f" at each of {points} grid points" * (points > 1)
        return percent(runs["test/error"].to_numpy(float)) + f", {diverged} of {len(runs)} diverged" * (diverged > 0)

    def updates_until(self, metric: str, bound: float, **settings: Any) -> np.ndarray:
        """Per seed, the first evaluated update at which a validation metric is at most a bound; inf if it never is."""
        found = []
        for run in self.select(**settings)["run"]:
            curve = self.curves[self.curves["run"] == run]
            reached = curve.loc[curve[metric] <= bound, "update"]
            found.append(float(reached.min()) if len(reached) else np.inf)
        return np.array(found)

    def last(self, metric: str, **settings: Any) -> np.ndarray:
        """The last value of a validation metric, one per seed."""
        runs = self.select(**settings)["run"]
        return np.array([self.curves.loc[self.curves["run"] == run, metric].iloc[-1] for run in runs], float)

    def updates_of(self, **settings: Any) -> float:
        """The maximum number of updates that the runs with these settings were allowed."""
        return float(self.select(**settings)["trainer.max_updates"].max())

    def mean_curve(self, metric: str, **settings: Any) -> pd.DataFrame:
        """Mean and standard deviation of a validation metric over seeds, by update.

        A run that stopped early because it solved the task keeps its last value; a diverged run has none after it
        diverged.
        """
        runs = self.select(**settings)
        curves = self.curves[self.curves["run"].isin(runs["run"])]
        by_run = curves.pivot_table(index="update", columns="run", values=metric).sort_index()
        diverged = runs.loc[runs["status"] == "diverged", "run"]
        by_run = by_run.ffill().where(by_run.notna() | ~by_run.columns.isin(diverged))
        return pd.DataFrame({"mean": by_run.mean(axis=1), "sd": by_run.std(axis=1)})


def _select(runs: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    keys = {name.replace("__", "."): value for name, value in settings.items()}
    for key, value in keys.items():
        if key not in runs:
            raise NotRunError(f"no run has {key}")
        null = pd.isna(value)
        runs = runs[runs[key].isna() if null else runs[key].map(lambda found, value=value: found == value)]
    if runs.empty:
        raise NotRunError(f"no run with {', '.join(f'{key}={value}' for key, value in keys.items())}")
    return runs


class Finding(NamedTuple):
    """The measurements made for a claim, and the effects that decide it.

    Attributes:
        measured: the measurements in words.
        effects: the effects, each with the range in which it lies according to the claim.
        edge: whether a setting that the test itself chose is the smallest or the largest that was tried.
    """

    measured: str
    effects: Sequence[Effect]
    edge: bool = False


class Judgement(NamedTuple):
    """The judgement on a claim.

    Attributes:
        verdict: the verdict of all effects together.
        measured: the measurements in words.
        effects: the effects with their intervals, in words.
        edge: whether a setting of the compared runs is at an edge of the grid that it was chosen from.
    """

    verdict: Verdict
    measured: str
    effects: str = ""
    edge: bool = False


@dataclass(frozen=True)
class Claim:
    """A statement, usually from a paper, and the test that decides whether our runs reproduce it."""

    statement: str
    source: str
    criterion: str
    """The test in words: the range in which its effects must lie."""
    test: Callable[[Evidence], Finding]

    def judge(self, evidence: Evidence) -> Judgement:
        """The verdict, which follows from the effects and their intervals."""
        examined = replace(evidence, used=[])
        try:
            measured, effects, at_edge = self.test(examined)
        except NotRunError as error:
            return Judgement("not run", str(error))
        edge = at_edge or bool(evidence.runs.loc[examined.used, "edge"].any())
        verdict = verdict_of(effects)
        deciding = [effect for effect in effects if effect.verdict == verdict] if len(effects) > MANY else effects
        return Judgement(verdict, measured, "; ".join(map(str, deciding)), edge)


class Study(NamedTuple):
    """A random search by `scripts/search.py`, as a part of an experiment.

    Attributes:
        fixed: overrides that distinguish it from the other studies of the experiment, such as "model=lstm".
        ranges: the ranges to search, written as for `scripts/search.py`.
    """

    fixed: tuple[str, ...]
    ranges: tuple[str, ...]


@dataclass(frozen=True)
class Searches:
    """Random searches that replace the grid of an experiment; all of their trials count.

    Attributes:
        studies: the studies of each experiment; all of them have the same number of trials.
        trials: number of trials of each study.
        quick_trials: number of trials of each study with the quick budget.
    """

    studies: Mapping[str, tuple[Study, ...]]
    trials: int
    quick_trials: int


@dataclass(frozen=True)
class Reproduction:
    """One table or figure of a paper: `REPRODUCTION` in a module of `src.papers.<paper>`.

    Differences from the paper, if any, are explained in a Markdown file of the same name next to the module.
    """

    title: str
    """What it shows, in one line."""
    experiments: tuple[str, ...]
    """The files of `configs/experiment` that it needs."""
    claims: tuple[Claim, ...]
    table: Callable[[Evidence], pd.DataFrame]
    """The measured numbers, next to the published ones where there are any."""
    only_in_full: tuple[str, ...] = ()
    """Experiments that the quick budget omits."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings that identify its runs, by full keys, if their folder also contains other runs."""
    measure: Measure | None = None
    """Measures trained networks, given the folder of the runs and the rows of the runs that count."""
    measure_needs_weights: bool = True
    """Whether `measure` needs weights. Restored runs have none: their committed measurements are used instead."""
    figures: Mapping[str, Callable[[Evidence], Figure]] = field(default_factory=dict)
    quick: tuple[str, ...] = ()
    """Overrides of the quick budget."""
    searches: Searches | None = None
    """The random searches of the experiments that are not grids."""
    curves: tuple[str, ...] = ("val/error", "val/nll")
    """Tags of the learning curves that are recorded."""
    replayed: tuple[Mapping[str, Any], ...] = ()
    """Settings of the runs whose first updates `check` repeats."""
    replayed_curve: str = "val/nll"
    """The curve that `check` compares; it must be smooth, so an error rate is unsuitable."""


def sd(values: np.ndarray) -> float:
    """The standard deviation over seeds, 0 for one seed."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def mean_and_sd(values: np.ndarray, digits: str = ".2f", factor: float = 1) -> str:
    """Mean and standard deviation over seeds times a factor: "1.23 ± 0.04"; the mean alone for one seed."""
    spread = f" ± {factor * sd(values):{digits}}" if len(values) > 1 else ""
    return f"{factor * values.mean():{digits}}{spread}"


def percent(values: np.ndarray) -> str:
    """Mean and standard deviation of errors: "1.23 ± 0.04 %"."""
    return f"{mean_and_sd(values, factor=100)} %"


def chosen_lr(runs: pd.DataFrame) -> str:
    """The learning rate of runs with the same settings, and how many grid points it was chosen from.

    For example "0.0003 of 4, edge"; a learning rate that was not chosen is "fixed".
    """
    first = runs.iloc[0]
    points = f" of {first['grid_points']}" if first["grid_points"] > 1 else ", fixed"
    return f"{first['optimizer.lr']:g}{points}{marked(runs)}"


def marked(runs: pd.DataFrame) -> str:
    """A mark for settings at an edge of their grid: ", edge" for the learning rate, ", edge of decay" for another."""
    keys = sorted({key for edge in runs["edge"] for key in edge.split()}, key=lambda key: (key != "optimizer.lr", key))
    return "".join(", edge" if key == "optimizer.lr" else f", edge of {key.rpartition('.')[2]}" for key in keys)


def thousands(updates: np.ndarray) -> str:
    """The median of numbers of updates, and their range: "1,500 (1,000 to 2,250)"; "never" for inf."""
    shown = [
        "never" if np.isinf(value) else f"{value:,.0f}" for value in (np.median(updates), *np.sort(updates)[[0, -1]])
    ]
    return shown[0] if len(set(shown)) == 1 else f"{shown[0]} ({shown[1]} to {shown[2]})"
