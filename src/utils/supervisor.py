"""Lets a command that does runs in its own process survive a run that kills the process.

An abort in compiled code or a lack of memory ends a process without an exception. So the command works in a child; the
parent waits, and starts another child if the first one dies. The new child records the death and does what is left.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

from src.config.errors import UserError

ACCIDENTS = (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGKILL, signal.SIGSEGV)
"""Signals that end a process by accident; all others are sent in order to end the command."""


class Death(NamedTuple):
    """An earlier process of this command, and how it died."""

    pid: int
    reason: str


_deaths: list[Death] = []
_explained: set[Death] = set()


def supervise() -> None:
    """Continue in a child process, or in another if it dies; the parent waits, forwards signals and never returns.

    Call it while there is a single thread and nothing has been imported that does not survive a fork.
    """
    while True:
        readable, writable = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writable)
            threading.Thread(target=_end_with_the_parent, args=(readable,), daemon=True).start()
            return
        os.close(readable)
        status = _wait_for(child)
        os.close(writable)
        if -status not in ACCIDENTS:
            sys.exit(status if status >= 0 else 128 - status)
        why = ", perhaps for lack of memory" if -status in (signal.SIGABRT, signal.SIGKILL) else ""
        _deaths.append(Death(child, f"its process died ({signal.strsignal(-status)}){why}"))


def _wait_for(child: int) -> int:
    """The exit status of a process, or minus the signal that ended it."""

    def pass_on(number: int, _: Any) -> None:
        os.kill(child, number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for number, handler in previous.items():
        signal.signal(number, handler)
    return status


def _end_with_the_parent(readable: int) -> None:
    os.read(readable, 1)
    os._exit(1)


def holder(folder: Path) -> int | None:
    """The id of the process that was the last to hold a folder, if there is one."""
    try:
        return int((folder / ".lock").read_text())
    except (OSError, ValueError):
        return None


def held(folder: Path) -> Death | None:
    """The earlier process of this command that was the last to hold a folder, if there is one."""
    pid = holder(folder)
    return next((death for death in _deaths if death.pid == pid), None)


def death_in(folder: Path, result: str) -> Death | None:
    """The earlier process of this command that died in the run of a folder before it wrote the result, if any."""
    death, path = held(folder), folder / result
    if death is None or (path.exists() and path.stat().st_mtime_ns >= (folder / ".lock").stat().st_mtime_ns):
        return None
    _explained.add(death)
    return death


def check_explained() -> None:
    """Raise `UserError` if the last process of this command did not die in a run, since the next one would die too."""
    if _deaths and _deaths[-1] not in _explained:
        raise UserError(f"{_deaths[-1].reason}, while no run was in progress; run the same command again to resume")
