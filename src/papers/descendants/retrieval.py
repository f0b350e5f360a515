"""Beyond Ba et al. 2016: their retrieval task with 4, 8 and 16 pairs, by all cells at equal state size."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from src.papers.ba2016.table1 import floor_of
from src.papers.descendants import LABELS, draw_accuracies, errors_or_none, is_below, is_better, percents, row_of
from src.reports.style import FLOOR as FLOOR_LINE
from src.reports.style import RC, legend, panels, styles_of
from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction
from src.reproduction.effects import difference

LINEAR, OTHERS = "descendants-retrieval-linear", "descendants-retrieval"
FURTHER, RECURRENT = "descendants-retrieval-further", "descendants-retrieval-recurrent"
NUM_PAIRS = (4, 8, 16)


def _cells(name: str, *models: str) -> dict[str, dict[str, Any]]:
    return {LABELS[model]: {"name": name, "model": model} for model in models}


PUBLISHED = "fast weights (2016)"
FIRST: dict[str, dict[str, Any]] = _cells(
    LINEAR, "linear_attention", "retnet", "mlstm", "deltanet", "gated_deltanet"
) | {
    PUBLISHED: {"name": OTHERS, "model": "fastweights", "model__rule": "hebbian"},
    "fast weights, delta rule": {"name": OTHERS, "model": "fastweights", "model__rule": "delta"},
    "LSTM": {"name": OTHERS, "model": "lstm"},
}
"""The cells of the first figure, and of the claims that compare two cells."""
MORE: dict[str, dict[str, Any]] = (
    _cells(FURTHER, "mamba2", "gla", "kda", "deltaproduct")
    | _cells(RECURRENT, "rwkv7", "recurrent_deltanet", "srwm")
    | _cells(FURTHER, "ttt_linear", "titans", "mesanet", "attention")
)
"""The cells of the second figure."""
CELLS = FIRST | MORE
DESCENDANTS = [label for label in CELLS if label not in (PUBLISHED, "fast weights, delta rule", "LSTM", "attention")]


def _at(cell: str, num_pairs: int) -> dict[str, Any]:
    return CELLS[cell] | {"task__num_pairs": num_pairs}


def table(evidence: Evidence) -> pd.DataFrame:
    """One row per cell and number of pairs."""
    rows = []
    for label in CELLS:
        for num_pairs in NUM_PAIRS:
            try:
                runs = evidence.select(**_at(label, num_pairs))
            except NotRunError:
                continue
            rows.append({"cell": label, "pairs": str(num_pairs)} | row_of(runs, {"error": "test/error"}))
    return pd.DataFrame(rows)


def _draw(cells: Mapping[str, Mapping[str, Any]], evidence: Evidence) -> Figure:
    """Accuracy against the number of pairs, a curve per cell."""
    with rc_context(RC):
        figure, (axes,) = panels([""])
        for label, style in styles_of({cell: settings["model"] for cell, settings in cells.items()}).items():
            found = {k: errors_or_none(evidence, **_at(label, k)) for k in NUM_PAIRS}
            draw_accuracies(axes, found, label=label, **style)
        axes.plot(NUM_PAIRS, [1 - floor_of(k) for k in NUM_PAIRS], label="knows the digits only", **FLOOR_LINE)
        axes.set(xlabel="pairs", ylabel="accuracy", xticks=NUM_PAIRS, ylim=(0, 1.03))
        legend(figure, [axes])
    return figure


def _all_are_better(num_pairs: int) -> Claim:
    def test(evidence: Evidence) -> Finding:
        theirs = evidence.values("test/error", **_at(PUBLISHED, num_pairs))
        measured, effects = [f"{PUBLISHED}: {percents(theirs)} %"], []
        for label in DESCENDANTS:
            mine = evidence.values("test/error", **_at(label, num_pairs))
            measured.append(f"{label}: {percents(mine)} %")
            effects.append(difference(mine, theirs, label).within(most=-0.05))
        return Finding("; ".join(measured), effects)

    return Claim(
        f"With {num_pairs} pairs, all published descendants answer correctly more often than the fast weights of 2016.",
        "not in the papers",
        "mean test error more than 5 points lower, for each",
        test,
    )


REPRODUCTION = Reproduction(
    title="Descendants of fast weights: the retrieval of Ba et al. by all cells at equal state size",
    experiments=(
        "descendants/retrieval/linear",
        "descendants/retrieval/nonlinear",
        "descendants/retrieval/further",
        "descendants/retrieval/recurrent",
    ),
    claims=(
        *(
            is_below(
                f"DeltaNet retrieves the right value among {k} pairs.", "not in the papers", [_at("DeltaNet", k)], 0.02
            )
            for k in NUM_PAIRS
        ),
        *(
            is_better(
                f"With {k} pairs, DeltaNet answers correctly more often than the fast weights of 2016.",
                "not in the papers",
                _at("DeltaNet", k),
                _at(PUBLISHED, k),
                0.05,
            )
            for k in NUM_PAIRS
        ),
        *(
            is_better(
                f"With {k} pairs, fast weights answer correctly more often than an LSTM.",
                "Ba et al. 2016, table 1, at an equal number of units",
                _at(PUBLISHED, k),
                _at("LSTM", k),
                0.05,
            )
            for k in NUM_PAIRS
        ),
        *(
            is_better(
                f"With {k} pairs, fast weights with a delta rule answer correctly more often than as published.",
                "not in the papers",
                _at("fast weights, delta rule", k),
                _at(PUBLISHED, k),
                0.05,
            )
            for k in NUM_PAIRS
        ),
        *(_all_are_better(k) for k in NUM_PAIRS),
    ),
    table=table,
    figures={"retrieval": partial(_draw, FIRST), "further": partial(_draw, MORE)},
    quick=("task.num_pairs=4,8", "optimizer.lr=3e-3", "seed=0", "trainer.max_updates=2000"),
    replayed=({"name": OTHERS, "model": "fastweights", "model.rule": "hebbian", "task.num_pairs": 4, "seed": 0},),
)
