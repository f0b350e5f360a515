"""Beyond the papers: the loop of Ba et al. (2016) around a memory as in DeltaNet, and what each part contributes."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from src.papers.descendants import BY_AGE, errors_or_none, percents, row_of
from src.reports.style import FLOOR as FLOOR_LINE
from src.reports.style import RC, legend, panels, styles_of
from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, sd
from src.reproduction.effects import difference

NAME = "descendants-fast-weights-apart"
PUBLISHED: dict[str, Any] = {"name": NAME, "model__hidden_size": 16}
WHOLE: dict[str, Any] = {"name": NAME, "model__hidden_size": 64}
PARTS = {
    "rule": "the delta rule",
    "gates": "gates",
    "sign": "signed states",
    "units": "more units than the memory has rows",
    "input": "a stronger input at the start",
}
"""The part that is left out, by the name of the experiment that leaves it out."""
CELLS: dict[str, dict[str, Any]] = {
    "as published": PUBLISHED,
    "with a delta rule": WHOLE,
    **{f"without {part}": {"name": f"{NAME}-{key}"} for key, part in PARTS.items()},
}
NUM_PAIRS = (4, 8, 16)


def _errors(evidence: Evidence, cell: dict[str, Any], num_pairs: int) -> np.ndarray:
    return evidence.values("test/error", **cell, task__num_pairs=num_pairs)


def _twice(num_pairs: int) -> Claim:
    def test(evidence: Evidence) -> Finding:
        whole, published = (num_pairs * (1 - _errors(evidence, cell, num_pairs)) for cell in (WHOLE, PUBLISHED))
        measured = f"{whole.mean():.2f} of {num_pairs} pairs against {published.mean():.2f}"
        return Finding(measured, [difference(whole, 2 * published, "", "pairs").within(least=0)])

    return Claim(
        f"Of {num_pairs} pairs, the recurrence with a delta rule recalls at least twice as many as the one of 2016.",
        "not in the papers",
        "states of 260 and 272 numbers: the mean number of pairs that are recalled, minus twice that as published, is "
        "above 0",
        test,
    )


def _needed(key: str) -> Claim:
    def test(evidence: Evidence) -> Finding:
        lacking, whole = (_errors(evidence, cell, 16) for cell in (CELLS[f"without {PARTS[key]}"], WHOLE))
        measured = f"{percents(lacking)} % without, {percents(whole)} % with"
        return Finding(measured, [difference(lacking, whole).within(least=0.02)])

    return Claim(
        f"Without {PARTS[key]} its error is more than 2 points higher.",
        "not in the papers",
        "16 pairs: difference of mean test errors above 2 points",
        test,
    )


def table(evidence: Evidence) -> pd.DataFrame:
    """One row per cell and number of pairs."""
    rows: list[dict[str, Any]] = []
    for label, cell in CELLS.items():
        for num_pairs in NUM_PAIRS if cell in (PUBLISHED, WHOLE) else NUM_PAIRS[1:]:
            row = {"cell": label, "pairs": str(num_pairs)}
            try:
                runs = evidence.select(**cell, task__num_pairs=num_pairs)
            except NotRunError:
                rows.append(row | {"error, %": "not run"})
                continue
            rows.append(row | row_of(runs, BY_AGE))
    return pd.DataFrame(rows)


def draw(evidence: Evidence) -> Figure:
    """The number of pairs recalled against the number of pairs written."""
    with rc_context(RC):
        figure, (axes,) = panels([""])
        for label, style in styles_of(dict.fromkeys(CELLS, "fastweights")).items():
            found = {k: errors_or_none(evidence, **CELLS[label], task__num_pairs=k) for k in NUM_PAIRS}
            recalled = {k: k * (1 - errors) for k, errors in found.items() if errors is not None}
            if not recalled:
                continue
            spreads = [sd(values) for values in recalled.values()]
            means = [values.mean() for values in recalled.values()]
            axes.errorbar([*recalled], means, spreads, label=label, capsize=2, **style)
        axes.plot(NUM_PAIRS, NUM_PAIRS, label="all of them", **FLOOR_LINE)
        axes.set(xlabel="pairs written", ylabel="pairs recalled", xticks=NUM_PAIRS, ylim=(0, None))
        legend(figure, [axes])
    return figure


REPRODUCTION = Reproduction(
    title="Descendants of fast weights: a recurrence as in 2016 that binds more pairs",
    experiments=(
        "descendants/fast_weights_apart/both",
        *(f"descendants/fast_weights_apart/without_{key}" for key in PARTS),
    ),
    claims=(*map(_twice, NUM_PAIRS[1:]), *map(_needed, PARTS)),
    table=table,
    figures={"pairs": draw},
    quick=("optimizer.lr=3e-3", "seed=0", "trainer.max_updates=800"),
    replayed=({"name": NAME, "model.hidden_size": 64, "task.num_pairs": 8, "seed": 0},),
)
