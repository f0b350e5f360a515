"""All runs of a folder, whatever their status."""

import logging
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.config.errors import UserError
from src.config.fingerprint import decisive_keys
from src.config.paths import MANIFEST, RESULT, STORED
from src.config.schema import SearchSettings
from src.config.settings import varied
from src.results.manifest import read_manifest
from src.results.result import ENDED, read_result
from src.results.stored import read_yaml, warn
from src.specs import Objective
from src.utils.files import is_locked

log = logging.getLogger(__name__)
_HAS_FINGERPRINT = re.compile(r".*-[0-9a-f]{8}").fullmatch
"""Whether a folder has the name of a run."""
LOST = ("diverged", "failed")
"""Statuses of runs that ended without a usable result."""
DEFAULT_SEARCH = SearchSettings(grid=["optimizer.lr"], repeated=["seed"], columns=[], two_stage=False)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run and its state so far."""

    name: str
    """Path of its folder, relative to the folder that was loaded."""
    settings: Mapping[str, Any]
    """Every setting that can change its result, by full key."""
    fingerprint: str = ""
    """The fingerprint in its result; empty if it has no result, or one from an early version."""
    note: str = ""
    """What the user wrote about it."""
    status: str = "missing"
    """finished, diverged, failed, interrupted, running or missing."""
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the weights selected on the validation set, by tag, such as "test/error"."""
    objective: Objective = Objective("error")  # noqa: RUF009 - it is frozen
    floors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    updates: int | None = None
    selected_update: int | None = None
    seconds: float | None = None
    num_parameters: int | None = None
    state_size: int | None = None

    @property
    def objective_tag(self) -> str:
        """Tag of the metric that weights and settings are selected on, such as "val/error"."""
        return f"val/{self.objective.metric}"

    @property
    def finished(self) -> bool:
        """Whether training completed."""
        return self.status == "finished"

    @property
    def ended(self) -> bool:
        """Whether it has a final result."""
        return self.status in ENDED

    @property
    def validation_objective(self) -> float | None:
        """The value that selection compares; None if the run did not finish or the value is not finite."""
        value = self.metrics.get(self.objective_tag, math.nan)
        return value if self.finished and math.isfinite(value) else None


def load_runs(folder: Path, only: Mapping[str, Mapping[str, Any]] | None = None) -> list[Run]:
    """The runs at any depth below a folder, including missing ones; or `only` these, given as {name: flat settings}.

    Runs in the manifest of a sweep come first, in its order. Runs may still be writing their files.
    """
    if only is not None:
        return [read_run(folder, name, settings) for name, settings in only.items()]
    wanted = _expected(folder)
    names = dict.fromkeys([*wanted, *sorted(run_folders(folder), key=_by_numbers)])
    return each_once([read_run(folder, name, wanted.get(name)) for name in names])


def each_once(runs: Sequence[Run]) -> list[Run]:
    """The runs, each once: copies in several folders are named in a warning, and one that has ended is preferred."""
    by_name: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: not _HAS_FINGERPRINT(run.name)):  # folders named by a user come last
        by_name.setdefault(_known_as(run, by_name), []).append(run)
    for name, copies in by_name.items():
        if len(copies) > 1:
            paths = [Path(run.name) for run in copies]
            places = [str(path.parent if path.name == name else path) for path in paths]
            log.warning("%s is in %s, and counts once", name, " and ".join(places))
    chosen = {max(copies, key=lambda run: run.ended).name for copies in by_name.values()}
    return [run for run in runs if run.name in chosen]


def _known_as(run: Run, names: Iterable[str]) -> str:
    """The name of a run, wherever it lies: its folder's name, or the one among `names` with its fingerprint."""
    if _HAS_FINGERPRINT(run.name):
        return Path(run.name).name
    same = (name for name in names if run.fingerprint and name.endswith(f"-{run.fingerprint}"))
    return next(same, run.fingerprint or run.name)


def read_run(folder: Path, name: str, settings: Mapping[str, Any] | None = None) -> Run:
    """One run of a folder; unless given, its settings come from its result or its configuration."""
    result = read_result(folder / name)
    if result is None:
        status, reason = _without_result(folder / name)
        settings = _stored_settings(folder / name) if settings is None else settings
        return Run(name=name, settings=settings, status=status, reason=reason)
    suffix = name.rpartition("-")[2]
    if _HAS_FINGERPRINT(name) and result.get("fingerprint", suffix) != suffix:
        return Run(
            name=name, settings=settings or {}, reason=f"its result belongs to another run ({result['fingerprint']})"
        )
    return as_run(name, result, settings)


def as_run(name: str, result: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> Run:
    """The run that a result belongs to."""
    return Run(
        name=name,
        settings=decisive_keys(result["config"]) if settings is None else settings,
        fingerprint=result.get("fingerprint", ""),
        note=str(result["config"].get("note", "")),
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
    """Which settings are searched and repeated: as in the latest sweep or run of the folder, else the default."""
    manifest = read_manifest(folder)
    if manifest is not None:
        return manifest.search
    for run in reversed(runs):
        result = read_result(folder / run.name)
        if result is not None and "search" in result["config"]:
            return SearchSettings(**result["config"]["search"])
    return DEFAULT_SEARCH


def _objective(result: Mapping[str, Any]) -> Objective:
    """The objective of a run; if its result does not say, the error, or its first metric if it has no error."""
    name = result.get("objective", "error")
    tags = [tag for tag in result["metrics"] if tag.startswith("val/")]
    if tags and f"val/{name}" not in tags:
        name = tags[0].removeprefix("val/")
    return Objective(name, result.get("higher_is_better", False))


def _expected(folder: Path) -> dict[str, Mapping[str, Any]]:
    """The runs in the manifest of a folder or, if it has none, in the manifests of its subfolders."""
    folders = [folder] if (folder / MANIFEST).exists() else sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    return {
        (path / name).relative_to(folder).as_posix(): settings
        for path in folders
        if (manifest := read_manifest(path))
        for name, settings in manifest.runs.items()
    }


def run_folders(folder: Path) -> Iterator[str]:
    """The folders of runs at any depth below a folder, relative to it."""
    for path, folders, files in os.walk(folder):
        if path != str(folder) and (RESULT in files or ".hydra" in folders):
            folders.clear()
            yield Path(path).relative_to(folder).as_posix()
        folders[:] = [name for name in folders if not name.startswith(".")]


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """A sort key: lstm20 before lstm100."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _without_result(run: Path) -> tuple[str, str]:
    """Status and reason of a run without a result."""
    if is_locked(run):
        return "running", ""
    if (run / RESULT).exists():
        return "missing", f"{RESULT} is damaged"
    if not (run / ".lock").exists():
        return "missing", ""
    return "interrupted", "ended without a result"


def _stored_settings(run: Path) -> dict[str, Any]:
    """The settings in the configuration that Hydra wrote when the run started."""
    try:
        return decisive_keys(read_yaml(run / STORED))
    except FileNotFoundError:
        return {}
    except UserError as error:
        warn(f"{error}; it counts as missing")
        return {}
