"""Beyond the paper: networks with 100 units, trained on four pairs, tested on other numbers of pairs."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from src.papers.ba2016.table1 import MODELS, floor_of
from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, percent
from src.reproduction.effects import difference

NUM_PAIRS = (1, 2, 3, 4, 5, 6, 8, 10)
TRAINED_ON = 4
TEST_SIZE = 5000


def measure(folder: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """The test error of every run for every number of pairs."""
    from src.running.build import build_task
    from src.running.load import evaluate_on, load_run, with_changes

    rows = []
    for _, row in runs.iterrows():
        run = load_run(folder / row["run"])
        for num_pairs in NUM_PAIRS:
            changes = {"num_pairs": num_pairs, "test_size": TEST_SIZE, "train_size": None}
            metrics = evaluate_on(run.model, build_task(with_changes(run.config, changes)), "test")
            rows.append({"run": row["run"], "model": row["model"], "num_pairs": num_pairs} | metrics)
    return pd.DataFrame(rows)


def _errors(evidence: Evidence, model: str, num_pairs: int) -> np.ndarray:
    return evidence.select_measured(model=model, num_pairs=num_pairs)["error"].to_numpy(float)


def _fast_weights_generalize_better(model: str) -> Claim:
    def test(evidence: Evidence) -> Finding:
        ours, theirs = (_errors(evidence, name, 6) for name in ("fastweights", model))
        return Finding(f"{percent(ours)} against {percent(theirs)}", [difference(ours, theirs).within(most=0)])

    return Claim(
        f"Trained on four pairs, fast weights make fewer errors on six than the {MODELS[model]}.",
        "not in the paper",
        "100 units, six pairs: difference of mean test errors below 0",
        test,
    )


def table(evidence: Evidence) -> pd.DataFrame:
    """Test error in % by number of pairs, a column per model, and the floor of knowing only the digits."""
    rows = []
    for num_pairs in NUM_PAIRS:
        row: dict[str, object] = {"pairs": f"{num_pairs}{' (trained on)' * (num_pairs == TRAINED_ON)}"}
        for model, label in MODELS.items():
            row[f"{label}, %"] = "not run"
            with suppress(NotRunError):
                found = _errors(evidence, model, num_pairs)
                row[f"{label}, %"] = f"{percent(found).removesuffix(' %')} (n={len(found)})"
        rows.append(row | {"floor, %": f"{100 * floor_of(num_pairs):.2f}"})
    return pd.DataFrame(rows)


REPRODUCTION = Reproduction(
    title="Ba et al. 2016, beyond the paper: networks trained on four pairs, tested on other numbers of pairs",
    experiments=("ba2016/generalization",),
    claims=tuple(_fast_weights_generalize_better(model) for model in MODELS if model != "fastweights"),
    table=table,
    measure=measure,
    quick=("trainer.max_updates=10000", "seed=0,1", "model=lstm,ba2016/fastweights"),
)
