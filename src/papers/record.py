"""The record of a reproduction: every run that was made for it, so that a report can be gone on with elsewhere.

Run folders are large and not committed. A line of `results.jsonl` has what selection and reports need of one of
them: its result and its validation curves.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from src.errors import UserError
from src.experiment import ENDED, RESULT, read_result
from src.reports.curves import read_scalars
from src.reports.hparams import decisive
from src.reports.runs import load_runs
from src.sweep import write_manifest
from src.utils.files import write_whole

RECORD = "results.jsonl"


class Recorded(NamedTuple):
    """One run.

    Attributes:
        sweep: the name of the folder that holds the runs of its experiment.
        run: the name of its own.
        result: its `result.json`.
        curves: metrics on the validation set by update, {"val/error": {0: 0.9, 500: 0.6, ...}, ...}.
    """

    sweep: str
    run: str
    result: dict[str, Any]
    curves: dict[str, dict[int, float]]


def gather(folders: Iterable[Path], tags: Sequence[str], settings: Mapping[str, Any]) -> list[Recorded]:
    """The runs in the folders of some sweeps that have ended and have these settings, in the order of the sweeps."""
    found = []
    for folder in folders:
        for _, row in load_runs(folder).iterrows():
            result = read_result(folder / row["run"])
            if result and result["status"] in ENDED and settings.items() <= row["settings"].items():
                found.append(Recorded(folder.name, row["run"], result, read_scalars(folder / row["run"], tags)))
    return found


def write_record(path: Path, runs: Iterable[Recorded]) -> None:
    """Write a record."""
    lines = []
    for run in runs:
        curves = {tag: {at: float(f"{value:.6g}") for at, value in curve.items()} for tag, curve in run.curves.items()}
        lines.append(json.dumps(run._replace(curves=curves)._asdict(), separators=(",", ":")))
    write_whole(path, "".join(f"{line}\n" for line in lines).encode())


def read_record(path: Path) -> list[Recorded]:
    """The runs of a record.

    Raises:
        UserError: there is none.
    """
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no runs are recorded") from None
    runs = []
    for line in lines:
        run = Recorded(**json.loads(line))
        curves = {tag: {int(update): value for update, value in curve.items()} for tag, curve in run.curves.items()}
        runs.append(run._replace(curves=curves))
    return runs


def restore(runs: Iterable[Recorded], sweeps: Mapping[str, Path]) -> list[Path]:
    """Put recorded runs where they would be if they had been made here, and return the folders that were not there.

    They have their results and their curves, not their weights.

    Args:
        runs: of a record.
        sweeps: the folder of each sweep, by its name.
    """
    made = []
    for sweep, group in groupby(runs, key=lambda run: run.sweep):
        recorded = list(group)
        settings = {run.run: decisive(run.result["config"]) for run in recorded}
        write_manifest(sweeps[sweep], recorded[0].result["config"]["search"], settings)
        for run in recorded:
            folder = sweeps[sweep] / run.run
            if not folder.exists():
                _restore(run, folder)
                made.append(folder)
    return made


def _restore(run: Recorded, folder: Path) -> None:
    from src.utils.tensorboard import Curves

    folder.mkdir(parents=True)
    curves = Curves(folder, first_update=0)
    for tag, points in run.curves.items():
        group, _, name = tag.partition("/")
        for update, value in points.items():
            curves.scalars(group, {name: value}, update)
    curves.close({})
    write_whole(folder / RESULT, json.dumps(run.result, indent=2).encode())
