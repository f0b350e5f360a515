"""Checkpoints: written atomically, verified by a hash, and loaded without running pickled code.

A file's name holds the update and the first digits of the SHA-256 of its content: `update-00001500.1f0c....pt`.
"""

import hashlib
import io
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

from src.utils.files import write_whole

log = logging.getLogger(__name__)
Taken = TypeVar("Taken")
KEPT = 2


def save(folder: Path, update: int, content: dict[str, Any]) -> None:
    """Write a new checkpoint, and remove all others except the undamaged one before it."""
    path = write(folder, update, content)
    kept = [path]
    for other in newest_first(folder):
        if len(kept) < KEPT and _update(other) < update and _is_whole(other):
            kept.append(other)
        elif other not in kept:  # a later one is unusable: this run did not resume from it
            with suppress(OSError):  # if it is a folder
                other.unlink()


def write(folder: Path, update: int, content: dict[str, Any]) -> Path:
    """Write a checkpoint and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    path = folder / f"update-{update:08d}.{_digest(data)}.pt"
    write_whole(path, data)
    return path


def load_newest(folder: Path, device: torch.device, take: Callable[[Any], Taken]) -> Taken | None:
    """Return `take` of the content of the newest undamaged checkpoint, or None; a warning names each damaged one.

    A checkpoint also counts as damaged if `take` raises a ValueError.
    """
    paths = newest_first(folder)
    for path in paths:
        try:
            return take(read(path, device))
        except ValueError as error:
            instead = "there is no other checkpoint" if path == paths[-1] else "using the previous one"
            log.warning("checkpoint %s cannot be used: %s; %s", path, error, instead)
    return None


def read(path: Path, device: torch.device) -> Any:
    """The content of a checkpoint.

    Raises:
        ValueError: it is damaged.
    """
    data = _whole(path)
    try:
        return torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds of error
        raise ValueError(f"it cannot be loaded ({type(error).__name__})") from None


def newest_first(folder: Path) -> list[Path]:
    """All checkpoints in a folder, including damaged ones, newest first."""
    found = [path for path in folder.glob("update-*.pt") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (_update(path), path.name), reverse=True)


_NAME = re.compile(r"update-(\d+)\.([0-9a-f]{16})\.pt", re.ASCII)


def _update(path: Path) -> int:
    return int(path.name.removeprefix("update-").partition(".")[0])


def _whole(path: Path) -> bytes:
    """The bytes of a file, checked against the digest in its name."""
    if not path.is_file():
        raise ValueError("not a file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(str(error.strerror)) from None
    if _digest(data) != path.suffixes[-2][1:]:
        raise ValueError("its content does not match the hash in its name")
    return data


def _is_whole(path: Path) -> bool:
    with suppress(ValueError):
        return bool(_whole(path))
    return False


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
