"""The commands of `scripts/reproduce.py`."""

import argparse
from itertools import chain
from pathlib import Path

from rich import get_console

from src.config.errors import UserError
from src.config.paths import REFERENCE
from src.reproduction.base import Reproduction
from src.reproduction.reproduce import (
    OF_QUICK,
    Budget,
    experiments_of,
    find,
    folders_of,
    reproductions,
    run,
    runs_of,
)


def run_command(arguments: argparse.Namespace) -> int:
    """Run a command, and return the exit status."""
    if arguments.command == "list":
        return _list()
    if arguments.command == "check":
        return _check(arguments.names)
    if arguments.command == "renew":
        return _renew()
    if arguments.command == "restore":
        return _restore(arguments.names)
    status = 0
    if arguments.command == "run":
        status = run(arguments.name, arguments.budget, arguments.overrides)
        if status == 130:
            return status
    return _report(arguments.name, arguments.budget, arguments.output, arguments.overrides) or status


def _list() -> int:
    for name, reproduction in reproductions().items():
        print(f"{name}\n    {reproduction.title}")
        full = folders_of(reproduction, "full")  # composed once for both budgets: composing takes most of the time
        quick = {key: full[key].with_name(full[key].name + OF_QUICK) for key in experiments_of(reproduction, "quick")}
        in_quick, in_full = _progress(reproduction, "quick", quick), _progress(reproduction, "full", full)
        print(f"    quick: {in_quick}; full: {in_full}", flush=True)
    return 0


def _progress(reproduction: Reproduction, budget: Budget, folders: dict[str, Path]) -> str:
    """How many of the runs known so far have ended."""
    found = [runs_of(reproduction, name, budget, folder)[0] for name, folder in folders.items() if folder.exists()]
    runs = list(chain.from_iterable(found))
    return f"{sum(run.ended for run in runs)} of {len(runs)} runs have ended" if runs else "not run"


def _report(name: str, budget: Budget, output: Path | None, overrides: list[str]) -> int:
    from rich.markdown import Markdown

    from src.reproduction.report import make_report

    folder = output or Path("outputs") / "reports" / f"{name.replace('/', '-')}-{budget}"
    make_report(name, budget, folder, overrides)
    get_console().print(Markdown((folder / "report.md").read_text()))
    get_console().print(f"{folder}/report.md", markup=False, highlight=False, soft_wrap=True)
    return 0


def _restore(names: list[str]) -> int:
    from src.reproduction.record import RECORD, read_record, restore

    for name in names:
        sweeps = {folder.name: folder for folder in folders_of(find(name), "full").values()}
        recorded = read_record(REFERENCE / name / RECORD)
        new = restore(recorded, sweeps)
        print(f"{name}: {len(new)} of {len(recorded)} recorded runs restored, without their weights", flush=True)
    return 0


def _committed() -> list[str]:
    return [name for name in reproductions() if (REFERENCE / name).is_dir()]


def _renew() -> int:
    from src.reproduction.readme import renew
    from src.reproduction.report import write_derived_files

    for name in _committed():
        write_derived_files(name, REFERENCE / name)
    renew()
    return 0


def _check(names: list[str]) -> int:
    from src.reproduction.check import check
    from src.reproduction.readme import checked_pages

    checked = names or _committed()
    if not checked:
        raise UserError("there are no committed results to check")
    found = ((name, *one) for name in checked for one in check(name))
    what_pages_do = "its tables follow from the committed results"
    pages = [] if names else [(page, what_pages_do, agrees) for page, agrees in checked_pages()]
    status = 0
    for name, what, agrees in chain(pages, found):
        print(f"{'agrees' if agrees else 'DISAGREES'}  {name}  {what}", flush=True)
        status = status if agrees else 1
    return status
