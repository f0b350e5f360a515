"""Beyond the paper: do the LSTM and the IRNN of Table 1 lack memory, or sequences to learn from?"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from src.papers.ba2016.table1 import CONFIDENCE, MODELS, PRINTED, QUICK, TABLE, WIDTHS
from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, marked, percent
from src.reproduction.effects import difference, mean

WIDTH = 100
FRESH, REGULARIZED = "ba2016-overfitting", "ba2016-overfitting-regularized"
ON = {
    TABLE: "100,000 sequences",
    FRESH: "fresh sequences",
    REGULARIZED: "100,000 sequences, dropout and weight decay",
}
"""What the networks are trained on, by the name of the folder."""


def _fresh_is_better(model: str) -> Claim:
    def test(evidence: Evidence) -> Finding:
        fixed, fresh = (evidence.values("test/error", name=name, model=model) for name in (TABLE, FRESH))
        effect = difference(fresh, fixed, confidence=CONFIDENCE).within(most=0)
        return Finding(f"{percent(fresh)} against {percent(fixed)}", [effect])

    return Claim(
        f"The {MODELS[model]} with {WIDTH} units errs less if no training sequence is repeated.",
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
    """Test error by model and by what it was trained on."""
    rows = []
    for model in ("lstm", "irnn"):
        for name, on in ON.items():
            settings: dict[str, Any] = {"name": name, "model": model}
            row = {"model": MODELS[model], "trained on": on, "test error": "not run"}
            with suppress(NotRunError):
                runs = evidence.select(**settings)
                row |= {"test error": evidence.errors(**settings), "n": str(len(runs))}
                row |= {"lr": f"{runs['optimizer.lr'].iloc[0]:g}"}
                row["grid points"] = f"{runs['grid_points'].iloc[0]}{marked(runs)}"
                row["updates"] = f"{runs['updates'].mean():,.0f} of {runs['trainer.max_updates'].iloc[0]:,}"
            rows.append(row)
    return pd.DataFrame(rows)


REPRODUCTION = Reproduction(
    title="Ba et al. 2016, beyond the paper: the LSTM and the IRNN with 100 units, without repeated sequences",
    experiments=("ba2016/overfitting_fixed", "ba2016/overfitting", "ba2016/overfitting_regularized"),
    only_in_full=("ba2016/overfitting_regularized",),
    claims=tuple(claim(model) for model in ("lstm", "irnn") for claim in (_fresh_is_better, _fresh_is_enough)),
    table=table,
    settings={"model.hidden_size": WIDTH},
    quick=(*QUICK, "model.hidden_size=100"),
    notes=Path(__file__).with_name("overfitting.md"),
)
