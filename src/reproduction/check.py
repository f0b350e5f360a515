"""Checks committed results: that reports follow from the data, and that recorded runs repeat their first updates."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from src.config.paths import REFERENCE
from src.reproduction.record import RECORD, read_record
from src.reproduction.replay import first_updates
from src.reproduction.report import FIRST_UPDATES, derived_files, read_evidence, replayed
from src.reproduction.reproduce import find

TOLERANCE = 0.01
"""Largest difference that counts as agreement, in the units of the compared curve. Kernels that round differently stay
within 0.005 nats this early; later, rounding errors grow until two runs of fast weights differ as much as two seeds do,
and comparing them says nothing."""


def check(name: str) -> Iterator[tuple[str, bool]]:
    """A description of each check, and whether the results agree."""
    folder = REFERENCE / name
    reproduction, evidence = find(name), read_evidence(folder)
    for file, content in derived_files(name, folder).items():
        committed = (folder / file).read_text() if (folder / file).exists() else ""
        yield f"{file} follows from the data", content == committed
    tag = reproduction.replayed_curve
    recorded = read_first_updates(folder, tag)
    if reproduction.replayed:
        missing = [run for run in replayed(reproduction, evidence) if run not in recorded]
        but = f" except {', '.join(missing)}" if missing else ""
        yield f"{FIRST_UPDATES} contains all runs that are repeated{but}", bool(recorded) and not missing
    configs = {run.run: run.result["config"] for run in read_record(folder / RECORD)} if recorded else {}
    for run, was in recorded.items():
        now = first_updates(configs[run], tag)
        worst = float((was - now).abs().max(skipna=False)) if was.index.equals(now.index) else float("inf")
        yield f"{run}: {tag} within {worst:.4f} in the first {now.index[-1]} updates", worst <= TOLERANCE


def read_first_updates(folder: Path, tag: str) -> dict[str, "pd.Series[float]"]:
    """The recorded curves of the first updates, by run."""
    if not (folder / FIRST_UPDATES).exists():
        return {}
    recorded = pd.read_csv(folder / FIRST_UPDATES, index_col="update")
    return {str(run): curve[tag] for run, curve in recorded.groupby("run", sort=False) if tag in curve}
