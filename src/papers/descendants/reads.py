"""Beyond Ba et al. 2016: several reads of fast weights in a step, compared with a softmax over the same past states."""

from typing import Any

import pandas as pd

from src.papers.descendants import BY_AGE, is_better, percents, rows_of
from src.reproduction.base import Claim, Evidence, Finding, Reproduction
from src.reproduction.effects import difference

LINEAR, SOFTMAX = "descendants-reads", "descendants-reads-softmax"
STEPS, BETAS = (0, 1, 2, 3), (1.0, 4.0, 16.0)
CELLS: dict[str, dict[str, Any]] = {
    f"linear, S = {s}": {"name": LINEAR, "model__num_inner_steps": s} for s in STEPS
} | {
    f"softmax, β = {beta:g}, S = {s}": {"name": SOFTMAX, "model__beta": beta, "model__num_inner_steps": s}
    for s in (1, 2)
    for beta in BETAS
}


def _changes_little(steps: int) -> Claim:
    def test(evidence: Evidence) -> Finding:
        errors, once = (evidence.values("test/error", **CELLS[f"linear, S = {s}"]) for s in (steps, 1))
        measured = f"{percents(errors)} % against {percents(once)} %"
        return Finding(measured, [difference(errors, once).within(-0.05, 0.05)])

    return Claim(
        f"{steps} reads in a step are about as good as one.",
        "Ba et al. 2016 use one, and mention more",
        "difference of mean test errors within 5 points",
        test,
    )


def table(evidence: Evidence) -> pd.DataFrame:
    """One row per way of reading."""
    return pd.DataFrame(rows_of(evidence, CELLS, BY_AGE)).rename(columns={"cell": "read"})


REPRODUCTION = Reproduction(
    title="Descendants of fast weights: reading several times, or with a softmax",
    experiments=("descendants/reads/linear", "descendants/reads/softmax"),
    claims=(
        is_better(
            "Without reading, the network recalls far less.",
            "Ba et al. 2016",
            CELLS["linear, S = 1"],
            CELLS["linear, S = 0"],
            0.1,
            where="with one read: ",
        ),
        *(_changes_little(steps) for steps in (2, 3)),
        *(
            is_better(
                f"A softmax with β = {beta:g} recalls more than a linear read.",
                "Ramsauer et al. 2021, of stored patterns",
                CELLS[f"softmax, β = {beta:g}, S = 1"],
                CELLS["linear, S = 1"],
                0.1,
                where="one read: ",
            )
            for beta in BETAS
        ),
        is_better(
            "Two reads by a softmax with β = 4 recall more than two linear ones.",
            "not in the papers",
            CELLS["softmax, β = 4, S = 2"],
            CELLS["linear, S = 2"],
            0.1,
        ),
    ),
    table=table,
    quick=("optimizer.lr=3e-3", "seed=0", "trainer.max_updates=800"),
    replayed=({"name": LINEAR, "model.num_inner_steps": 2, "seed": 0},),
)
