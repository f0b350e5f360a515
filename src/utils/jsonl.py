"""JSON Lines files: one JSON object per line."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MOST_BYTES = 2**28
"""At most this many bytes of a file are read."""


def for_json(value: Any) -> Any:
    """The same value with null for numbers that are not finite, which JSON cannot represent."""
    if isinstance(value, Mapping):
        return {key: for_json(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [for_json(held) for held in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_line(record: Mapping[str, Any]) -> str:
    """A record as a line."""
    return json.dumps(for_json(record)) + "\n"


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) < 19 else float(digits)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records in the first `MOST_BYTES` of a file; none if it is missing, cannot be read, or is not a file."""
    if not path.is_file():
        return []
    try:
        with open(path, "rb") as file:
            return records_of(file.read(MOST_BYTES))
    except OSError:
        return []


def records_of(content: bytes) -> list[dict[str, Any]]:
    """The records in the content of a file, without truncated or damaged lines."""
    records = []
    for line in content.splitlines(keepends=True):
        try:
            record = json.loads(line, parse_int=_number)
        except (ValueError, RecursionError):
            continue
        if line.endswith(b"\n") and isinstance(record, dict):
            records.append(record)
    return records
