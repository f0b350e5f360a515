"""The `sweep.json` of a folder of runs: what it was made for."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.config.paths import MANIFEST
from src.config.schema import SearchSettings
from src.utils.files import changing, write_whole


@dataclass(frozen=True)
class Manifest:
    """What a folder of runs was made for, so that one sees what is missing.

    Attributes:
        search: of the newest sweep in the folder.
        runs: the settings, by full keys, of each run that any sweep of the folder asks for, by name, in order. The runs
            of the second stage of a search are there once they have been chosen.
    """

    search: SearchSettings
    runs: dict[str, dict[str, Any]]


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder of runs; None if no sweep has run in it."""
    try:
        content = json.loads((folder / MANIFEST).read_text())
        return Manifest(SearchSettings(**content["search"]), content["runs"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_manifest(folder: Path, search: SearchSettings, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the manifest of a folder, which keeps the runs of its earlier sweeps and of those that start with this."""
    folder.mkdir(parents=True, exist_ok=True)
    with changing(folder / MANIFEST):
        earlier = read_manifest(folder)
        manifest = Manifest(search, (earlier.runs if earlier else {}) | {name: dict(runs[name]) for name in runs})
        write_whole(folder / MANIFEST, json.dumps(asdict(manifest), indent=1).encode())
