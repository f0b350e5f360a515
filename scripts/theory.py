"""Checks every claim of the theory: see `python scripts/theory.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone, whichever one is installed

from src.theory.run import main

if __name__ == "__main__":
    main()
