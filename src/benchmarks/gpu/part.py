"""One part of the check, as a process of its own: python -m src.benchmarks.gpu.part NAME FILE DEVICE [--tiny]."""

import argparse
import importlib
import logging
import os
import signal
import sys
import time
from pathlib import Path

from src.benchmarks.gpu.rows import Rows


def hangs(rows: Rows, device: str, tiny: bool) -> None:
    """For the tests of the check."""
    rows.add("before", "it hangs")
    time.sleep(1000)


def crashes(rows: Rows, device: str, tiny: bool) -> None:
    """For the tests of the check."""
    rows.add("before", "it crashes")
    os.kill(os.getpid(), signal.SIGSEGV)


PARTS = {
    "card": "correctness.card",
    "kernels": "correctness.kernels",
    "models": "correctness.every_model",
    "graphs": "recorded.graphs",
    "resume": "correctness.resumed",
    "compile": "compiled.every_model",
    "sanitizer": "correctness.sanitized",
    "speed": "speed.one_run",
    "speed_of_models": "speed.every_model",
    "populations": "speed.populations",
    "sweep": "speed.sweep",
    "hangs": "part.hangs",
    "crashes": "part.crashes",
}
"""What does each part, imported when it is done."""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=PARTS)
    parser.add_argument("file", type=Path)
    parser.add_argument("device")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout)
    module, function = PARTS[given.name].split(".")
    do = getattr(importlib.import_module(f"src.benchmarks.gpu.{module}"), function)
    do(Rows(given.name, given.file, judge=given.device == "cuda"), given.device, given.tiny)


if __name__ == "__main__":
    main()
