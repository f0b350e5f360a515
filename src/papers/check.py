"""Whether committed results still hold: tables follow from the data, and runs begin again as they were recorded."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from src.papers.beginning import beginning
from src.papers.record import RECORD, read_record
from src.papers.report import REFERENCE, claims_table, read_evidence
from src.papers.reproduce import find

TOLERANCE = 0.01
"""Of the negative log-likelihood, in nats. Kernels that round differently are within 0.005 so early; later the rounding
grows until two runs of fast weights are no more alike than two seeds, so that a later check would say nothing."""


def check(name: str) -> Iterator[tuple[str, bool]]:
    """Each thing that was looked at, and whether it agrees."""
    folder = REFERENCE / name
    reproduction, evidence = find(name), read_evidence(folder)
    for file, table in (
        ("table.csv", reproduction.table(evidence)),
        ("claims.csv", claims_table(reproduction, evidence)),
    ):
        committed = (folder / file).read_text() if (folder / file).exists() else ""
        yield f"{file} follows from runs.csv and curves.csv", table.to_csv(index=False) == committed
    beginnings = read_beginnings(folder)
    configs = {run.run: run.result["config"] for run in read_record(folder / RECORD)} if beginnings else {}
    for run, was in beginnings.items():
        now = beginning(configs[run])
        worst = float((was - now).abs().max()) if was.index.equals(now.index) else float("inf")
        yield f"{run}: val/nll within {worst:.4f} in the first {now.index[-1]} updates", worst <= TOLERANCE


def read_beginnings(folder: Path) -> dict[str, "pd.Series[float]"]:
    """The validation loss in the first updates of some runs, as it was recorded."""
    if not (folder / "beginnings.csv").exists():
        return {}
    recorded = pd.read_csv(folder / "beginnings.csv", index_col="update")
    return {str(run): curve["val/nll"] for run, curve in recorded.groupby("run", sort=False)}
