"""One part of the check, as a process of its own: python -m src.benchmarks.gpu.part FUNCTION FILE DEVICE [--tiny].

The file, for its findings, has the name of the part.
"""

import argparse
import importlib
import logging
import sys
from pathlib import Path

from src.benchmarks.gpu.rows import Rows


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("function")
    parser.add_argument("file", type=Path)
    parser.add_argument("device")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout)
    module, _, name = given.function.rpartition(".")
    do = getattr(importlib.import_module(module), name)
    do(Rows(given.file.stem, given.file, judge=given.device == "cuda"), given.device, given.tiny)


if __name__ == "__main__":
    main()
