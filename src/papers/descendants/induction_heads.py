"""Beyond the papers: which symbol followed a special one, in sequences up to 16 times as long as in training."""

from typing import Any

import pandas as pd

from src.papers.descendants import LABELS, is_below, is_better, rows_of
from src.reproduction.base import Evidence, Reproduction

NAME = "descendants-induction-heads"
LENGTHS = (64, 128, 256, 512, 1024)
CELLS: dict[str, dict[str, Any]] = {
    LABELS[model]: {"name": NAME, "model": model}
    for model in ("linear_attention", "retnet", "mamba2", "mlstm", "deltanet", "gated_deltanet")
}


def table(evidence: Evidence) -> pd.DataFrame:
    """One row per cell: errors by length."""
    return pd.DataFrame(rows_of(evidence, CELLS, {f"{t} steps": f"test/error_at_{t}" for t in LENGTHS}))


REPRODUCTION = Reproduction(
    title="Descendants of fast weights: induction heads over longer sequences than in training",
    experiments=("descendants/induction_heads",),
    claims=(
        is_below(
            "DeltaNet and Gated DeltaNet, trained on 64 steps, solve 64 steps.",
            "Gu & Dao 2023, of Mamba",
            [CELLS["DeltaNet"], CELLS["Gated DeltaNet"]],
            0.02,
            "test/error_at_64",
            "64 steps: ",
        ),
        is_below(
            "Mamba-2 solves sequences 16 times as long as in training.",
            "Gu & Dao 2023, of Mamba",
            [CELLS["Mamba-2"]],
            0.02,
            "test/error_at_1024",
            "1,024 steps: ",
        ),
        is_below(
            "DeltaNet solves sequences 16 times as long as in training.",
            "not in the papers",
            [CELLS["DeltaNet"]],
            0.02,
            "test/error_at_1024",
            "1,024 steps: ",
        ),
        is_better(
            "Retention, whose decay is fixed, loses what came long ago: DeltaNet makes fewer errors.",
            "not in the papers",
            CELLS["DeltaNet"],
            CELLS["retention"],
            0.1,
            "test/error_at_1024",
            "1,024 steps: ",
        ),
    ),
    table=table,
    quick=("optimizer.lr=3e-3", "seed=0", "trainer.max_updates=800"),
    replayed=({"model": "deltanet", "seed": 0},),
)
