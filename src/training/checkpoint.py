"""Checkpoints, written atomically, verified by a hash and loaded without unpickling code.

A file's name holds the update and the first digits of the SHA-256 of its content: `update-00001500.1f0c....pt`.
"""

import hashlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from src.utils.files import write_whole

log = logging.getLogger(__name__)
KEPT = 2


def save(folder: Path, update: int, content: dict[str, Any]) -> None:
    """Write a checkpoint and remove all but the last two."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    path = folder / f"update-{update:08d}.{_digest(data)}.pt"
    write_whole(path, data)
    for old in [other for other in _newest_first(folder) if other != path][KEPT - 1 :]:
        old.unlink()


def load_newest(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The newest undamaged checkpoint, or None; damaged ones are named in a warning."""
    for path in _newest_first(folder):
        data = path.read_bytes()
        if _digest(data) == path.suffixes[-2][1:]:
            return torch.load(io.BytesIO(data), map_location=device, weights_only=True)
        log.warning("checkpoint %s is damaged; using the previous one", path)
    return None


def _newest_first(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob("update-*.pt"), reverse=True)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
