"""All runs of a folder, whatever became of them."""

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.config.compose import register_resolvers
from src.config.fingerprint import decisive_keys
from src.config.paths import MANIFEST, RESULT
from src.config.schema import SearchSettings
from src.config.settings import varied
from src.results.manifest import read_manifest
from src.results.result import ENDED, read_result
from src.specs import Objective
from src.utils.files import is_locked

LOST = ("diverged", "failed")
"""How a run can end without a usable result."""
DEFAULT_SEARCH = SearchSettings(grid=["optimizer.lr"], repeated=["seed"], columns=[], two_stage=False)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, as far as it has come."""

    name: str
    """Its folder, below the one that was asked for."""
    settings: Mapping[str, Any]
    """All that decide its result, by full keys."""
    status: str = "missing"
    """finished, diverged, failed, interrupted, running or missing."""
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """By tag: "val/error" and "test/error", of the weights selected on the validation set."""
    objective: Objective = Objective("error")  # noqa: RUF009 - it is frozen
    floors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    updates: int | None = None
    selected_update: int | None = None
    seconds: float | None = None
    num_parameters: int | None = None
    state_size: int | None = None

    @property
    def objective_tag(self) -> str:
        """The metric that the run was selected on: "val/error"."""
        return f"val/{self.objective.metric}"

    @property
    def test_tag(self) -> str:
        """The test metric of the same name."""
        return f"test/{self.objective.metric}"

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        return self.status == "finished"

    @property
    def ended(self) -> bool:
        """Whether it has a result that stays."""
        return self.status in ENDED

    @property
    def validation_objective(self) -> float | None:
        """What selection goes by; None for a run that did not finish."""
        value = self.metrics.get(self.objective_tag, math.nan)
        return value if self.finished and math.isfinite(value) else None


def load_runs(folder: Path, only: Mapping[str, Mapping[str, Any]] | None = None) -> list[Run]:
    """The runs at any depth below a folder, with those that are missing or have no result.

    What the manifest of a sweep names comes first, in its order. It may be called while runs are being written.

    Args:
        folder: of runs.
        only: the runs to load, {name: flat settings}, instead of all.
    """
    if only is not None:
        return [load_run(folder, name, settings) for name, settings in only.items()]
    wanted = _expected(folder)
    names = dict.fromkeys([*wanted, *sorted(_run_folders(folder), key=_by_numbers)])
    return [load_run(folder, name, wanted.get(name)) for name in names]


def load_run(folder: Path, name: str, settings: Mapping[str, Any] | None = None) -> Run:
    """One run of a folder; its settings are those of its result or its configuration, unless given."""
    result = read_result(folder / name)
    if result is None:
        status, reason = _without_result(folder / name)
        return Run(
            name=name,
            settings=_stored_settings(folder / name) if settings is None else settings,
            status=status,
            reason=reason,
        )
    return as_run(name, result, settings)


def as_run(name: str, result: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> Run:
    """The run that a result is of."""
    return Run(
        name=name,
        settings=decisive_keys(result["config"]) if settings is None else settings,
        status=result["status"],
        reason="" if result["status"] == "finished" else result["reason"],
        metrics=result["metrics"],
        objective=_objective(result),
        floors=result.get("floors", {}),
        updates=result.get("updates"),
        selected_update=result.get("selected_update"),
        seconds=result.get("seconds"),
        num_parameters=result.get("num_parameters"),
        state_size=result.get("state_size"),
    )


def varied_settings(runs: Sequence[Run]) -> list[str]:
    """The settings that differ between runs."""
    return varied([run.settings for run in runs])


def search_settings(folder: Path, runs: Sequence[Run]) -> SearchSettings:
    """What the settings that vary are for: as the newest sweep of the folder said, else as in `configs/train.yaml`."""
    manifest = read_manifest(folder)
    if manifest is not None:
        return manifest.search
    for run in reversed(runs):
        result = read_result(folder / run.name)
        if result is not None and "search" in result["config"]:
            return SearchSettings(**result["config"]["search"])
    return DEFAULT_SEARCH


def _objective(result: Mapping[str, Any]) -> Objective:
    """What a run was selected on; of a result that does not say, the first metric."""
    name = result.get("objective", "error")
    tags = [tag for tag in result["metrics"] if tag.startswith("val/")]
    if tags and f"val/{name}" not in tags:
        name = tags[0].removeprefix("val/")
    return Objective(name, result.get("higher_is_better", False))


def _expected(folder: Path) -> dict[str, Mapping[str, Any]]:
    """The runs that the sweeps of this folder, or else of those in it, should contain."""
    folders = [folder] if (folder / MANIFEST).exists() else sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    return {
        (path / name).relative_to(folder).as_posix(): settings
        for path in folders
        if (manifest := read_manifest(path))
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


def _without_result(run: Path) -> tuple[str, str]:
    """Status and reason of a run that has not written a result."""
    if is_locked(run):
        return "running", ""
    if not (run / ".lock").exists():
        return "missing", ""
    return "interrupted", "ended without a result"


def _stored_settings(run: Path) -> dict[str, Any]:
    """The settings in the configuration that Hydra wrote when the run began."""
    register_resolvers()
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(run / ".hydra" / "config.yaml"), resolve=True)
        return decisive_keys(config)
    except (OSError, OmegaConfBaseException, yaml.YAMLError, AttributeError):  # not there, or not whole yet
        return {}
