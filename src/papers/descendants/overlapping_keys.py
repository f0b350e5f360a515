"""Beyond the papers: recall of 8 pairs whose keys overlap."""

from typing import Any

import pandas as pd

from src.papers.descendants import BY_AGE, LABELS, is_below, is_better, rows_of
from src.reproduction.base import Evidence, Reproduction

NAME = "descendants-overlapping-keys"
MODELS = ("linear_attention", "retnet", "mlstm", "deltanet", "gated_deltanet", "mesanet")
KEY_SIZES = (32, 8, 4)


def _at(model: str, key_size: int) -> dict[str, Any]:
    return {"name": NAME, "model": model, "task__key_size": key_size}


def table(evidence: Evidence) -> pd.DataFrame:
    """One row per key size and cell."""
    rows = []
    for key_size in KEY_SIZES:
        cells = {LABELS[model]: _at(model, key_size) for model in MODELS}
        rows += [{"key size": str(key_size)} | row for row in rows_of(evidence, cells, BY_AGE)]
    return pd.DataFrame(rows)


REPRODUCTION = Reproduction(
    title="Descendants of fast weights: recall of 8 pairs whose keys overlap",
    experiments=("descendants/overlapping_keys",),
    claims=(
        *(
            is_better(
                f"With keys of 8 numbers, the delta rule recalls more than {LABELS[other]}.",
                "Schlag, Irie & Schmidhuber 2021, section 4.1",
                _at("deltanet", 8),
                _at(other, 8),
                0.02,
            )
            for other in ("linear_attention", "retnet", "mlstm")
        ),
        *(
            is_better(
                f"With keys of 4 numbers, the delta rule recalls more than {LABELS[other]}.",
                "the same",
                _at("deltanet", 4),
                _at(other, 4),
                0.02,
            )
            for other in ("linear_attention", "retnet", "mlstm")
        ),
        is_below(
            "With keys of 8 numbers, least squares recalls all 8 pairs.",
            "von Oswald et al. 2025: 8 keys in 8 dimensions are linearly independent",
            [_at("mesanet", 8)],
            0.02,
        ),
    ),
    table=table,
    quick=("optimizer.lr=1e-2", "seed=0", "trainer.max_updates=800"),
    replayed=({"model": "deltanet", "task.key_size": 8, "seed": 0},),
)
