"""Beyond the paper: how many pairs fast weights of a given width bind."""

import itertools
from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from src.papers.ba2016.table1 import floor_of
from src.reports.style import FLOOR as FLOOR_LINE
from src.reports.style import RC, legend, panels, styles_of
from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, percent

BOUND = 0.1
"""Test error up to which pairs count as bound."""


def _capacities(evidence: Evidence) -> dict[int, int]:
    """For each width, the most pairs tried up to which the mean test error stays at or below 10 %; 0 if none."""
    runs = evidence.select(model="fastweights")
    found = {}
    for width, of_width in runs.groupby("model.hidden_size"):
        means = of_width.groupby("task.num_pairs")["test/error"].mean().sort_index()
        bound = means.index[(means <= BOUND).cummin()]
        found[int(width)] = int(bound.max()) if len(bound) else 0
    return found


def _capacity_grows(evidence: Evidence) -> Finding:
    capacities = _capacities(evidence)
    values = list(capacities.values())
    measured = "; ".join(f"{width} units: {pairs} pairs" for width, pairs in capacities.items())
    grows = all(after >= before for before, after in itertools.pairwise(values)) and values[-1] > values[0]
    return Finding(measured, grows)


def draw(evidence: Evidence) -> Figure:
    """Test error against the number of pairs, a line per width, and the floor of knowing only the digits."""
    with rc_context(RC):
        figure, (axes,) = panels([""])
        try:
            runs = evidence.select(model="fastweights")
        except NotRunError:
            return figure
        widths = sorted(runs["model.hidden_size"].unique())
        styles = styles_of({f"{width} units": "fastweights" for width in widths})
        for width, (label, style) in zip(widths, styles.items(), strict=True):
            by_pairs = runs[runs["model.hidden_size"] == width].groupby("task.num_pairs")["test/error"]
            axes.errorbar(by_pairs.mean().index, by_pairs.mean(), by_pairs.std(), label=label, capsize=2, **style)
        pairs = sorted(runs["task.num_pairs"].unique())
        axes.plot(pairs, [floor_of(int(num_pairs)) for num_pairs in pairs], label="knows the digits only", **FLOOR_LINE)
        axes.axhline(BOUND, **(FLOOR_LINE | {"linestyle": ":"}))
        axes.set(xlabel="pairs", ylabel="test error", xticks=pairs)
        legend(figure, [axes])
    return figure


def table(evidence: Evidence) -> pd.DataFrame:
    """Test error in %, a row per number of pairs and a column per width, and the floor."""
    runs = evidence.select(model="fastweights")
    rows = []
    for num_pairs, of_pairs in runs.groupby("task.num_pairs"):
        row = {"pairs": str(num_pairs)}
        for width, of_width in of_pairs.groupby("model.hidden_size"):
            row[f"{width} units, %"] = percent(of_width["test/error"].to_numpy(float)).removesuffix(" %")
        rows.append(row | {"floor, %": f"{100 * floor_of(int(num_pairs)):.2f}"})
    return pd.DataFrame(rows)


REPRODUCTION = Reproduction(
    title="Ba et al. 2016, beyond the paper: how many pairs networks of 10 to 100 units bind",
    experiments=("ba2016/ablations/capacity",),
    claims=(
        Claim(
            "A wider network binds more pairs.",
            "Section 4.1 leaves open how the capacity grows with R",
            f"the most pairs up to which the mean test error is at most {100 * BOUND:g} %: never fewer with more "
            "units, and more with the most units than with the fewest",
            _capacity_grows,
        ),
    ),
    table=table,
    figures={"capacity": draw},
    quick=("trainer.max_updates=4000", "seed=0", "model.hidden_size=20,50", "task.num_pairs=2,4,8"),
    notes=Path(__file__).with_name("capacity.md"),
)
