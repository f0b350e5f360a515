"""Workers end with the sweep that started them, however it ends.

A worker whose parent was killed would go on with the queued runs and hold their locks. So the parent holds a lock for
as long as it lives, which the kernel lets go of even after kill -9, and every worker waits for that lock in a thread.
The lock is one byte of a file, at a random place: several sweeps may share the folder.
"""

import fcntl
import os
import secrets
import threading
from pathlib import Path

VARIABLE = "FASTWEIGHTS_SWEEP"
_followed: set[str] = set()


def hold(folder: Path) -> None:
    """Hold the lock until this process ends, and tell the workers that it will start of it.

    On a file system without locks the workers are not told.
    """
    place = secrets.randbelow(2**62)
    path = (folder / ".sweep.lock").absolute()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except OSError:
        release()
        return
    os.environ[VARIABLE] = f"{os.getpid()}:{place}:{path}"


def release() -> None:
    """Let workers that are yet to be started live on without this process."""
    os.environ.pop(VARIABLE, None)


def in_worker() -> bool:
    """Whether another process started this one to do runs of its sweep."""
    return not os.environ.get(VARIABLE, f"{os.getpid()}:").startswith(f"{os.getpid()}:")


def follow() -> None:
    """In a worker: end this process as soon as its sweep has ended."""
    told = os.environ.get(VARIABLE, "")
    if not in_worker() or told in _followed:
        return
    _followed.add(told)
    _, place, path = told.split(":", 2)
    threading.Thread(target=_end_with, args=(path, int(place)), daemon=True).start()


def _end_with(path: str, place: int) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
        fcntl.lockf(descriptor, fcntl.LOCK_SH, 1, place)
    except OSError:
        return
    os._exit(1)
