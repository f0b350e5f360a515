"""The `result.json` of a run."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Required, TypeGuard

from annotated_types import Ge, Lt
from omegaconf import DictConfig
from pydantic import AfterValidator, BeforeValidator, ConfigDict, TypeAdapter, with_config
from typing_extensions import TypedDict

from src.config.paths import RESULT
from src.config.schema import RunSettings
from src.results.stored import Config, read_json
from src.utils.files import write_whole
from src.utils.jsonl import for_json

ENDED = ("finished", "diverged")
MOST_BYTES = 2**24
Count = Annotated[int, Ge(0), Lt(2**63)]
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A number; one that was not finite is null in JSON and nan here."""


@with_config(ConfigDict(extra="allow"))
class Result(TypedDict, total=False):
    """The content of a result, which may have other keys as well."""

    status: Required[Literal["finished", "diverged", "failed", "interrupted"]]
    reason: Required[str]
    metrics: Required[dict[str, Number]]
    config: Required[Config]
    fingerprint: str
    objective: str
    higher_is_better: bool
    floors: dict[str, dict[str, Number]]
    updates: Count
    selected_update: Count | None
    seconds: float
    updates_per_second: float
    num_parameters: Count
    state_size: Count
    provenance: dict[str, Any]


def _with_its_numbers(result: Result) -> Result:
    """Return the result; raise a ValueError if its run has ended and one of the numbers to show is missing."""
    numbers = ("floors", "updates", "selected_update", "seconds", "num_parameters", "state_size")
    absent = [key for key in numbers if key not in result]
    if absent and result["status"] in ENDED:
        raise ValueError(f"{result['status']} without {', '.join(absent)}")
    return result


RESULTS: TypeAdapter = TypeAdapter(Annotated[Result, AfterValidator(_with_its_numbers)])


def read_result(folder: Path) -> dict[str, Any] | None:
    """The `result.json` of a run; None if it is missing or, after a warning, if it is damaged."""
    return read_json(folder / RESULT, RESULTS, MOST_BYTES)


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Write the `result.json` of a run."""
    write_whole(folder / RESULT, json.dumps(for_json(result), indent=2).encode())


def stands(result: Mapping[str, Any] | None, settings: RunSettings) -> TypeGuard[Mapping[str, Any]]:
    """Whether a result is final, so that the run is skipped."""
    if result is None or settings.fresh:
        return False
    return result["status"] in ENDED or (result["status"] == "failed" and not settings.retry_failed)


def has_another_note(result: Mapping[str, Any] | None, config: DictConfig) -> bool:
    """Whether a run has a result with a note other than the one given now, if one is given."""
    note = config.get("note", "")
    return result is not None and note not in ("", result["config"].get("note", ""))
