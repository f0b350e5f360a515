"""Beyond the papers: recall after half of the keys were written again, and of the keys that were not."""

import numpy as np
import pandas as pd

from src.papers.descendants import label_of, models_of, percents, row_of
from src.reproduction.base import Claim, Evidence, Finding, Reproduction
from src.reproduction.effects import difference, mean

NAME = "descendants-overwriting"
OVERWRITING = ("deltanet", "gated_deltanet")


def _errors(evidence: Evidence, model: str, keys: str) -> np.ndarray:
    return evidence.values(f"test/{keys}_error", name=NAME, model=model)


def _overwrites(model: str) -> Claim:
    def test(evidence: Evidence) -> Finding:
        found = {keys: _errors(evidence, model, keys) for keys in ("updated", "kept")}
        measured = "; ".join(f"{keys}: {percents(errors)} %" for keys, errors in found.items())
        return Finding(measured, [mean(errors, keys).within(most=0.05) for keys, errors in found.items()])

    return Claim(
        f"{label_of(model)} returns the new value of an updated key, and the old one of the others.",
        "Schlag, Irie & Schmidhuber 2021, section 4.1",
        "both mean test errors below 5 %",
        test,
    )


def _adds(evidence: Evidence) -> Finding:
    adding, replacing = (_errors(evidence, model, "updated") for model in ("linear_attention", "deltanet"))
    measured = f"linear attention {percents(adding)} %, DeltaNet {percents(replacing)} %"
    return Finding(measured, [difference(adding, replacing).within(least=0.1)])


def _forgets(evidence: Evidence) -> Finding:
    kept, updated = (_errors(evidence, "retnet", keys) for keys in ("kept", "updated"))
    return Finding(
        f"kept {percents(kept)} %, updated {percents(updated)} %", [difference(kept, updated).within(least=0.05)]
    )


def table(evidence: Evidence) -> pd.DataFrame:
    """One row per cell: errors on keys that kept their value, and on those with a new one."""
    rows = []
    metrics = {"error": "test/error", "kept": "test/kept_error", "updated": "test/updated_error"}
    for model in models_of(evidence.runs):
        runs = evidence.runs[evidence.runs["model"] == model]
        rows.append({"cell": label_of(model)} | row_of(runs, metrics))
    return pd.DataFrame(rows)


REPRODUCTION = Reproduction(
    title="Descendants of fast weights: recall after half of the keys were written again",
    experiments=("descendants/overwriting",),
    claims=(
        *(_overwrites(model) for model in OVERWRITING),
        Claim(
            "A memory that adds confuses the old and the new value of a key.",
            "the same",
            "updated keys: mean test error of linear attention more than 10 points above that of DeltaNet",
            _adds,
        ),
        Claim(
            "A memory with a fixed decay loses keys that were not updated.",
            "not in a paper; see the theory topic write_rules",
            "retention: mean test error of kept keys more than 5 points above that of updated ones",
            _forgets,
        ),
    ),
    table=table,
    quick=("optimizer.lr=3e-3,1e-2", "seed=0", "trainer.max_updates=800"),
)
