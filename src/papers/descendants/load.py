"""Beyond the papers: recall of 8 to 32 pairs by memories of 16 x 16 numbers that add, correct or do least squares."""

from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from src.papers.descendants import BY_AGE, LABELS, draw_accuracies, errors_or_none, is_below, is_better, row_of
from src.reports.style import FLOOR as FLOOR_LINE
from src.reports.style import RC, legend, panels, styles_of
from src.reproduction.base import Evidence, NotRunError, Reproduction

NAME, PASSES = "descendants-load", "descendants-load-passes"
NUM_PAIRS = (8, 16, 24, 32)
SIZE = 16
"""Rows of a memory, which is also the largest number of orthogonal keys."""
CELLS: dict[str, dict[str, Any]] = {
    LABELS[model]: {"name": NAME, "model": model}
    for model in ("linear_attention", "retnet", "mlstm", "deltanet", "mesanet")
} | {f"DeltaNet, {n} passes": {"name": PASSES, "model": "deltanet", "task__num_passes": n} for n in (2, 3)}


def _at(cell: str, num_pairs: int) -> dict[str, Any]:
    return CELLS[cell] | {"task__num_pairs": num_pairs}


def table(evidence: Evidence) -> pd.DataFrame:
    """One row per cell and number of pairs."""
    rows = []
    for label, cell in CELLS.items():
        for num_pairs in NUM_PAIRS:
            try:
                runs = evidence.select(**cell, task__num_pairs=num_pairs)
            except NotRunError:
                continue
            rows.append({"cell": label, "pairs": str(num_pairs)} | row_of(runs, BY_AGE))
    return pd.DataFrame(rows)


def draw(evidence: Evidence) -> Figure:
    """Accuracy against the number of pairs, a curve per cell."""
    with rc_context(RC):
        figure, (axes,) = panels([""])
        for label, style in styles_of({cell: settings["model"] for cell, settings in CELLS.items()}).items():
            found = {k: errors_or_none(evidence, **_at(label, k)) for k in NUM_PAIRS}
            draw_accuracies(axes, found, label=label, **style)
        axes.axvline(SIZE, label="as many as the memory has rows", **FLOOR_LINE)
        axes.set(xlabel="pairs (16 x 16 numbers of state)", ylabel="accuracy", xticks=NUM_PAIRS, ylim=(0, 1.03))
        legend(figure, [axes])
    return figure


REPRODUCTION = Reproduction(
    title="Descendants of fast weights: recall of more pairs than a memory has rows",
    experiments=("descendants/load/sums", "descendants/load/passes"),
    claims=(
        *(
            is_better(
                f"With {num_pairs} learned keys, the delta rule recalls more than {other}.",
                "Schlag, Irie & Schmidhuber 2021; Yang et al. 2024",
                _at("DeltaNet", num_pairs),
                _at(other, num_pairs),
                0.0,
            )
            for num_pairs in (16, 32)
            for other in ("linear attention", "retention", "mLSTM")
        ),
        is_below(
            "Least squares recalls as many pairs as the memory has rows.",
            "von Oswald et al. 2025; see the theory topic write_rules",
            [_at("MesaNet", SIZE)],
            0.01,
        ),
        is_better(
            "Least squares is the ceiling: it recalls more than the delta rule.",
            "von Oswald et al. 2025",
            _at("MesaNet", 32),
            _at("DeltaNet", 32),
            0.05,
            where="32 pairs: ",
        ),
        *(
            is_better(
                f"DeltaNet comes closer to least squares if {num_pairs} pairs are written {passes} times.",
                "see the theory topic write_rules",
                _at(f"DeltaNet, {passes} passes", num_pairs),
                _at("DeltaNet", num_pairs),
                0.0,
            )
            for num_pairs in (16, 32)
            for passes in (2, 3)
        ),
        *(
            is_better(
                f"Least squares recalls more of {num_pairs} pairs than DeltaNet does after writing them three times.",
                "see the theory topic write_rules",
                _at("MesaNet", num_pairs),
                _at("DeltaNet, 3 passes", num_pairs),
                0.0,
            )
            for num_pairs in (16, 32)
        ),
    ),
    table=table,
    figures={"load": draw},
    quick=("task.num_pairs=16,32", "optimizer.lr=1e-2", "seed=0", "trainer.max_updates=800"),
    replayed=({"name": NAME, "model": "deltanet", "task.num_pairs": 16, "seed": 0},),
)
