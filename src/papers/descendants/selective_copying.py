"""Beyond the papers: copying of symbols among blanks with irregular gaps, by cells with and without gates."""

from typing import Any

import pandas as pd

from src.papers.descendants import LABELS, is_below, is_better, rows_of
from src.reproduction.base import Evidence, Reproduction

NAME = "descendants-selective-copying"
UNGATED, GATED, ERASING = ("linear_attention", "retnet"), ("mamba2", "gla"), ("deltanet", "gated_deltanet", "kda")
CELLS: dict[str, dict[str, Any]] = {
    LABELS[model]: {"name": NAME, "model": model} for model in (*UNGATED, *GATED, *ERASING, "attention")
}
SOURCE = "Bouhadjar et al. 2026, on tasks of their own"


def _than(statement: str, ours: str, theirs: str) -> Any:
    return is_better(statement, SOURCE, CELLS[LABELS[ours]], CELLS[LABELS[theirs]], 0.02)


def table(evidence: Evidence) -> pd.DataFrame:
    """One row per cell."""
    metrics = {"error": "test/error", "sequences": "test/exact_error", "first": "test/first_error"}
    return pd.DataFrame(rows_of(evidence, CELLS, metrics | {"last": "test/last_error"}))


REPRODUCTION = Reproduction(
    title="Descendants of fast weights: copying of symbols among blanks, with longer gaps in the test",
    experiments=("descendants/selective_copying",),
    claims=(
        *(
            _than(
                f"A separate gate for every feature helps: GLA makes fewer errors than {LABELS[other]}.", "gla", other
            )
            for other in UNGATED
        ),
        _than(
            "A single input gate for the whole memory helps: Mamba-2 makes fewer errors than retention.",
            "mamba2",
            "retnet",
        ),
        _than(
            "Writing by the delta rule helps: DeltaNet makes fewer errors than linear attention.",
            "deltanet",
            "linear_attention",
        ),
        _than(
            "The delta rule helps in addition to a gate: Gated DeltaNet makes fewer errors than Mamba-2.",
            "gated_deltanet",
            "mamba2",
        ),
        _than("Attention, whose memory grows, makes fewer errors than GLA.", "attention", "gla"),
        is_below("KDA, with both, copies over longer gaps.", SOURCE, [CELLS["KDA"]], 0.02),
    ),
    table=table,
    quick=("optimizer.lr=3e-3", "seed=0", "trainer.max_updates=800"),
    replayed=({"model": "gla", "seed": 0},),
)
