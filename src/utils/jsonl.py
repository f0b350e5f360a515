"""JSON Lines files: one JSON object per line."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def to_line(record: Mapping[str, Any]) -> str:
    """A record as a line; non-finite numbers, which JSON cannot represent, become null."""
    plain = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()
    }
    return json.dumps(plain) + "\n"


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) < 19 else float(digits)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file; none if the file is missing or cannot be read."""
    try:
        return records_of(path.read_bytes())
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
