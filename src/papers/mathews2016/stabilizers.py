"""Beyond the report: what clipping the gradient and a norm stabilizer do for cells whose state is not bounded."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, chosen_lr
from src.reproduction.effects import difference

MODELS = {"irnn": "IRNN", "cp_additive": "additive CP"}
CLIPS = (None, 1.0)
WEIGHTS = (0.0, 1.0, 50.0)
LENGTHS = (100, 400)


def measure(folder: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Measure the test error of every run at the length of training and at four times that length."""
    from src.running.build import build_task
    from src.running.load import evaluate_on, load_run, with_changes

    rows = []
    for _, row in runs.iterrows():
        run = load_run(folder / row["run"])
        settings = {key: row[key] for key in ("run", "model", "trainer.clip_norm", "trainer.norm_stabilizer")}
        for length in LENGTHS:
            task = build_task(with_changes(run.config, {"sequence_length": length}))
            rows.append(settings | {"length": length, "mse": evaluate_on(run.model, task, "test")["mse"]})
    return pd.DataFrame(rows)


def _errors(
    evidence: Evidence, clip: float | None, weight: float, length: int = LENGTHS[0], model: str = "irnn"
) -> np.ndarray:
    settings = {"trainer__clip_norm": clip, "trainer__norm_stabilizer": weight, "length": length}
    return evidence.select_measured(model=model, **settings)["mse"].to_numpy(float)


def _decades(ours: np.ndarray, theirs: np.ndarray, name: str) -> Finding:
    effect = difference(np.log10(ours), np.log10(theirs), name, "decades").within(most=0)
    return Finding(f"{_mean(ours)} against {_mean(theirs)}", [effect])


def _mean(errors: np.ndarray) -> str:
    return f"{10 ** np.log10(errors).mean():.1e}"


def _clipping_helps(model: str, name: str) -> Claim:
    def test(evidence: Evidence) -> Finding:
        return _decades(_errors(evidence, 1.0, 0.0, model=model), _errors(evidence, None, 0.0, model=model), "")

    return Claim(
        f"Clipping the gradient lowers the error of an {name} on addition.",
        "a technique that the report names",
        "T = 100, no stabilizer: difference of the mean logarithms of the test error below 0",
        test,
    )


def _the_stabilizer_helps(length: int) -> Claim:
    def test(evidence: Evidence) -> Finding:
        without = _errors(evidence, 1.0, 0.0, length)
        found = {f"β={weight:g}": _decades(_errors(evidence, 1.0, weight, length), without, f"β={weight:g}")
                 for weight in WEIGHTS[1:]}  # fmt: skip
        measured = "; ".join(f"{name}: {finding.measured}" for name, finding in found.items())
        return Finding(measured, [effect for finding in found.values() for effect in finding.effects])

    longer = "" if length == LENGTHS[0] else f" over {length // LENGTHS[0]} times as many steps as in training"
    return Claim(
        f"The norm stabilizer lowers the error of an IRNN on addition{longer}.",
        "a technique that the report names; Krueger and Memisevic (2016) find better generalization to longer sequences"
        if longer
        else "a technique that the report names",
        f"T = {length}, with clipping: difference of the mean logarithms of the test error below 0, for both weights β",
        test,
    )


def table(evidence: Evidence) -> pd.DataFrame:
    """Test error by cell, bound on the norm of the gradient and weight of the stabilizer, at two lengths."""
    rows = []
    for model, label in MODELS.items():
        for clip in CLIPS:
            for weight in WEIGHTS:
                settings = {"model": model, "trainer__clip_norm": clip, "trainer__norm_stabilizer": weight}
                with suppress(NotRunError):
                    runs = evidence.select(**settings)
                    row = {"model": label, "clipping": "none" if clip is None else f"{clip:g}", "β": f"{weight:g}"}
                    diverged = (runs["status"] == "diverged").all()
                    for length in LENGTHS:
                        errors = evidence.select_measured(**settings, length=length)["mse"].to_numpy(float)
                        row[f"error, T={length}"] = "diverged" if diverged else _mean(errors)
                    rows.append(row | {"n": str(len(runs)), "lr": "-" if diverged else chosen_lr(runs)})
    return pd.DataFrame(rows)


REPRODUCTION = Reproduction(
    title="Mathews 2016, beyond the report: norm stabilizer and gradient clipping, on addition over 100 steps",
    experiments=("mathews2016/stabilizers",),
    claims=(
        _clipping_helps("irnn", "IRNN"),
        _clipping_helps("cp_additive", "additive CP network"),
        _the_stabilizer_helps(LENGTHS[0]),
        _the_stabilizer_helps(LENGTHS[1]),
    ),
    table=table,
    measure=measure,
    quick=("seed=0", "optimizer.lr=1e-3", "trainer.max_updates=500"),
    curves=("val/mse", "val/error"),
)
