"""Atomic file writes, and folders that only one process at a time may write."""

import errno
import glob
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from socket import gethostname

from filelock import FileLock, Timeout

from src.config.errors import UserError

log = logging.getLogger(__name__)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of file systems without locks, such as some NFS and Lustre mounts."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, flush it and rename it: a reader sees the whole new file or the old one."""
    temporary = path.with_name(f".{path.name}.{gethostname()}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = str(path)  # not the temporary file
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files in a folder whose writers, processes of this machine, were killed."""
    for path in folder.glob(f".*.{glob.escape(gethostname())}.*.tmp"):
        pid = path.suffixes[-2][1:]
        if pid.isdecimal() and not _lives(int(pid)):
            path.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # the process belongs to somebody else
        return True
    return pid != os.getpid()  # this process is not writing, so an earlier one had its number


class Lock:
    """A file lock that at most one process holds; on a file system without locks all hold it, after a warning."""

    def __init__(self, path: Path, patience: float = -1):
        self.folder = path.parent
        self.lock = FileLock(path, timeout=patience, fallback_to_soft=False)

    def acquire(self) -> None:
        """Take the lock, or raise `Timeout` after `patience` seconds, if it is not negative."""
        try:
            self.lock.acquire()
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            _warn(self.folder)

    def release(self) -> None:
        """Release the lock, if it is held."""
        self.lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


@cache
def _warn(folder: Path) -> None:
    """Warn once for each folder, however often its locks are taken."""
    log.warning("%s: this file system does not support locks, so never start a run while it is already running", folder)


class FolderInUseError(UserError):
    """Another process holds the lock of a folder."""


@contextmanager
def locked(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Lock a folder for this process; the lock is released when the process ends, however it ends.

    Args:
        folder: an existing folder.
        patience: seconds to wait for another process to release it.

    Raises:
        FolderInUseError: another process holds it.
    """
    path = folder / ".lock"
    try:
        with Lock(path, patience):
            path.write_text(str(os.getpid()))
            yield
    except Timeout:
        raise FolderInUseError(f"{folder} is in use by process {path.read_text().strip() or 'unknown'}") from None


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Wait for other processes, then hold the lock of a file while it is read and rewritten."""
    with Lock(path.with_name(f".{path.name}.lock")):
        yield


def is_locked(folder: Path) -> bool:
    """Whether a process holds the folder. The check takes the lock for an instant: a concurrent attempt may fail."""
    path = folder / ".lock"
    try:
        if not path.exists():
            return False
        with Lock(path, patience=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False
