"""Beyond the papers: regular languages learned in context, a small version of RegBench (Akyürek et al. 2024)."""

from typing import Any

import pandas as pd

from src.papers.descendants import LABELS, is_better, rows_of
from src.reproduction.base import Evidence, Reproduction

NAME = "descendants-in-context-language"
CELLS: dict[str, dict[str, Any]] = {
    LABELS[model]: {"name": NAME, "model": model}
    for model in ("linear_attention", "retnet", "mamba2", "mlstm", "deltanet", "gated_deltanet", "attention")
}


def table(evidence: Evidence) -> pd.DataFrame:
    """One row per cell."""
    return pd.DataFrame(rows_of(evidence, CELLS, {"illegal symbols": "test/error"}))


REPRODUCTION = Reproduction(
    title="Descendants of fast weights: regular languages learned in context",
    experiments=("descendants/in_context_language",),
    claims=(
        *(
            is_better(
                f"Attention predicts fewer illegal symbols than {label}.",
                "Akyürek et al. 2024: attention learns languages in context best",
                CELLS["attention"],
                CELLS[label],
                0.005,
            )
            for label in CELLS
            if label != "attention"
        ),
        is_better(
            "Gated DeltaNet predicts fewer illegal symbols than Mamba-2.",
            "not in the papers",
            CELLS["Gated DeltaNet"],
            CELLS["Mamba-2"],
            0.005,
        ),
    ),
    table=table,
    quick=("optimizer.lr=3e-3", "seed=0", "trainer.max_updates=800"),
    replayed=({"model": "gated_deltanet", "seed": 0},),
)
