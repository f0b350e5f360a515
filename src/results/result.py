"""The `result.json` of a run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from src.config.paths import RESULT
from src.config.schema import RunSettings

ENDED = ("finished", "diverged")


def read_result(folder: Path) -> dict[str, Any] | None:
    """The `result.json` of a run; None if it is missing or unreadable."""
    try:
        return json.loads((folder / RESULT).read_text())
    except (OSError, json.JSONDecodeError):
        return None


def stands(result: Mapping[str, Any] | None, settings: RunSettings) -> TypeGuard[Mapping[str, Any]]:
    """Whether a result is final, so that the run is skipped."""
    if result is None or settings.fresh:
        return False
    return result["status"] in ENDED or (result["status"] == "failed" and not settings.retry_failed)
