"""Reports how the run of a command ended: with a table or a line, and the exit status."""

import logging
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from src.config.errors import line_of
from src.config.paths import LOG, MANIFEST
from src.config.settings import label_of, varied
from src.reports.hparams import update_hparams_page
from src.reports.tables import one_line, show_run
from src.results.manifest import read_manifest
from src.results.result import ENDED
from src.training.signals import exit_status

log = logging.getLogger(__name__)
IN_THE_NAME = ("model", "model.hidden_size", "task", "optimizer.lr", "seed")
"""The settings that are part of the name of a run's folder."""


def conclude(result: dict[str, Any], folder: Path, in_sweep: bool) -> float:
    """Report how the run ended, and return its test objective; nan if there is none.

    A failed run ends the command unless it is part of a sweep; an interrupted one raises KeyboardInterrupt.
    """
    status = result["status"]
    if status == "interrupted":
        log.info("%s; the same command resumes it", result["reason"])
        raise KeyboardInterrupt(exit_status())
    if status not in ENDED:
        if in_sweep:
            log.error("%s", one_line(result, _name(folder)))
            return float("nan")
        places = [line_of(result["traceback"]), f"see {folder}/{LOG}"] if "traceback" in result else []
        place = ", ".join(filter(None, places))
        sys.exit(f"error: {result['reason']}{f' ({place})' * bool(place)}")
    if in_sweep:
        log.info("%s", one_line(result, _name(folder)))
    else:
        update_hparams_page(folder.parent)
        show_run(result, folder)
    return result["metrics"].get(f"test/{result.get('objective')}", float("nan"))


def _name(folder: Path) -> str:
    """The name of a run of a sweep, with the settings that vary but are not in the name.

    For example: "gru50-first-lr0.1-s0-8a0289e7 (symbols 4)".
    """
    path = folder.parent / MANIFEST
    runs, keys = _varied(folder.parent, path.stat().st_mtime_ns) if path.exists() else ({}, [])
    settings = runs.get(folder.name, {})
    label = label_of((key, settings[key]) for key in keys if key in settings)
    return f"{folder.name} ({label})" if 0 < len(label) <= 60 else folder.name


@lru_cache(maxsize=1)
def _varied(folder: Path, _changed: int) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The runs of a manifest, and the settings that vary between them beyond those in their names."""
    manifest = read_manifest(folder)
    runs = manifest.runs if manifest else {}
    return runs, [key for key in varied(list(runs.values())) if key not in IN_THE_NAME]
