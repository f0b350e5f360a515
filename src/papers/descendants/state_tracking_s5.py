"""Beyond the papers: which recurrences track the permutations of five objects, a group that is not solvable."""

from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from src.papers.descendants import draw_accuracies, errors_or_none, is_above, is_below, rows_of
from src.reports.style import FLOOR as FLOOR_LINE
from src.reports.style import RC, legend, panels, styles_of
from src.reproduction.base import Evidence, Reproduction

NONLINEAR, PRODUCT = "descendants-state-tracking-s5", "descendants-state-tracking-s5-deltaproduct"
LENGTHS = (5, 10, 20, 40, 80, 160)
CHANCE = 119 / 120
CELLS: dict[str, dict[str, Any]] = {
    "LSTM": {"name": NONLINEAR, "model": "lstm"},
    "fast weights (2016)": {"name": NONLINEAR, "model": "fastweights"},
    "recurrent DeltaNet": {"name": NONLINEAR, "model": "recurrent_deltanet"},
} | {
    f"DeltaProduct, {n} factor{'s' * (n > 1)}": {"name": PRODUCT, "model": "deltaproduct", "model__num_householder": n}
    for n in (1, 2, 3, 4)
}
SOURCE = "Siems et al. 2025: a transposition is one reflection, and a permutation of five objects is at most four"
OWN = "not in the papers: its recurrence is nonlinear"


def table(evidence: Evidence) -> pd.DataFrame:
    """One row per cell: errors by length."""
    return pd.DataFrame(rows_of(evidence, CELLS, {f"{t} steps": f"test/error_at_{t}" for t in LENGTHS}))


def draw(evidence: Evidence) -> Figure:
    """Accuracy by length, a curve per cell."""
    with rc_context(RC):
        figure, (axes,) = panels([""])
        for label, style in styles_of({cell: settings["model"] for cell, settings in CELLS.items()}).items():
            found = {t: errors_or_none(evidence, f"test/error_at_{t}", **CELLS[label]) for t in LENGTHS}
            draw_accuracies(axes, found, label=label, **style)
        axes.axhline(1 - CHANCE, label="chance", **FLOOR_LINE)
        axes.set_xscale("log", base=2)
        axes.set_xticks(LENGTHS, [str(t) for t in LENGTHS])
        axes.set(xlabel="steps (trained on 5)", ylabel="accuracy at this step", ylim=(0, 1.03))
        legend(figure, [axes])
    return figure


def _solves(cell: str, source: str) -> Any:
    return is_below(
        f"{cell[:1].upper()}{cell[1:]}: S5 is tracked over twice the steps of training.",
        source,
        [CELLS[cell]],
        0.05,
        "test/error_at_10",
        "trained on 5, after 10 steps: ",
    )


def _fails(cell: str) -> Any:
    return is_above(
        f"{cell}: S5 is not tracked.", SOURCE, [CELLS[cell]], 0.5, "test/error_at_10", "trained on 5, after 10 steps: "
    )


REPRODUCTION = Reproduction(
    title="Descendants of fast weights: which recurrences track the permutations of five objects",
    experiments=("descendants/state_tracking_s5/nonlinear", "descendants/state_tracking_s5/deltaproduct"),
    claims=(
        _solves("DeltaProduct, 4 factors", SOURCE),
        _fails("DeltaProduct, 1 factor"),
        _solves("LSTM", OWN),
        _solves("fast weights (2016)", OWN),
        _solves("recurrent DeltaNet", OWN),
    ),
    table=table,
    figures={"lengths": draw},
    quick=("optimizer.lr=1e-2", "seed=0", "trainer.max_updates=2500"),
    replayed=({"name": PRODUCT, "model.num_householder": 4, "seed": 0},),
)
