"""Fast weights and their descendants on the same ground; what the reports share."""

from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd

from src.reproduction.base import Evidence, NotRunError

LABELS = {
    "fastweights": "fast weights (2016)",
    "lstm": "LSTM",
    "linear_attention": "linear attention",
    "retnet": "retention",
    "mamba2": "Mamba-2",
    "gla": "GLA",
    "mlstm": "mLSTM",
    "deltanet": "DeltaNet",
    "gated_deltanet": "Gated DeltaNet",
    "kda": "KDA",
    "rwkv7": "RWKV-7",
    "deltaproduct": "DeltaProduct",
    "recurrent_deltanet": "recurrent DeltaNet",
    "srwm": "SRWM",
    "ttt_linear": "TTT-Linear",
    "titans": "Titans",
    "mesanet": "MesaNet",
    "fastweights_softmax": "fast weights, softmax",
    "attention": "attention",
}
"""Cells by the name of their file, in the order of tables."""


def label_of(model: str) -> str:
    """The name of a cell in tables and figures."""
    return LABELS.get(model, model)


def models_of(runs: pd.DataFrame) -> list[str]:
    """The cells of some runs, in the order of tables."""
    order = [*LABELS]
    return sorted(runs["model"].unique(), key=lambda model: order.index(model) if model in order else len(order))


def percents(values: np.ndarray) -> str:
    """Mean and standard deviation of errors in %, without the sign: "1.2 ± 0.1"."""
    spread = f" ± {100 * values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * values.mean():.1f}{spread}"


def errors_or_none(evidence: Evidence, metric: str = "test/error", **settings: Any) -> np.ndarray | None:
    """A metric of the runs with these settings; None if there are none."""
    with suppress(NotRunError):
        return evidence.values(metric, **settings)
    return None
