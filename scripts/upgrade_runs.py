"""Upgrade the names and files of runs of version 0.1, so that sweeps and reports find them.

    python scripts/upgrade_runs.py outputs/runs outputs/compare

Each folder contains runs. Runs that are already upgraded, TensorBoard's files and all other files stay unchanged. A run
that cannot be upgraded keeps its name, with a warning.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone, whichever one is installed

from src.config.errors import UserError, in_one_line
from src.utils.console import CommandLine, printing


@printing()
def main() -> None:
    """The command."""
    parser = CommandLine(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a folder of runs")
    folders = parser.parse_args().folders
    with in_one_line():
        from src.running.upgrade import upgrade  # imports torch

        for folder in folders:
            if not folder.is_dir():
                raise UserError(f"{folder} is not a folder")
            for old, new in upgrade(folder).items():
                print(f"{folder}: {old} -> {new}", flush=True)


if __name__ == "__main__":
    main()
