"""Beyond the report: is it the rank that matters, or the size that an initialization gives the product?"""

from contextlib import suppress

import numpy as np
import pandas as pd

from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, thousands
from src.reproduction.effects import ratio, share

RANKS = (1, 2, 4, 8, 16, 32, 64)
INITS = {"rank_independent": "independent of R", "mathews2016": "of the author"}
SOLVED = 0.01


def _until(evidence: Evidence, init: str, rank: int) -> np.ndarray:
    """The update at which each run first had a validation error of at most 0.01."""
    return evidence.updates_until("val/mse", SOLVED, model__init=init, model__rank=rank)


def _high_ranks_are_slower_only(evidence: Evidence) -> Finding:
    medians = {init: [float(np.median(_until(evidence, init, rank))) for rank in (8, 64)] for init in INITS}
    measured = "; ".join(
        f"{label}: {thousands(np.array(medians[init][:1]))} for R=8, {thousands(np.array(medians[init][1:]))} for R=64"
        for init, label in INITS.items()
    )
    effects = []
    for init, label in INITS.items():
        high, low = (_until(evidence, init, rank) for rank in (64, 8))
        slower = ratio(high, low, evidence.updates_of(model__init=init), f"R=64 to R=8, {label}")
        effects.append(slower.within(least=1.25) if init == "mathews2016" else slower.within(most=1.25))
    return Finding(measured, effects)


def _rank_one_suffices(evidence: Evidence) -> Finding:
    values = _until(evidence, "rank_independent", 1)
    solved = np.isfinite(values)
    effect = share(solved, "runs that solve it").within(least=0.5)
    return Finding(f"{solved.sum()} of {len(values)}: {thousands(values)}", [effect])


def table(evidence: Evidence) -> pd.DataFrame:
    """Test error, and update of the first validation error of at most 0.01, by rank and initialization."""
    rows = []
    for rank in RANKS:
        row = {"R": str(rank)}
        for init, label in INITS.items():
            with suppress(NotRunError):
                errors = evidence.values("test/mse", model__init=init, model__rank=rank)
                row[f"{label}: error"] = f"{errors.mean():.4f}"
                row[f"{label}: update below 0.01, median (range)"] = thousands(_until(evidence, init, rank))
        if len(row) > 1:
            rows.append(row)
    return pd.DataFrame(rows).fillna("-")


REPRODUCTION = Reproduction(
    title="Mathews 2016, beyond the report: ranks of a CP gate with two initializations, on addition over 100 steps",
    experiments=("mathews2016/rank_sweep",),
    claims=(
        Claim(
            "A higher rank learns later only with an initialization whose product falls with the rank.",
            "not in the report, which sweeps the rank with that initialization",
            f"geometric mean of the first update with an error of at most {SOLVED:g}: for R = 64 more than 1.25 "
            "times that for R = 8 with the author's initialization, less with the other one",
            _high_ranks_are_slower_only,
        ),
        Claim(
            "One component suffices for addition.",
            "logs of the author: width 2, R = 1 at T = 50, update 310",
            f"validation error at most {SOLVED:g} in more than half of the runs",
            _rank_one_suffices,
        ),
    ),
    table=table,
    quick=("seed=0", "model.rank=1,8,64", "trainer.max_updates=500"),
    curves=("val/mse", "val/error"),
)
