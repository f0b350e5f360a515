"""Tables and figures of a folder of runs, at any time, even while they are running.

    python scripts/report.py outputs/compare
    python scripts/report.py ba2016/table1                      the folder of an experiment
    python scripts/report.py outputs/one outputs/other          of several folders at once, into outputs/one+other
    python scripts/report.py outputs/compare --columns model.hidden_size --grid optimizer.lr model.decay

It writes to the folder: report.html (everything in one file, to send or print), summary.md (the selection, all runs,
unfinished runs), summary.csv (a row per run), selection.csv (a row per compared cell) and figures/*.png, which
TensorBoard shows too. The options override which settings are searched, repeated and shown across columns, as set
by the sweep or the experiment.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone, whichever one is installed

from src.config.compose import compose
from src.config.errors import UserError, choose, in_one_line
from src.config.paths import CONFIGS, folder_of_runs
from src.config.schema import SearchSettings
from src.utils.console import CommandLine, printing

EXPERIMENTS = CONFIGS / "experiment"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(description=__doc__)
    parser.add_argument("runs", nargs="+", help="folders of runs, or experiments in configs/experiment")
    parser.add_argument("--grid", nargs="*", metavar="KEY", help="settings chosen on the validation set")
    parser.add_argument("--repeated", nargs="*", metavar="KEY", help="settings over which means are taken")
    parser.add_argument("--columns", nargs="*", metavar="KEY", help="compared settings across columns and panels")
    parser.add_argument("--no-figures", action="store_true", help="tables only")
    return parser.parse_args(arguments)


def folder_of(name: str) -> tuple[Path, SearchSettings | None]:
    """The folder that a name stands for, and its search settings if the name is that of an experiment."""
    if not name:
        raise UserError("'' is neither a folder nor an experiment; the current folder is .")
    if Path(name).is_dir():
        return Path(name), None
    known = [path.relative_to(EXPERIMENTS).with_suffix("").as_posix() for path in EXPERIMENTS.rglob("*.yaml")]
    if name not in known:
        raise UserError(f"{name} is neither a folder nor an experiment{choose(name, known)}")

    config = compose(f"experiment={name}")
    folder = folder_of_runs(config)
    if not folder.is_dir():
        raise UserError(f"{name} has no runs in {folder} yet; start them with python -m src.train experiment={name}")
    return folder, SearchSettings.of(config)


@printing()
def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    options = parse(arguments)
    with in_one_line():
        found = [folder_of(name) for name in options.runs]

        from src.reports.report import write_joint_report, write_report

        given = {name: getattr(options, name) for name in ("grid", "repeated", "columns")}
        changes = {name: keys for name, keys in given.items() if keys is not None}
        if len(found) > 1:
            write_joint_report(found, changes, figures=not options.no_figures)
        else:
            write_report(*found[0], changes, figures=not options.no_figures)


if __name__ == "__main__":
    main()
