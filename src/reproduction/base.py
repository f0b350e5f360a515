"""The parts of a reproduction: experiments, evidence from their runs, and claims with their tests."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

Verdict = Literal["reproduced", "not reproduced", "not run"]
Measure = Callable[[Path, pd.DataFrame], pd.DataFrame]
MEASURED = "measured.csv"
"""File of a report with measurements on the trained networks."""


class NotRunError(Exception):
    """A claim needs runs that do not exist."""


@dataclass(frozen=True)
class Evidence:
    """The runs that count, at the settings chosen on the validation set, and their learning curves."""

    runs: pd.DataFrame
    """One row per run: `run`, `status`, settings by full keys, metrics, `updates`, `seconds`, and `grid_points`, the
    number of grid points its settings were chosen from. A diverged run has the metrics of its best weights before it
    diverged."""
    curves: pd.DataFrame
    """One row per run and evaluation: `run`, `update`, and the metrics on the validation set."""
    measured: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Measurements on the trained networks: `run`, settings, and numbers."""

    def select(self, **settings: Any) -> pd.DataFrame:
        """The runs with these settings, with a double underscore for a dot: `model__hidden_size=20`.

        A setting that is null, or that the runs do not have, is nan or None.

        Raises:
            NotRunError: there are none.
        """
        return _select(self.runs, settings)

    def select_measured(self, **settings: Any) -> pd.DataFrame:
        """The same for measurements."""
        return _select(self.measured, settings)

    def values(self, metric: str, **settings: Any) -> np.ndarray:
        """A metric of the runs with these settings, one number per seed."""
        return self.select(**settings)[metric].to_numpy(float)

    def errors(self, **settings: Any) -> str:
        """The test errors of the runs with these settings as text: "1.23 ± 0.04 %, 1 of 3 diverged"."""
        runs = self.select(**settings)
        diverged = int((runs["status"] == "diverged").sum())
        return percent(runs["test/error"].to_numpy(float)) + f", {diverged} of {len(runs)} diverged" * (diverged > 0)

    def updates_until(self, metric: str, bound: float, **settings: Any) -> np.ndarray:
        """The first evaluated update at which a validation metric is at or below a bound; inf if it never is."""
        found = []
        for run in self.select(**settings)["run"]:
            curve = self.curves[self.curves["run"] == run]
            reached = curve.loc[curve[metric] <= bound, "update"]
            found.append(float(reached.min()) if len(reached) else np.inf)
        return np.array(found)

    def mean_curve(self, metric: str, **settings: Any) -> pd.DataFrame:
        """Mean and standard deviation of a validation metric over seeds, by update.

        A run that stopped early, having solved the task, keeps its last value.
        """
        runs = self.select(**settings)["run"]
        curves = self.curves[self.curves["run"].isin(runs)]
        by_run = curves.pivot_table(index="update", columns="run", values=metric).sort_index().ffill()
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
    """What was measured for a claim, and whether the claim holds."""

    measured: str
    holds: bool


@dataclass(frozen=True)
class Claim:
    """A statement, mostly of a paper, and the test that decides whether our runs reproduce it."""

    statement: str
    source: str
    criterion: str
    """The test in words."""
    test: Callable[[Evidence], Finding]

    def judge(self, evidence: Evidence) -> tuple[Verdict, str]:
        """The verdict, and what was measured."""
        try:
            measured, holds = self.test(evidence)
        except NotRunError as error:
            return "not run", str(error)
        return ("reproduced" if holds else "not reproduced"), measured


@dataclass(frozen=True)
class Reproduction:
    """One table or figure of a paper: `REPRODUCTION` in a module of `src.papers.<paper>`."""

    title: str
    """What it shows, in one line."""
    experiments: tuple[str, ...]
    """The files of `configs/experiment` that it needs."""
    claims: tuple[Claim, ...]
    table: Callable[[Evidence], pd.DataFrame]
    """Printed next to measured numbers."""
    only_in_full: tuple[str, ...] = ()
    """Experiments that the quick budget omits."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of its runs, by full keys, if their folder contains others."""
    measure: Measure | None = None
    """Measures trained networks, given the folder of the runs and the rows of those that count."""
    figures: Mapping[str, Callable[[Evidence], Figure]] = field(default_factory=dict)
    quick: tuple[str, ...] = ()
    """Overrides of the quick budget."""
    curves: tuple[str, ...] = ("val/error", "val/nll")
    """Tags of the learning curves that are recorded."""
    replayed: tuple[Mapping[str, Any], ...] = ()
    """Settings of the runs whose first updates `check` repeats."""
    replayed_curve: str = "val/nll"
    """The curve that `check` compares; smooth, so not an error rate."""
    notes: Path | None = None
    """Markdown file on what differs from the paper, and why."""


def percent(values: np.ndarray) -> str:
    """Mean and standard deviation of errors: "1.23 ± 0.04 %"."""
    mean = f"{100 * values.mean():.2f}"
    return f"{mean} ± {100 * values.std(ddof=1):.2f} %" if len(values) > 1 else f"{mean} %"


def thousands(updates: np.ndarray) -> str:
    """Median number of updates, and range: "1,500 (1,000 to 2,250)"; "never" for inf."""
    shown = [
        "never" if np.isinf(value) else f"{value:,.0f}" for value in (np.median(updates), *np.sort(updates)[[0, -1]])
    ]
    return shown[0] if len(set(shown)) == 1 else f"{shown[0]} ({shown[1]} to {shown[2]})"
