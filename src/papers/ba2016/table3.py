"""Table 3 on a stand-in: recognizing the expression of drawn faces, seen in glimpses, by four architectures."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from src.papers.ba2016.table2 import FAST_WEIGHTS, MODELS
from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, chosen_lr, percent
from src.reproduction.effects import difference

PRINTED = {"irnn": 0.8111, "lstm": 0.8132, "convnet": 0.8823, FAST_WEIGHTS: 0.8634}
"""Ba et al., Table 3: test accuracy on Multi-PIE."""
NAME = "ba2016-table3"
BESIDE = 0.05
UPDATES_PER_EPOCH = 47
ANSWERS = ("the most frequent", "the nearest image")
"""Floors of the task; they depend on the seed, as the drawings do."""


def measure(folder: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Measure the errors of trivial predictors on the drawings of each seed."""
    from src.running.build import build_task
    from src.running.load import read_config

    rows = []
    for run in runs.loc[runs["model"] == FAST_WEIGHTS, "run"]:
        floors = build_task(read_config(folder / run)).floors
        rows.append({"run": run, "model": FAST_WEIGHTS} | {answer: floors[answer]["error"] for answer in ANSWERS})
    return pd.DataFrame(rows)


def accuracies(evidence: Evidence, model: str) -> np.ndarray:
    """Test accuracies on the stand-in, one per seed."""
    return 1 - evidence.values("test/error", name=NAME, model=model)


def _fast_weights_are_better(evidence: Evidence) -> Finding:
    found = {model: accuracies(evidence, model) for model in (FAST_WEIGHTS, "lstm", "irnn")}
    measured = "; ".join(f"{MODELS[model]} {percent(values)}" for model, values in found.items())
    ours = found.pop(FAST_WEIGHTS)
    effects = [difference(ours, theirs, f"to {MODELS[model]}").within(least=0) for model, theirs in found.items()]
    return Finding(measured, effects)


def _convnet_is_beside(evidence: Evidence) -> Finding:
    ours, theirs = accuracies(evidence, FAST_WEIGHTS), accuracies(evidence, "convnet")
    measured = f"Fast weights {percent(ours)}; ConvNet {percent(theirs)}"
    return Finding(measured, [difference(theirs, ours).within(-BESIDE, BESIDE)])


def table(evidence: Evidence) -> pd.DataFrame:
    """Printed accuracy on Multi-PIE next to ours on the stand-in, and what trivial predictors reach there."""
    rows = []
    for model, label in MODELS.items():
        row = {"model": label, "paper, Multi-PIE, %": f"{100 * PRINTED[model]:.2f}", "ours, stand-in, %": "not run"}
        with suppress(NotRunError):
            runs = evidence.select(name=NAME, model=model)
            row["ours, stand-in, %"] = percent(accuracies(evidence, model)).removesuffix(" %")
            row |= {"n": str(len(runs)), "lr": chosen_lr(runs)}
            row["epochs"] = f"{runs['updates'].mean() / UPDATES_PER_EPOCH:.3g}"
            row["weights"] = f"{runs['num_parameters'].iloc[0]:,.0f}"
        rows.append(row)
    for answer in ANSWERS:
        row = {"model": answer, "paper, Multi-PIE, %": "-", "ours, stand-in, %": "not run"}
        with suppress(NotRunError):
            found = evidence.select_measured(model=FAST_WEIGHTS)[answer].to_numpy(float)
            row |= {"ours, stand-in, %": percent(1 - found).removesuffix(" %"), "n": str(len(found))}
        rows.append(row)
    return pd.DataFrame(rows).fillna("-")


REPRODUCTION = Reproduction(
    title="Ba et al. 2016, Table 3 on a stand-in: test accuracy on the expressions of drawn faces, in 24 glimpses",
    experiments=("ba2016/table3",),
    claims=(
        Claim(
            "On the stand-in, fast weights are more accurate than the LSTM and the IRNN.",
            "Table 3, Multi-PIE: 86.34 % (LSTM 81.32, IRNN 81.11)",
            "both differences of mean test accuracies above 0",
            _fast_weights_are_better,
        ),
        Claim(
            "On the stand-in, fast weights are about as accurate as the ConvNet.",
            "Table 3, Multi-PIE: 86.34 % (ConvNet 88.23)",
            f"difference of mean test accuracies within {100 * BESIDE:g} points",
            _convnet_is_beside,
        ),
    ),
    table=table,
    measure=measure,
    quick=("seed=0,1", "optimizer.lr=3e-3"),
)
