"""Recovering a random tensor by gradient descent, compared with what linear algebra finds."""

from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, chosen_lr
from src.reproduction.effects import mean

TEACHER_RANK = 5
RANKS = (3, 5, 10, 20)
FORMS = {"cp": "CP", "tensor_train": "tensor train"}
MAIN, ADAM = "mathews2016-random-tensor", "mathews2016-random-tensor-adam"


def measure(folder: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Measure how far the learned tensor of each run, and computed decompositions, are from the tensor to be learned.

    Columns: `learned`, ‖W - V‖² / ‖W‖² of the learned tensor V; `computed`, the same for alternating least squares
    (CP) or singular value decompositions (tensor train) of W at the same rank.
    """
    from src.models.bilinear import Bilinear
    from src.running.load import load_run
    from src.tasks.random_tensor import RandomTensor
    from src.tensors.decompose import cp_als, relative_error, tensor_train_svd

    @cache
    def computed(seed: int, form: str, rank: int) -> float:
        W_IJK = tensors[seed]
        found = cp_als(W_IJK, rank) if form == "cp" else tensor_train_svd(W_IJK, (rank, rank))
        return relative_error(W_IJK, found.full()) ** 2

    tensors, rows = {}, []
    for _, row in runs.iterrows():
        config, model, task, *_ = load_run(folder / row["run"])
        assert isinstance(task, RandomTensor)
        assert isinstance(model.core, Bilinear)
        tensors[config.seed] = task.tensor
        settings = {"form": config.model.form, "rank": config.model.rank, "seed": config.seed}
        errors = {
            "learned": relative_error(task.tensor, model.core.term.map.full()) ** 2,
            "computed": computed(config.seed, config.model.form, config.model.rank),
        }
        rows.append(
            {"run": row["run"], "optimizer": "adam" if "betas" in config.optimizer else "sgd"} | settings | errors
        )
    return pd.DataFrame(rows)


def _errors(evidence: Evidence, form: str, rank: int, column: str = "learned", optimizer: str = "sgd") -> np.ndarray:
    return evidence.select_measured(form=form, rank=rank, optimizer=optimizer)[column].to_numpy(float)


def _recovers(evidence: Evidence) -> Finding:
    values = _errors(evidence, "tensor_train", TEACHER_RANK)
    return Finding(
        f"largest of {len(values)}: {values.max():.1e}", [mean(values, "", "squared error").within(most=1e-6)]
    )


def _as_good_as_computed(form: str, method: str) -> Claim:
    def test(evidence: Evidence) -> Finding:
        measured, effects = [], []
        for rank in RANKS[:2] if form == "cp" else RANKS[:1]:
            learned, computed = (_errors(evidence, form, rank, column) for column in ("learned", "computed"))
            measured.append(f"R={rank}: {learned.mean():.4f} against {computed.mean():.4f}")
            effects.append(mean(learned / computed, f"R={rank}", "times").within(most=1.02))
        return Finding("; ".join(measured), effects)

    return Claim(
        f"Below the rank of the tensor, descent finds a {FORMS[form]} as good as {method} does.",
        "not in the report",
        "‖W - V‖² at most 2 % above that of the computed decomposition, on average",
        test,
    )


def table(evidence: Evidence) -> pd.DataFrame:
    """‖W - V‖² / ‖W‖² by form and rank: by descent with momentum, by Adam, and computed, with learning rates."""
    rows = []
    for form, label in FORMS.items():
        for rank in RANKS:
            row = {"form": label, "R": str(rank)}
            with suppress(NotRunError):
                row["computed"] = _shown(_errors(evidence, form, rank, "computed"))
            for column, optimizer, name in (("momentum", "sgd", MAIN), ("Adam", "adam", ADAM)):
                with suppress(NotRunError):
                    row[column] = _shown(_errors(evidence, form, rank, optimizer=optimizer))
                    row[f"{column}, lr"] = chosen_lr(evidence.select(name=name, model__form=form, model__rank=rank))
            rows.append(row)
    return pd.DataFrame(rows).fillna("-")


def _shown(errors: np.ndarray) -> str:
    value = errors.mean()
    return f"{value:.4f}" if value > 1e-3 else f"{value:.0e}"


REPRODUCTION = Reproduction(
    title="Mathews 2016: a random 30 x 30 x 30 tensor of tensor-train ranks 5 and 5 learned by gradient descent",
    experiments=("mathews2016/random_tensor", "mathews2016/random_tensor_adam"),
    only_in_full=("mathews2016/random_tensor_adam",),
    claims=(
        Claim(
            "A map of the form and ranks of the tensor recovers it.",
            "the experiment on learning decompositions; no result is printed",
            "‖W - V‖² / ‖W‖² below 1e-6, on average",
            _recovers,
        ),
        _as_good_as_computed("tensor_train", "two singular value decompositions"),
        _as_good_as_computed("cp", "alternating least squares"),
    ),
    table=table,
    measure=measure,
    quick=("seed=0", "optimizer.lr=0.1", "trainer.max_updates=10000"),
    curves=("val/mse",),
)
