"""Ctrl-C and SIGTERM during a run."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from src.training.trainer import Trainer


@contextmanager
def stopping_on_signals(trainer: Trainer) -> Iterator[None]:
    """Ctrl-C or SIGTERM asks the trainer to save and stop after the current update; a second one stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous: dict[signal.Signals, Any] = {}

    def request(number: int, frame: Any) -> None:
        trainer.stop_requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, request)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
