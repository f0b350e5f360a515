"""Reproduce the papers' tables and figures, and check the committed results.

    python scripts/reproduce.py list
    python scripts/reproduce.py run ba2016/table1 --budget quick
    python scripts/reproduce.py report ba2016/table1 --budget quick
    python scripts/reproduce.py check

Runs and their budgets are in configs/experiment; the numbers and claims of the papers are in src/papers.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone, whichever one is installed

from src.config.errors import in_one_line
from src.reproduction.command import run_command
from src.utils.console import CommandLine, printing


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(description=__doc__)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="list | run | report | restore | renew | check"
    )

    def add(name: str, does: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=does, description=does)

    add("list", "every table and figure, and how many of its runs have ended")
    for name, does in (
        ("run", "train missing runs, then report; the same command resumes"),
        ("report", "report the existing runs"),
    ):
        command = add(name, does)
        command.add_argument("name", help="such as ba2016/table1")
        command.add_argument("--budget", choices=["quick", "full"], default="quick", help="default: quick")
        command.add_argument(
            "--output", type=Path, help="folder of the report (default: outputs/reports/<name>-<budget>)"
        )
        says = "further settings, such as seed=0,1" if name == "run" else "run.root or name, if the runs were given one"
        command.add_argument("overrides", nargs="*", default=[], help=says)
    command = add("restore", "copy committed results to the output folder, so that `run` only trains missing runs")
    command.add_argument("names", nargs="+", help="such as ba2016/table1")
    add(
        "renew",
        "regenerate the text and tables of the committed reports, and those of the README and the page of results",
    )
    command = add("check", "repeat the first updates of some recorded runs, and compare with the committed results")
    command.add_argument("names", nargs="*", help="such as ba2016/table1 (default: all committed)")
    options, others = parser.parse_known_args(arguments)
    if others:  # settings after --budget, which argparse does not recognize as overrides
        if options.command not in ("run", "report") or any(word.startswith("-") for word in others):
            parser.error(f"unrecognized arguments: {' '.join(others)}")
        options.overrides = [*options.overrides, *others]
    return options


@printing()
def main() -> None:
    """The command."""
    arguments = parse()
    with in_one_line():
        status = run_command(arguments)
    sys.exit(status)


if __name__ == "__main__":
    main()
