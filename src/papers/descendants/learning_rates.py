"""Beyond the papers: the window of learning rates in which a cell learns to recall at all."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from src.papers.descendants import label_of, models_of
from src.reports.style import RC, legend, panels, styles_of
from src.reproduction.base import Claim, Evidence, Finding, Reproduction
from src.reproduction.effects import share

NAME = "descendants-learning-rates"
BOUND = 0.1
"""Test error up to which a network has learned to recall."""


def _narrow(model: str) -> Claim:
    def test(evidence: Evidence) -> Finding:
        runs = evidence.select(name=NAME, model=model)
        learned = runs.loc[runs["test/error"] <= BOUND, "optimizer.lr"]
        window = f"{learned.min():g} to {learned.max():g}" if len(learned) else "none"
        flags = (runs["test/error"] <= BOUND).to_numpy()
        learns = share(flags, confidence=0.8).within(least=0, most=0.5)
        return Finding(f"{flags.sum()} of {len(flags)} rates ({window})", [learns])

    return Claim(
        f"For {label_of(model)}, the window of learning rates that lead to recall is narrow.",
        "Okpekpe & Orvieto 2025, of today's recurrent networks on MQAR",
        f"test error of at most {100 * BOUND:g} % at some of the rates from 0.0003 to 0.1, but fewer than half",
        test,
    )


def table(evidence: Evidence) -> pd.DataFrame:
    """Test error in %, a row per cell, a column per learning rate."""
    rows: list[dict[str, Any]] = []
    for model in models_of(evidence.runs):
        runs = evidence.runs[evidence.runs["model"] == model]
        row = {"cell": label_of(model), "state": f"{runs['state_size'].iloc[0]:,}"}
        for lr, found in runs.groupby("optimizer.lr"):
            diverged = (found["status"] == "diverged").all()
            row[f"{lr:g}"] = "diverged" if diverged else f"{100 * found['test/error'].mean():.1f}"
        rows.append(row | {"n": "1"})
    return pd.DataFrame(rows)


def draw(evidence: Evidence) -> Figure:
    """Accuracy against the learning rate, a curve per cell."""
    with rc_context(RC):
        figure, (axes,) = panels([""])
        models = models_of(evidence.runs)
        styles = styles_of({label_of(model): model for model in models})
        for model, (label, style) in zip(models, styles.items(), strict=True):
            by_lr = 1 - evidence.runs[evidence.runs["model"] == model].groupby("optimizer.lr")["test/error"].mean()
            axes.plot(by_lr.index, by_lr, label=label, **style)
        axes.set(xscale="log", xlabel="learning rate", ylabel="accuracy", ylim=(0, 1.03))
        legend(figure, [axes])
    return figure


REPRODUCTION = Reproduction(
    title="Descendants of fast weights: the window of learning rates",
    experiments=("descendants/learning_rates",),
    claims=tuple(_narrow(model) for model in ("deltanet", "gated_deltanet", "linear_attention", "fastweights")),
    table=table,
    figures={"learning_rates": draw},
    quick=("trainer.max_updates=800",),
    notes=Path(__file__).with_name("learning_rates.md"),
)
