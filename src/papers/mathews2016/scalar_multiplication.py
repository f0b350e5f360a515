"""Multiplying two numbers: which networks extrapolate to larger ones."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction
from src.reproduction.effects import mean

MODELS = {"bilinear": "bilinear map", "rnn": "RNN", "gru": "GRU", "cp_rnn": "CP RNN", "cp_gate": "CP gate"}
SCALES = (1.0, 2.0, 4.0)


def measure(folder: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Measure the error of every run on numbers in [0, scale], relative to the variance of their products."""
    from src.running.build import build_task
    from src.running.load import evaluate_on, load_run, with_changes

    rows = []
    for _, row in runs.iterrows():
        run = load_run(folder / row["run"])
        for scale in SCALES:
            task = build_task(with_changes(run.config, {"scale": scale}))
            error = evaluate_on(run.model, task, "test")["mse"] / task.floors["always the mean"]["mse"]
            rows.append({"run": row["run"], "model": row["model"], "scale": scale, "error": error})
    return pd.DataFrame(rows)


def _errors(evidence: Evidence, model: str, scale: float) -> np.ndarray:
    return evidence.select_measured(model=model, scale=scale)["error"].to_numpy(float)


def _all_interpolate(evidence: Evidence) -> Finding:
    errors = {model: _errors(evidence, model, 1.0) for model in MODELS}
    measured = "; ".join(f"{MODELS[model]}: {values.mean():.1e}" for model, values in errors.items())
    return Finding(measured, [mean(values, MODELS[model]).within(most=0.01) for model, values in errors.items()])


def _only_the_map_extrapolates(evidence: Evidence) -> Finding:
    errors = {model: _errors(evidence, model, 2.0) for model in MODELS}
    measured = "; ".join(f"{MODELS[model]}: {values.mean():.1e}" for model, values in errors.items())
    effects = [mean(errors.pop("bilinear"), MODELS["bilinear"]).within(most=1e-3)]
    effects += [mean(values, MODELS[model]).within(least=0.01) for model, values in errors.items()]
    return Finding(measured, effects)


def table(evidence: Evidence) -> pd.DataFrame:
    """Squared error relative to the variance of the products, by model and range of the numbers."""
    rows = []
    for model, label in MODELS.items():
        row = {"model": label}
        for scale in SCALES:
            row[f"numbers up to {scale:g}"] = "-"
            with suppress(NotRunError):
                row[f"numbers up to {scale:g}"] = f"{_errors(evidence, model, scale).mean():.1e}"
        rows.append(row)
    return pd.DataFrame(rows)


REPRODUCTION = Reproduction(
    title="Mathews 2016: the product of two numbers, trained up to 1 and tested up to 4",
    experiments=("mathews2016/scalar_multiplication",),
    claims=(
        Claim(
            "All networks learn the product of two numbers in [0, 1].",
            "the experiment on scalar multiplication; no result is printed",
            "mean squared error below 1 % of the variance of the products",
            _all_interpolate,
        ),
        Claim(
            "Only the bilinear map extrapolates to numbers twice as large.",
            "the experiment on scalar multiplication; no result is printed",
            "mean error below 0.1 % of the variance, above 1 % for each of the others",
            _only_the_map_extrapolates,
        ),
    ),
    table=table,
    measure=measure,
    quick=("seed=0", "optimizer.lr=1e-3", "trainer.max_updates=10000"),
    curves=("val/mse",),
)
