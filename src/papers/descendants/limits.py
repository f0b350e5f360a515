"""Beyond the paper: what limits the number of pairs that the fast weights of 2016 bind."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from src.papers.descendants import BY_AGE, percents, row_of
from src.reports.style import FLOOR as FLOOR_LINE
from src.reports.style import RC, legend, panels
from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, sd
from src.reproduction.effects import difference

NAME = "descendants-limits"
FACTORS: dict[str, tuple[Any, Any, str]] = {
    "model.decay": (0.95, 1, "no decay"),
    "model.nonlinearity": ("relu", "tanh", "signed states"),
    "model.rule": ("hebbian", "delta", "the delta rule"),
    "model.association": ("auto", "hetero", "separate keys and values"),
}
"""For each setting: its value in 2016, the other value, and what the other value means."""
PUBLISHED = {key: values[0] for key, values in FACTORS.items()}
ALL = {key: values[1] for key, values in FACTORS.items()}
NUM_PAIRS = 8


def _settings(cell: dict[str, Any]) -> dict[str, Any]:
    return {key.replace(".", "__"): value for key, value in cell.items()}


def _errors(evidence: Evidence, cell: dict[str, Any]) -> np.ndarray:
    return evidence.values("test/error", name=NAME, **_settings(cell))


def _cells() -> list[dict[str, Any]]:
    """All combinations, in order of the number of changes, beginning with the published one."""
    combinations = [
        dict(zip(FACTORS, values, strict=True))
        for values in itertools.product(*(found[:2] for found in FACTORS.values()))
    ]
    return sorted(combinations, key=lambda cell: sum(cell[key] != PUBLISHED[key] for key in cell))


def _alone(key: str) -> Claim:
    change = FACTORS[key][2]

    def test(evidence: Evidence) -> Finding:
        changed, published = _errors(evidence, PUBLISHED | {key: ALL[key]}), _errors(evidence, PUBLISHED)
        measured = f"{percents(changed)} % against {percents(published)} %"
        return Finding(measured, [difference(changed, published).within(most=-0.02)])

    return Claim(
        f"With {change}, and nothing else changed, the error is more than 2 points lower than as published.",
        "not in the paper",
        "difference of mean test errors below -2 points, both at 16 units and their best learning rates",
        test,
    )


def _needed(key: str) -> Claim:
    change = FACTORS[key][2]

    def test(evidence: Evidence) -> Finding:
        lacking, everything = _errors(evidence, ALL | {key: PUBLISHED[key]}), _errors(evidence, ALL)
        measured = f"{percents(lacking)} % without it, {percents(everything)} % with all"
        return Finding(measured, [difference(lacking, everything).within(least=0.02)])

    return Claim(
        f"With all changes but {change}, the error is more than 2 points higher than with all of them.",
        "not in the paper",
        "difference of mean test errors above 2 points",
        test,
    )


def _halved(evidence: Evidence) -> Finding:
    published, everything = _errors(evidence, PUBLISHED), _errors(evidence, ALL)
    right = [NUM_PAIRS * (1 - values) for values in (published, everything)]
    measured = f"{right[1].mean():.2f} of {NUM_PAIRS} pairs against {right[0].mean():.2f}"
    return Finding(measured, [difference(right[1], 2 * right[0], "", "pairs").within(least=0)])


def table(evidence: Evidence) -> pd.DataFrame:
    """One row per combination."""
    rows: list[dict[str, Any]] = []
    for cell in _cells():
        changes = ", ".join(FACTORS[key][2] for key in cell if cell[key] != PUBLISHED[key]) or "as published"
        row = {"changes": changes}
        try:
            runs = evidence.select(name=NAME, **_settings(cell))
        except NotRunError:
            rows.append(row | {"error, %": "not run"})
            continue
        rows.append(row | row_of(runs, BY_AGE))
    return pd.DataFrame(rows)


def draw(evidence: Evidence) -> Figure:
    """Accuracy of every combination as a bar; letters stand for the changes."""
    letters = dict(zip(FACTORS, ("λ", "±", "δ", "kv"), strict=True))
    with rc_context(RC | {"axes.grid": False}):
        figure, (axes,) = panels([""])
        figure.set_figwidth(6.6)
        labels, means, spreads = [], [], []
        for cell in _cells():
            try:
                errors = _errors(evidence, cell)
            except NotRunError:
                continue
            labels.append("\n".join(letters[key] for key in cell if cell[key] != PUBLISHED[key]) or "2016")
            means.append(1 - errors.mean())
            spreads.append(sd(errors))
        places = np.arange(len(labels))
        axes.bar(places, means, 0.7, yerr=spreads, color="0.6", capsize=2)
        axes.axhline(1 / NUM_PAIRS, label="knows the values only", **FLOOR_LINE)
        axes.set_xticks(places, labels)
        axes.set(ylabel="accuracy", ylim=(0, 1.03))
        axes.set_xlabel("λ no decay, ± signed states, δ delta rule, kv separate keys and values")
        legend(figure, [axes])
    return figure


REPRODUCTION = Reproduction(
    title="Descendants of fast weights: what limits the fast weights of 2016",
    experiments=("descendants/limits",),
    claims=(
        *(_alone(key) for key in FACTORS),
        *(_needed(key) for key in FACTORS),
        Claim(
            "With all four changes, fast weights of the same size bind at least twice as many pairs.",
            "not in the paper",
            "the mean number of 8 pairs that are recalled, minus twice that as published, is above 0",
            _halved,
        ),
    ),
    table=table,
    figures={"limits": draw},
    quick=("optimizer.lr=3e-3,1e-2", "seed=0", "trainer.max_updates=800"),
    replayed=(PUBLISHED | {"seed": 0},),
)
