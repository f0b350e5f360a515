"""Checks every claim of the theory: see `python scripts/theory.py --help`."""

from src.theory.run import main

if __name__ == "__main__":
    main()
