"""Ctrl-C and SIGTERM during a run."""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from select import select
from typing import Any

from rich import get_console

from src.training.trainer import Trainer

ONE_REQUEST = 0.3
"""Signals within this many seconds count as one: `timeout`, for example, sends one to a process and to its group."""
_last: signal.Signals = signal.SIGINT


def exit_status() -> int:
    """The exit status of a command whose run was stopped by a signal."""
    return 128 + _last


@contextmanager
def stopping_on_signals(*trainers: Trainer) -> Iterator[list[signal.Signals]]:
    """Make Ctrl-C or SIGTERM ask the trainers to save and stop after the current update; a second one stops at once.

    Yields a list of the signals received: a trainer that has done its last update does not react to them.
    """
    came: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def request(number: int, _: Any) -> None:
        global _last
        _last = signal.Signals(number)
        came.append(_last)
        for trainer in trainers:
            trainer.stop_requested = True

    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    watching = threading.Thread(target=_end_at_the_second, args=(readable,), daemon=True)
    watching.start()
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        signal.set_wakeup_fd(-1)
        os.close(writable)
        watching.join()  # until all signals of one request have arrived
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if came else handler)


@contextmanager
def passing_on(interrupt_others: Callable[[], None]) -> Iterator[None]:
    """Make Ctrl-C or SIGTERM interrupt other processes, once per request, and the first time also this process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    last = -math.inf

    def stop(number: int, _: Any) -> None:
        global _last
        nonlocal last
        since, last = time.monotonic() - last, time.monotonic()
        if since > ONE_REQUEST:
            _last = signal.Signals(number)
            interrupt_others()
        if since == math.inf:
            raise KeyboardInterrupt(exit_status())

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def interrupt(pids: Iterable[int]) -> None:
    """Send SIGINT to processes, which may have ended already."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)


def _end_at_the_second(readable: int) -> None:
    """End this process at the second request, even if both arrive during one update, which no handler can interrupt."""
    with open(readable, "rb", buffering=0) as signals:
        if not signals.read(1):
            return
        time.sleep(ONE_REQUEST)
        while select([signals], [], [], 0)[0]:
            if not signals.read(1024):
                return
        if second := signals.read(1):
            get_console().show_cursor()  # a progress bar hides it
            os._exit(128 + second[0])
