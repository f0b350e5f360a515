"""Beyond the paper: how many pairs fast weights of a given width bind."""

import itertools
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.papers.ba2016.table1 import floor_of
from src.reports.style import FLOOR as FLOOR_LINE
from src.reports.style import RC, legend, panels, styles_of
from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, marked, percent
from src.reproduction.effects import difference, mean

NAME, LONGER, CURRICULUM = "ba2016-capacity", "ba2016-capacity-long", "ba2016-capacity-curriculum"
"""Folder names."""
BOUND = 0.1
"""The largest test error at which pairs count as bound."""


def _capacities(evidence: Evidence) -> dict[int, np.ndarray]:
    """For each width and seed, the most pairs up to which all numbers tried have an error of at most 10 %, or 0."""
    found = {}
    for width, of_width in evidence.select(name=NAME).groupby("model.hidden_size"):
        errors = of_width.pivot_table(index="task.num_pairs", columns="seed", values="test/error").dropna(axis=1)
        bound = (errors <= BOUND).cummin()
        found[int(width)] = bound.mul(bound.index, axis=0).max().to_numpy(float)
    return found


def _capacity_grows(evidence: Evidence) -> Finding:
    capacities = _capacities(evidence)
    measured = "; ".join(f"{width} units: {pairs.mean():.3g} pairs" for width, pairs in capacities.items())
    widths = sorted(capacities)
    effects = []
    for narrow, wide in itertools.pairwise(widths):
        name = f"{wide} against {narrow} units"
        effects.append(difference(capacities[wide], capacities[narrow], name, "pairs").within(least=-0.5))
    name = f"{widths[-1]} against {widths[0]} units"
    effects.append(difference(capacities[widths[-1]], capacities[widths[0]], name, "pairs").within(least=0))
    return Finding(measured, effects)


def _longer_runs_bind(evidence: Evidence) -> Finding:
    errors = {
        width: evidence.values("test/error", name=LONGER, model__hidden_size=width, task__num_pairs=13)
        for width in (50, 100)
    }
    measured = "; ".join(f"{width} units: {percent(values)}" for width, values in errors.items())
    effects = [mean(errors[100], "100 units").within(most=BOUND), mean(errors[50], "50 units").within(least=BOUND)]
    return Finding(measured, effects)


def _curriculum_helps(evidence: Evidence) -> Finding:
    settings = {"model__hidden_size": 50, "task__num_pairs": 13}
    first_short, all_long = (evidence.values("test/error", name=name, **settings) for name in (CURRICULUM, NAME))
    measured = f"{percent(first_short)} against {percent(all_long)}"
    return Finding(measured, [difference(first_short, all_long).within(most=0)])


def draw(evidence: Evidence) -> Figure:
    """Test error in % against the number of pairs, a line per width, and the floor; hollow markers for longer runs."""
    with rc_context(RC):
        figure, (axes,) = panels([""])
        try:
            runs = evidence.select(name=NAME)
        except NotRunError:
            return figure
        widths = sorted(runs["model.hidden_size"].unique())
        styles = styles_of({f"{width} units": "fastweights" for width in widths})
        for width, (label, style) in zip(widths, styles.items(), strict=True):
            _draw(axes, runs[runs["model.hidden_size"] == width], style, label)
            with suppress(NotRunError):
                longer = evidence.select(name=LONGER, model__hidden_size=width)
                _draw(axes, longer, style | {"linestyle": "none", "markerfacecolor": "white"})
        axes.plot([], [], "o", color="0.4", markerfacecolor="white", label="longer runs")
        pairs = sorted(runs["task.num_pairs"].unique())
        floors = [100 * floor_of(int(num_pairs)) for num_pairs in pairs]
        axes.plot(pairs, floors, label="knows the digits only", **FLOOR_LINE)
        limit = f"{100 * BOUND:g} %, the limit of capacity"
        axes.axhline(100 * BOUND, label=limit, **(FLOOR_LINE | {"linestyle": ":"}))
        axes.set(xlabel="pairs", ylabel="test error, %, mean ± sd", xticks=pairs, ylim=(-2, None))
        legend(figure, [axes])
    return figure


def _draw(axes: Axes, runs: pd.DataFrame, style: Mapping[str, Any], label: str | None = None) -> None:
    """Plot the mean test error in % and its standard deviation, with error bars that do not extend below 0."""
    by_pairs = 100 * runs.groupby("task.num_pairs")["test/error"].agg(["mean", "std"])
    below = np.minimum(by_pairs["std"], by_pairs["mean"])
    axes.errorbar(by_pairs.index, by_pairs["mean"], [below, by_pairs["std"]], label=label, capsize=2, **style)


def table(evidence: Evidence) -> pd.DataFrame:
    """Test error in %, a row per number of pairs and number of updates, a column per width, and the floor."""
    widths = sorted(evidence.runs["model.hidden_size"].unique())
    rows = []
    for (num_pairs, updates, name), of_row in evidence.runs.groupby(["task.num_pairs", "trainer.max_updates", "name"]):
        row = {"pairs": str(num_pairs), "updates": f"{updates:,}" + ", short sequences first" * (name == CURRICULUM)}
        for width in widths:
            runs = of_row[of_row["model.hidden_size"] == width]
            row[f"{width} units, %"] = "not run" if runs.empty else _cell(runs)
        rows.append(row | {"floor, %": f"{100 * floor_of(int(num_pairs)):.2f}"})
    return pd.DataFrame(rows)


def _cell(runs: pd.DataFrame) -> str:
    return percent(runs["test/error"].to_numpy(float)).removesuffix(" %") + f" (n={len(runs)}{marked(runs)})"


REPRODUCTION = Reproduction(
    title="Ba et al. 2016, beyond the paper: how many pairs networks of 10 to 100 units bind",
    experiments=(
        "ba2016/ablations/capacity",
        "ba2016/ablations/capacity_long",
        "ba2016/ablations/capacity_curriculum",
    ),
    only_in_full=("ba2016/ablations/capacity_long", "ba2016/ablations/capacity_curriculum"),
    claims=(
        Claim(
            "A wider network binds more pairs.",
            "Section 4.1 leaves open how the capacity grows with R",
            f"the most pairs up to which the test error of a seed is at most {100 * BOUND:g} %: not fewer from each "
            "width to the next (difference above -0.5), and more with the most units than with the fewest (above 0)",
            _capacity_grows,
        ),
        Claim(
            "With three times the updates, 100 units bind 13 pairs, and 50 do not.",
            "not in the paper",
            f"30,000 updates: mean test error below {100 * BOUND:g} % with 100 units, above it with 50",
            _longer_runs_bind,
        ),
        Claim(
            "With 50 units, 13 pairs are learned better if short sequences come first.",
            "not in the paper",
            "10,000 updates: difference of mean test errors below 0",
            _curriculum_helps,
        ),
    ),
    table=table,
    figures={"capacity": draw},
    quick=(
        "trainer.max_updates=4000",
        "optimizer.lr=1e-3,3e-4",
        "seed=0",
        "model.hidden_size=20,50",
        "task.num_pairs=2,4,8",
    ),
)
