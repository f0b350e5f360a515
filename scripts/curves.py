"""TensorBoard on a folder of runs, with a name for each run that says what differs between them.

    python scripts/curves.py outputs/compare                    "lstm, lr 0.001, seed 0"
    python scripts/curves.py outputs/compare --port 6007        further options go to TensorBoard

`tensorboard --logdir outputs/compare` shows the same under the names of the folders.
"""

import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone, whichever one is installed

from src.config.errors import UserError, in_one_line
from src.reports.short_names import link_runs
from src.results.runs import run_folders
from src.utils.console import CommandLine

SECONDS = 10
"""Seconds between searches for added runs."""


def main() -> None:
    """The command."""
    parser = CommandLine(description=__doc__, usage="%(prog)s [-h] folder [options of TensorBoard]")
    parser.add_argument("folder", type=Path, help="the folder that contains the runs")
    folder, of_tensorboard = parser.parse_args(sys.argv[1:2]).folder, sys.argv[2:]
    with in_one_line(), tempfile.TemporaryDirectory() as name:
        links = Path(name)
        if not (folder.is_dir() and link_runs(folder, links)):
            raise UserError(f"{folder}: contains no runs")

        from tensorboard.program import TensorBoard

        server = TensorBoard()
        server.configure(("tensorboard", "--logdir", name, *of_tensorboard))
        ended = threading.Event()
        thread = threading.Thread(target=_follow, args=(folder, links, ended))
        thread.start()
        try:
            sys.exit(server.main())
        finally:
            ended.set()
            thread.join()


def _follow(folder: Path, links: Path, ended: threading.Event) -> None:
    """Link runs that are added to the folder, until `ended` is set."""
    seen: set[str] = set()
    while not ended.wait(SECONDS):
        if (found := set(run_folders(folder))) != seen:
            seen = found
            link_runs(folder, links)


if __name__ == "__main__":
    main()
