"""Makes workers end with the sweep that started them, however it ends.

A worker whose parent was killed would carry on with the queued runs and hold their locks. So the parent holds a lock
for its lifetime, which the operating system releases even after kill -9, and every worker waits for that lock in a
thread. The lock is one byte of a file, at a random offset: several sweeps can share the folder.
"""

import fcntl
import os
import secrets
import threading
from pathlib import Path

VARIABLE = "FASTWEIGHTS_SWEEP"
_followed: set[str] = set()
_held: list[int] = []


def hold(folder: Path) -> None:
    """Hold the lock until this process ends, and announce it to the workers started from now on; earlier ones end.

    On a file system without locks nothing is announced.
    """
    release()
    offset = secrets.randbelow(2**62)
    path = (folder / ".sweep.lock").absolute()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
    except OSError:
        release()
        return
    _held.append(descriptor)
    os.environ[VARIABLE] = f"{os.getpid()}:{offset}:{path}"


def release() -> None:
    """End the workers started so far; those started from now on outlive this process."""
    while _held:
        os.close(_held.pop())
    os.environ.pop(VARIABLE, None)


def in_worker() -> bool:
    """Whether this process was started by another one to do runs of its sweep."""
    return not os.environ.get(VARIABLE, f"{os.getpid()}:").startswith(f"{os.getpid()}:")


def follow() -> None:
    """In a worker: end this process as soon as its sweep has ended."""
    told = os.environ.get(VARIABLE, "")
    if not in_worker() or told in _followed:
        return
    _followed.add(told)
    _, offset, path = told.split(":", 2)
    threading.Thread(target=_end_with, args=(path, int(offset)), daemon=True).start()


def _end_with(path: str, offset: int) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
        fcntl.lockf(descriptor, fcntl.LOCK_SH, 1, offset)
    except FileNotFoundError:  # the folder has been removed, so the sweep is over
        pass
    except OSError:
        return
    os._exit(1)
