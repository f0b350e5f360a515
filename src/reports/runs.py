"""All runs of a folder as one table, whatever became of them."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.experiment import RESULT, read_result
from src.identity import register_resolvers, varied
from src.reports.hparams import decisive
from src.selection import objective_name
from src.sweep import MANIFEST, Manifest, read_manifest
from src.utils.files import is_locked

SEARCH: dict[str, Any] = {"grid": ["optimizer.lr"], "repeated": ["seed"], "columns": [], "two_stage": False}
NUMBERS = ("updates", "selected_update", "seconds", "num_parameters", "state_size")
NOT_SHOWN = ("objective", "settings", "floors")
"""Columns for programs, not for readers."""


def load_runs(folder: Path, only: Mapping[str, Mapping[str, Any]] | None = None) -> pd.DataFrame:
    """One row per run at any depth below a folder, those that are missing or have no result included.

    Columns: the settings that vary, by their full keys; `status` (finished, diverged, failed, interrupted, running,
    missing), `reason`; the metrics, such as `val/error`, `test/error`; `updates`, `selected_update`, `seconds`,
    `num_parameters`, `state_size`; `run`, the run's folder below the given one; `objective`, the tag that selection
    goes by; `settings`, all that decide the result; `floors`. What the manifest of a sweep names comes first, in its
    order. It may be called while runs are being written.

    Args:
        only: the runs to show, {name: flat settings}, instead of all.
    """
    wanted = dict(only) if only is not None else _expected(folder)
    found = wanted if only is not None else wanted | dict.fromkeys(sorted(_run_folders(folder), key=_by_numbers))
    rows = [_row(folder, run, wanted.get(run)) for run in found]
    keys = varied([row["settings"] for row in rows])
    metrics = list(dict.fromkeys(tag for row in rows for tag in row["metrics"]))
    flattened = [{key: row["settings"].get(key) for key in keys} | row | row["metrics"] for row in rows]
    columns = [*keys, "status", "reason", *metrics, *NUMBERS, "run", *NOT_SHOWN]
    table = pd.DataFrame(flattened, columns=columns, dtype=object)
    return table.astype(dict.fromkeys((*metrics, "seconds"), float))


def varied_settings(runs: pd.DataFrame) -> list[str]:
    """The settings that vary: the columns before the status."""
    return list(runs.columns[: runs.columns.get_loc("status")])


def search_settings(folder: Path, runs: pd.DataFrame) -> dict[str, Any]:
    """What the settings that vary are for: as the newest sweep of the folder said, else as in `configs/train.yaml`."""
    manifest = read_manifest(folder)
    if manifest is not None:
        return SEARCH | manifest.search
    results = (read_result(folder / run) for run in reversed(runs["run"].tolist()))
    return SEARCH | next((result["config"].get("search", {}) for result in results if result), {})


def _expected(folder: Path) -> dict[str, dict[str, Any]]:
    """The runs that the sweeps of this folder and of those below it should contain."""
    manifests: list[tuple[Path, Manifest | None]] = [(folder, read_manifest(folder))]
    if manifests[0][1] is None:
        manifests += [(path, read_manifest(path)) for path in sorted(folder.glob("*/")) if (path / MANIFEST).exists()]
    return {
        (path / name).relative_to(folder).as_posix(): settings
        for path, manifest in manifests
        if manifest
        for name, settings in manifest.runs.items()
    }


def _run_folders(folder: Path) -> Iterator[str]:
    for path, folders, files in os.walk(folder):
        if path != str(folder) and (RESULT in files or ".hydra" in folders):
            folders.clear()
            yield Path(path).relative_to(folder).as_posix()
        folders[:] = [name for name in folders if not name.startswith(".")]


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """For sorting: lstm20 before lstm100."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _row(folder: Path, run: str, settings: Mapping[str, Any] | None) -> dict[str, Any]:
    result = read_result(folder / run)
    if result is None:
        result = {"config": {} if settings else _stored_config(folder / run)} | _without_result(folder / run)
    row = {key: result.get(key) for key in ("status", *NUMBERS)}
    row["reason"] = result.get("reason", "") if result["status"] != "finished" else ""
    row |= {"metrics": result.get("metrics", {}), "floors": result.get("floors", {}), "run": run}
    return row | {"settings": settings or decisive(result["config"]), "objective": objective_name(result)}


def _without_result(run: Path) -> dict[str, str]:
    """How a run stands that has not written a result."""
    if is_locked(run):
        return {"status": "running"}
    if not (run / ".lock").exists():
        return {"status": "missing"}
    return {"status": "interrupted", "reason": "ended without a result"}


def _stored_config(run: Path) -> dict[str, Any]:
    """The configuration that Hydra wrote when the run began."""
    register_resolvers()
    try:
        return OmegaConf.to_container(OmegaConf.load(run / ".hydra" / "config.yaml"), resolve=True)  # type: ignore
    except (OSError, OmegaConfBaseException, yaml.YAMLError):
        return {}
