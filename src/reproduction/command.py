"""The command `scripts/reproduce.py`."""

import argparse
from pathlib import Path

from rich import get_console

from src.config.errors import UserError
from src.config.paths import REFERENCE
from src.reproduction.base import Reproduction
from src.reproduction.reproduce import Budget, find, folders_of, reproductions, run
from src.results.runs import load_runs


def parser(description: str) -> argparse.ArgumentParser:
    """The arguments."""
    whole = argparse.ArgumentParser(
        prog="reproduce.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = whole.add_subparsers(
        dest="command", required=True, metavar="list | run | report | restore | readme | check"
    )
    commands.add_parser("list", help="every table and figure, and how many of its runs are there")
    for name, does in (
        ("run", "train what is missing, then report; the same command goes on where it was stopped"),
        ("report", "report the runs that are there"),
    ):
        command = commands.add_parser(name, help=does, description=does)
        command.add_argument("name", help="such as ba2016/table1")
        command.add_argument("--budget", choices=["quick", "full"], default="quick", help="default: quick")
        command.add_argument(
            "--output", type=Path, help="folder of the report (default: outputs/reports/<name>-<budget>)"
        )
        if name == "run":
            command.add_argument("overrides", nargs="*", help="further settings, such as seed=0,1")
    does = "put the committed results in the place of runs, so that `run` only trains what is missing"
    command = commands.add_parser("restore", help=does, description=does)
    command.add_argument("names", nargs="+", help="such as ba2016/table1")
    does = "write the tables of the README anew from the committed results"
    commands.add_parser("readme", help=does, description=does)
    does = "repeat the beginning of some recorded runs and compare with the committed results"
    command = commands.add_parser("check", help=does, description=does)
    command.add_argument("names", nargs="*", help="such as ba2016/table1 (default: all that are committed)")
    return whole


def run_command(arguments: argparse.Namespace) -> int:
    """Do what the arguments say; the exit status."""
    if arguments.command == "list":
        return _list()
    if arguments.command == "check":
        return _check(arguments.names)
    if arguments.command == "readme":
        from src.reproduction.readme import renew

        renew()
        return 0
    if arguments.command == "restore":
        return _restore(arguments.names)
    status = 0
    if arguments.command == "run":
        status = run(arguments.name, arguments.budget, arguments.overrides)
        if status == 130:
            return status
    return _report(arguments.name, arguments.budget, arguments.output) or status


def _list() -> int:
    for name, reproduction in reproductions().items():
        print(f"{name}\n    {reproduction.title}")
        print(f"    quick: {_progress(reproduction, 'quick')}; full: {_progress(reproduction, 'full')}", flush=True)
    return 0


def _progress(reproduction: Reproduction, budget: Budget) -> str:
    """How many runs have ended, and of how many that are known so far."""
    folders = set(folders_of(reproduction, budget).values())
    runs = [run for folder in folders if folder.exists() for run in load_runs(folder)]
    return f"{sum(run.ended for run in runs)} of {len(runs)} runs have ended" if runs else "not run"


def _report(name: str, budget: Budget, output: Path | None) -> int:
    from rich.markdown import Markdown

    from src.reproduction.report import make_report

    folder = output or Path("outputs") / "reports" / f"{name.replace('/', '-')}-{budget}"
    make_report(name, budget, folder)
    get_console().print(Markdown((folder / "report.md").read_text()))
    get_console().print(f"{folder}/report.md", markup=False, highlight=False, soft_wrap=True)
    return 0


def _restore(names: list[str]) -> int:
    from src.reproduction.record import RECORD, read_record, restore

    for name in names:
        sweeps = {folder.name: folder for folder in folders_of(find(name), "full").values()}
        recorded = read_record(REFERENCE / name / RECORD)
        made = restore(recorded, sweeps)
        print(f"{name}: {len(made)} of {len(recorded)} recorded runs restored, without their weights", flush=True)
    return 0


def _check(names: list[str]) -> int:
    from src.reproduction import readme
    from src.reproduction.check import check

    status = 0
    if not names:
        agrees = readme.holds()
        print(
            f"{'agrees' if agrees else 'DISAGREES'}  README.md  its tables follow from the committed results",
            flush=True,
        )
        status = 0 if agrees else 1
    names = names or [name for name in reproductions() if (REFERENCE / name).is_dir()]
    if not names:
        raise UserError("no result is committed")
    for name in names:
        for what, agrees in check(name):
            print(f"{'agrees' if agrees else 'DISAGREES'}  {name}  {what}", flush=True)
            status = status if agrees else 1
    return status
