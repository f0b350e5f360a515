"""Checks committed results: that reports follow from the data, and that recorded runs repeat their first updates."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from src.config.paths import REFERENCE
from src.reproduction.record import RECORD, read_record
from src.reproduction.replay import EVERY, SIMD, first_updates
from src.reproduction.report import FIRST_UPDATES, derived_files, read_evidence, replayed
from src.reproduction.reproduce import find

TOLERANCE = 0.01
"""Largest difference that counts as agreement, in the units of the compared curve. Kernels that round differently stay
within 0.005 nats this early; later, rounding errors grow until two runs of fast weights differ as much as two seeds do,
and comparing them says nothing."""
ELSEWHERE = 0.1
"""The same on a processor with other vector instructions, where all of torch rounds differently: then only the first
points of a curve are compared. With AVX2, runs that were recorded with AVX-512 stay within 0.04 up to there, and at
high learning rates differ by up to 0.6 after 100 updates, whether a kernel or the scan computes them."""


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
    for run, (was, simd) in recorded.items():
        now, tolerance, where = first_updates(configs[run], tag), TOLERANCE, ""
        if simd != SIMD:
            was, now, tolerance = was.loc[:EVERY], now.loc[:EVERY], ELSEWHERE
            where = f" (recorded with {simd}, not {SIMD})"
        worst = float((was - now).abs().max(skipna=False)) if was.index.equals(now.index) else float("inf")
        yield f"{run}: {tag} within {worst:.4f} in the first {now.index[-1]} updates{where}", worst <= tolerance


def read_first_updates(folder: Path, tag: str) -> dict[str, tuple["pd.Series[float]", str]]:
    """The recorded curves of the first updates, and the vector instructions with which they were computed, by run."""
    if not (folder / FIRST_UPDATES).exists():
        return {}
    recorded = pd.read_csv(folder / FIRST_UPDATES, index_col="update")
    recorded = recorded if "simd" in recorded else recorded.assign(simd="AVX512")  # all records that lack it
    return {
        str(run): (curve[tag], str(curve["simd"].iloc[0]))
        for run, curve in recorded.groupby("run", sort=False)
        if tag in curve
    }
