"""Beyond the paper: do the LSTM and the IRNN of Table 1 lack memory, or sequences to learn from?"""

from contextlib import suppress
from typing import Any

import pandas as pd

from src.papers.ba2016.table1 import CONFIDENCE, MODELS, PRINTED, QUICK, TABLE, WIDTHS
from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, marked, percent
from src.reproduction.effects import difference, mean

WIDTH = 100
FRESH, DROPOUT, DECAY = (f"ba2016-overfitting{suffix}" for suffix in ("", "-dropout", "-weight-decay"))
ON = {
    TABLE: "100,000 sequences",
    FRESH: "fresh sequences",
    DROPOUT: "100,000 sequences, dropout",
    DECAY: "100,000 sequences, weight decay",
}
"""What the networks are trained on, by the name of the folder."""
IF = {
    FRESH: "if no training sequence is repeated",
    DROPOUT: "with dropout of its inputs",
    DECAY: "with weight decay",
}
REGULARIZER = {DROPOUT: "network.input_dropout", DECAY: "optimizer.weight_decay"}


def _errs_less(model: str, name: str) -> Claim:
    def test(evidence: Evidence) -> Finding:
        fixed, changed = (evidence.values("test/error", name=of, model=model) for of in (TABLE, name))
        effect = difference(changed, fixed, confidence=CONFIDENCE).within(most=0)
        return Finding(f"{percent(changed)} against {percent(fixed)}", [effect])

    return Claim(
        f"The {MODELS[model]} with {WIDTH} units makes fewer errors {IF[name]}.",
        "not in the paper",
        f"difference of mean test errors below 0 ({100 * CONFIDENCE:g} % interval: a one-sided test at 1 %)",
        test,
    )


def _fresh_is_enough(model: str) -> Claim:
    def test(evidence: Evidence) -> Finding:
        fresh = evidence.values("test/error", name=FRESH, model=model)
        return Finding(percent(fresh), [mean(fresh).within(most=0.005)])

    return Claim(
        f"Repeated sequences are all that keeps the {MODELS[model]} with {WIDTH} units from the printed error.",
        f"Table 1: {100 * PRINTED[model][WIDTHS.index(WIDTH)]:.2f} %",
        "on fresh sequences, mean test error below 0.5 %",
        test,
    )


def table(evidence: Evidence) -> pd.DataFrame:
    """Test error by model and training data."""
    rows = []
    for model in ("lstm", "irnn"):
        for name, on in ON.items():
            settings: dict[str, Any] = {"name": name, "model": model}
            row = {"model": MODELS[model], "trained on": on, "test error": "not run"}
            with suppress(NotRunError):
                runs = evidence.select(**settings)
                row |= {"test error": evidence.errors(**settings), "n": str(len(runs))}
                if name in REGULARIZER:
                    row["trained on"] += f" {runs[REGULARIZER[name]].iloc[0]:g}"
                row |= {"lr": f"{runs['optimizer.lr'].iloc[0]:g}"}
                row["grid points"] = f"{runs['grid_points'].iloc[0]}{marked(runs)}"
                row["updates"] = f"{runs['updates'].mean():,.0f} of {runs['trainer.max_updates'].iloc[0]:,}"
            rows.append(row)
    return pd.DataFrame(rows)


REPRODUCTION = Reproduction(
    title="Ba et al. 2016, beyond the paper: does overfitting keep the LSTM and the IRNN from the printed errors?",
    experiments=(
        "ba2016/overfitting_fixed",
        "ba2016/overfitting",
        "ba2016/overfitting_dropout",
        "ba2016/overfitting_weight_decay",
    ),
    only_in_full=("ba2016/overfitting_dropout", "ba2016/overfitting_weight_decay"),
    claims=tuple(
        claim
        for model in ("lstm", "irnn")
        for claim in (_errs_less(model, FRESH), _fresh_is_enough(model), *(_errs_less(model, of) for of in REGULARIZER))
    ),
    table=table,
    settings={"model.hidden_size": WIDTH},
    quick=(*QUICK, "model.hidden_size=100"),
)
