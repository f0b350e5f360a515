"""Learning curves of runs, from their `metrics.jsonl`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from src.config.paths import METRICS
from src.results.runs import Run
from src.utils.files import write_whole
from src.utils.jsonl import read_lines, to_line


def read_curves(folder: Path, tags: Sequence[str]) -> dict[str, dict[int, float]]:
    """The points {update: value} of each tag, such as "val/error". The run may still be writing.

    Values that were not finite are nan.
    """
    curves: dict[str, dict[int, float]] = {tag: {} for tag in tags}
    for record in read_lines(folder / METRICS):
        update = record.get("update")
        for tag in curves.keys() & record.keys():
            if isinstance(update, int):
                value = record[tag]
                curves[tag][update] = float(value) if isinstance(value, int | float) else float("nan")
    return curves


def write_curves(folder: Path, curves: Mapping[str, Mapping[int, float]]) -> None:
    """Write `metrics.jsonl` with these points, as `read_curves` returns them."""
    by_update: dict[int, dict[str, float]] = {}
    for tag, points in curves.items():
        for update, value in points.items():
            by_update.setdefault(update, {})[tag] = value
    lines = [to_line({"update": update} | by_update[update]) for update in sorted(by_update)]
    write_whole(folder / METRICS, "".join(lines).encode())


def learning_curves(folder: Path, runs: Sequence[Run], tag: str) -> pd.DataFrame:
    """The curves of a tag, such as "val/error", of runs in a folder: a long table with columns run, update, value."""
    rows = [
        (run.name, update, value)
        for run in runs
        for update, value in read_curves(folder / run.name, [tag])[tag].items()
    ]
    return pd.DataFrame(rows, columns=["run", "update", "value"]).astype({"update": int, "value": float})
