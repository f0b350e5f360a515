"""The first example of the README and two other models, with default settings and 50 units."""

from contextlib import suppress

import numpy as np
import pandas as pd

from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, percent, thousands
from src.reproduction.effects import mean, ratio

MODELS = {"fastweights": "fast weights", "lstm": "LSTM", "irnn": "IRNN"}
UPDATES = (500, 1500, 2500, 5000, 10000)


def _solves_it(evidence: Evidence) -> Finding:
    errors = evidence.values("test/error", model="fastweights")
    return Finding(f"{percent(errors)}, at most {100 * errors.max():.2f} %", [mean(errors).within(most=0.005)])


def _learn_far_faster(evidence: Evidence) -> Finding:
    until = {model: evidence.updates_until("val/error", 0.02, model=model) for model in MODELS}
    measured = "; ".join(f"{MODELS[model]}: {thousands(values)}" for model, values in until.items())
    ours, never = until.pop("fastweights"), evidence.updates_of(model="fastweights")
    ratios = [ratio(ours, theirs, never, f"to {MODELS[model]}") for model, theirs in until.items()]
    return Finding(measured, [effect.within(most=0.5) for effect in ratios])


def table(evidence: Evidence) -> pd.DataFrame:
    """Mean validation error in % at certain updates, test error, and seconds of training."""
    columns: dict[str, list[str]] = {"update": [f"{update:,}" for update in UPDATES]}
    columns["update"] += ["test, at the selected update", "seconds of training"]
    for model, label in MODELS.items():
        columns[label] = ["not run"] * len(columns["update"])
        with suppress(NotRunError):
            curve = evidence.mean_curve("val/error", model=model)["mean"]
            values = [f"{100 * curve.get(update, np.nan):.1f}" for update in UPDATES]
            seconds = evidence.values("seconds", model=model).mean()
            columns[label] = [*values, evidence.errors(model=model).replace(" %", ""), f"{seconds:.0f}"]
    return pd.DataFrame(columns)


REPRODUCTION = Reproduction(
    title="The first example: fast weights, an LSTM and an IRNN with 50 units on associative retrieval, 10,000 updates",
    experiments=("ba2016/main_job",),
    claims=(
        Claim(
            "Fast weights with default settings end below 0.5 % test error.",
            "README",
            "mean test error below 0.5 %",
            _solves_it,
        ),
        Claim(
            "Fast weights learn far faster than the others.",
            "Ba et al. 2016, Figure 2",
            "updates to 2 % validation error: less than half as many as for each other model",
            _learn_far_faster,
        ),
    ),
    table=table,
    quick=("seed=0",),
    replayed=({"model": "fastweights", "seed": 0},),
)
