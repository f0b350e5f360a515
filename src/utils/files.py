"""Files that are whole or not there, and folders that one process at a time may write."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, flush it to disk and rename it: a reader sees all of it or the old one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        error.filename = error.filename or str(path)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class FolderInUseError(Exception):
    """Another process holds the lock of a folder."""


@contextmanager
def locked(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold a folder for this process; the kernel lets go of it when the process ends, however it ends.

    Args:
        folder: an existing folder.
        patience: seconds to wait for another process to let go.

    Raises:
        FolderInUseError: another process holds it.
    """
    with open(folder / ".lock", "a+") as file:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    file.seek(0)
                    raise FolderInUseError(
                        f"{folder} is in use by process {file.read().strip() or 'unknown'}"
                    ) from None
                time.sleep(0.1)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Read a file and write it whole with no other process doing the same in between; waits for its turn."""
    with open(path.with_name(f".{path.name}.lock"), "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_locked(folder: Path) -> bool:
    """Whether a process holds the folder. Who tries to lock it in this very instant has to try again."""
    try:
        with open(folder / ".lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
