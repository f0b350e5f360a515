"""Whether committed results still hold: tables follow from the data, and runs start as they were recorded."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from src.config.paths import REFERENCE
from src.reproduction.record import RECORD, read_record
from src.reproduction.replay import first_updates
from src.reproduction.report import FIRST_UPDATES, claims_table, read_evidence, replayed
from src.reproduction.reproduce import find

TOLERANCE = 0.01
"""Of the curve that is compared, in its units. Kernels that round differently are within 0.005 nats so early; later
rounding grows until two runs of fast weights are no more alike than two seeds, and a check would say nothing."""


def check(name: str) -> Iterator[tuple[str, bool]]:
    """Each thing that was checked, and whether it agrees."""
    folder = REFERENCE / name
    reproduction, evidence = find(name), read_evidence(folder)
    for file, table in (
        ("table.csv", reproduction.table(evidence)),
        ("claims.csv", claims_table(reproduction, evidence)),
    ):
        committed = (folder / file).read_text() if (folder / file).exists() else ""
        yield f"{file} follows from runs.csv and curves.csv", table.to_csv(index=False) == committed
    tag = reproduction.replayed_curve
    recorded = read_first_updates(folder, tag)
    if reproduction.replayed:
        missing = [run for run in replayed(reproduction, evidence) if run not in recorded]
        but = f", but not {', '.join(missing)}" if missing else ""
        yield f"{FIRST_UPDATES} has the runs that are replayed{but}", bool(recorded) and not missing
    configs = {run.run: run.result["config"] for run in read_record(folder / RECORD)} if recorded else {}
    for run, was in recorded.items():
        now = first_updates(configs[run], tag)
        worst = float((was - now).abs().max(skipna=False)) if was.index.equals(now.index) else float("inf")
        yield f"{run}: {tag} within {worst:.4f} in the first {now.index[-1]} updates", worst <= TOLERANCE


def read_first_updates(folder: Path, tag: str) -> dict[str, "pd.Series[float]"]:
    """A validation curve of the first updates of some runs, as it was recorded."""
    if not (folder / FIRST_UPDATES).exists():
        return {}
    recorded = pd.read_csv(folder / FIRST_UPDATES, index_col="update")
    return {str(run): curve[tag] for run, curve in recorded.groupby("run", sort=False) if tag in curve}
