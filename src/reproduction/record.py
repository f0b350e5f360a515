"""The record of a reproduction: all of its runs, so that others can continue from them.

Run folders are too large to commit. Each line of `results.jsonl` contains what selection and reports need from one run:
its result and its validation curves.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from src.config.errors import UserError, choose, what_is_wrong
from src.config.fingerprint import decisive_keys
from src.config.paths import CHECKPOINTS
from src.config.schema import SearchSettings
from src.results.curves import read_curves, write_curves
from src.results.manifest import RunFolder, write_manifest
from src.results.result import RESULTS, Number, read_result, write_result
from src.results.runs import Run
from src.utils.files import write_whole
from src.utils.jsonl import for_json

RECORD = "results.jsonl"


class Recorded(NamedTuple):
    """One recorded run.

    Attributes:
        sweep: name of the folder of its experiment.
        run: name of its own folder.
        result: its `result.json`.
        curves: validation metrics by update, {"val/error": {0: 0.9, 500: 0.6, ...}, ...}.
    """

    sweep: RunFolder
    run: RunFolder
    result: dict[str, Any]
    curves: dict[str, dict[int, Number]]


_RECORDED = TypeAdapter(Recorded)


def gather(folder: Path, runs: Iterable[Run], tags: Sequence[str]) -> list[Recorded]:
    """Record the runs in a folder that have ended."""
    found = []
    for run in runs:
        result = read_result(folder / run.name)
        if result and run.ended:
            found.append(Recorded(folder.name, run.name, result, read_curves(folder / run.name, tags)))
    return found


def write_record(path: Path, runs: Iterable[Recorded]) -> None:
    """Write a record; curves keep six digits."""
    lines = []
    for run in runs:
        curves = {tag: {at: float(f"{value:.6g}") for at, value in curve.items()} for tag, curve in run.curves.items()}
        lines.append(json.dumps(for_json(run._replace(curves=curves)._asdict()), separators=(",", ":")))
    write_whole(path, "".join(f"{line}\n" for line in lines).encode())


def read_record(path: Path) -> list[Recorded]:
    """The runs of a record.

    Raises:
        UserError: there is no record, or a line of it is damaged.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no runs are recorded") from None
    runs = []
    for number, line in enumerate(lines, start=1):
        try:
            run = _RECORDED.validate_json(line)
            runs.append(run._replace(result=RESULTS.validate_python(run.result, strict=True)))
        except ValidationError as error:
            raise UserError(f"{path}: line {number} is damaged: {what_is_wrong(error)}") from None
        if "search" not in runs[-1].result["config"]:
            raise UserError(f"{path}: line {number} is damaged: result.config.search: field required")
    return runs


def restore(runs: Iterable[Recorded], sweeps: Mapping[str, Path]) -> list[Path]:
    """Write recorded runs to `sweeps`, {name: folder}, as if they had been trained here; return the new folders.

    They have results and curves, but no weights.

    Raises:
        UserError: a run belongs to a sweep that is not in `sweeps`.
    """
    made = []
    for sweep, group in groupby(runs, key=lambda run: run.sweep):
        recorded = list(group)
        if sweep not in sweeps:
            raise UserError(f"{recorded[0].run}: recorded in an unknown folder, {sweep}{choose(sweep, sweeps)}")
        settings = {run.run: decisive_keys(run.result["config"]) for run in recorded}
        write_manifest(sweeps[sweep], SearchSettings(**recorded[0].result["config"]["search"]), settings)
        for run in recorded:
            folder = sweeps[sweep] / run.run
            if read_result(folder) is None and not (folder / CHECKPOINTS).exists():
                _restore(run, folder)
                made.append(folder)
    return made


def _restore(run: Recorded, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_curves(folder, run.curves)
    write_result(folder, run.result)
