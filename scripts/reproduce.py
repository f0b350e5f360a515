"""Reproduce the papers' tables and figures, and check the committed results.

    python scripts/reproduce.py list
    python scripts/reproduce.py run ba2016/table1 --budget quick
    python scripts/reproduce.py report ba2016/table1 --budget quick
    python scripts/reproduce.py check

Runs and their budgets are in configs/experiment; what the papers printed and claimed in src/papers.
"""

import sys

from src.config.errors import in_one_line
from src.reproduction.command import parser, run_command


def main() -> None:
    """The command."""
    arguments = parser(__doc__ or "").parse_args()
    with in_one_line():
        status = run_command(arguments)
    sys.exit(status)


if __name__ == "__main__":
    main()
