"""The manifest `sweep.json` of a folder, which lists the runs that the folder should contain."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from src.config.paths import JOURNAL, MANIFEST
from src.config.schema import SearchSettings
from src.results.stored import read_json
from src.utils.files import changing, remove_leftovers, write_whole

RunFolder = Annotated[str, Field(pattern=r"^[^/.\x00][^/\x00]*$", max_length=255)]
"""The name of a folder next to the manifest, not a path to another one."""


@dataclass(frozen=True)
class Manifest:
    """The runs that a folder should contain, so that missing ones are noticed.

    Attributes:
        search: the search settings of the latest sweep in the folder; keys that a search there has searched stay
            searched.
        runs: {name: settings by full keys} of the runs of all sweeps in the folder, in order. Runs of the second stage
            of a search are added once they have been chosen.
    """

    search: SearchSettings
    runs: dict[RunFolder, dict[str, bool | int | float | str]]


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder of runs; None if no sweep has run in it or, after a warning, if it is damaged."""
    return read_json(folder / MANIFEST, MANIFESTS, MOST_BYTES)


MANIFESTS = TypeAdapter(Manifest)
MOST_BYTES = 2**28


def write_manifest(folder: Path, search: SearchSettings, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Add runs to the manifest of a folder, under a lock, since several sweeps may start at once."""
    folder.mkdir(parents=True, exist_ok=True)
    with changing(folder / MANIFEST):
        remove_leftovers(folder)
        earlier = read_manifest(folder)
        _write(folder, Manifest(search, (earlier.runs if earlier else {}) | {name: dict(runs[name]) for name in runs}))


def with_searched(plan: SearchSettings, folder: Path) -> SearchSettings:
    """The settings of a sweep or search, with the keys of earlier searches in the same folder added to its grid."""
    before = read_manifest(folder) if (folder / JOURNAL).exists() else None
    if before is None:
        return plan
    searched = [key for key in before.search.grid if key not in (*plan.repeated, *plan.columns)]
    return replace(plan, grid=list(dict.fromkeys([*searched, *plan.grid])))


def rename_runs(folder: Path, names: Mapping[str, str]) -> None:
    """Rename runs in the manifest of a folder, if it has one: {old: new}."""
    if not (folder / MANIFEST).exists():
        return
    with changing(folder / MANIFEST):
        manifest = read_manifest(folder)
        if manifest is not None:
            runs = {names.get(name, name): settings for name, settings in manifest.runs.items()}
            _write(folder, Manifest(manifest.search, runs))


def _write(folder: Path, manifest: Manifest) -> None:
    write_whole(folder / MANIFEST, json.dumps(asdict(manifest), indent=1).encode())


def trial_name(run: Path, fingerprint: str) -> str:
    """The name of a run on TensorBoard's HParams page: "07 2bec7a16", its number in the sweep and its fingerprint.

    The page sorts trials by name, cuts names off after about 14 letters, and shows trials of the same name as one.
    """
    manifest = read_manifest(run.parent)
    names = list(manifest.runs) if manifest else []
    if run.name not in names:
        return fingerprint
    return f"{names.index(run.name):0{len(str(len(names) - 1))}} {fingerprint}"
