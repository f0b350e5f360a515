"""Beyond the papers: the window of learning rates in which a cell learns to recall at all."""

from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from src.papers.descendants import label_of, models_of, percents
from src.reports.style import RC, legend, panels, styles_of
from src.reproduction.base import Claim, Evidence, Finding, Reproduction
from src.reproduction.effects import mean

NAME = "descendants-learning-rates"
BOUND = 0.1
"""The largest test error at which a network counts as having learned to recall."""


def _narrow(model: str) -> Claim:
    def test(evidence: Evidence) -> Finding:
        runs = evidence.select(name=NAME, model=model)
        learned = runs["test/error"] <= BOUND
        if not learned.any():
            return Finding("at no rate, which says nothing about a window", [])
        shares = learned.groupby(runs["seed"]).mean().to_numpy()
        rates = runs.loc[learned, "optimizer.lr"]
        measured = f"at {100 * shares.mean():.0f} % of the rates ({rates.min():g} to {rates.max():g})"
        return Finding(measured, [mean(shares).within(most=0.5)])

    return Claim(
        f"For {label_of(model)}, the window of learning rates that lead to recall is narrow.",
        "Okpekpe & Orvieto 2025, of today's recurrent networks on MQAR",
        f"`stacked_recall`, 8 pairs: test error of at most {100 * BOUND:g} % at fewer than half of the rates from "
        "0.0003 to 0.1, mean over seeds",
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
            row[f"{lr:g}"] = "diverged" if diverged else percents(found["test/error"].to_numpy(float))
        rows.append(row | {"n": str(runs["seed"].nunique())})
    return pd.DataFrame(rows)


def draw(evidence: Evidence) -> Figure:
    """Accuracy, mean over seeds, against the learning rate, a curve per cell."""
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
    quick=("seed=0", "trainer.max_updates=800"),
)
