"""Checks and measures the project on a GPU: see `python scripts/gpu_check.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone, whichever one is installed

from src.benchmarks.gpu.check import main

if __name__ == "__main__":
    main()
