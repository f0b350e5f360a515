"""Ctrl-C and SIGTERM during a run."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich import get_console

from src.training.trainer import Trainer


@contextmanager
def stopping_on_signals(trainer: Trainer) -> Iterator[None]:
    """Ctrl-C or SIGTERM asks the trainer to save and stop after the current update; a second one stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    came = False

    def request(*_: Any) -> None:
        nonlocal came
        trainer.stop_requested = came = True
        end_at_the_next_signal()

    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    threading.Thread(target=_end_at_the_second, args=(readable,), daemon=True).start()
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    for number in previous:
        signal.signal(number, request)
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        os.close(writable)
        for number, handler in () if came else previous.items():
            signal.signal(number, handler)


def _end_at_the_second(readable: int) -> None:
    """End this process at the second signal, even if an update, which no handler interrupts, has begun before both."""
    with open(readable, "rb", buffering=0) as signals:
        signals.read(1)
        if second := signals.read(1):
            os._exit(128 + second[0])


def end_at_the_next_signal() -> None:
    """Let Ctrl-C and SIGTERM end this process at once, without a traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    get_console().show_cursor()  # which a progress bar hides
