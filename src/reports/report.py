"""The report on a folder of runs: tables, figures, and the HParams page in TensorBoard."""

import io
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich import get_console

from src.config.errors import UserError, choose
from src.config.paths import FIGURES, RESULT, STORED
from src.config.schema import SearchSettings
from src.reports.hparams import update_hparams_page
from src.reports.html import html_report
from src.reports.summary import chosen_from_several, print_summary, sections, selection_csv, write_summary
from src.results.runs import Run, each_once, load_runs, search_settings, varied_settings
from src.utils.files import write_whole

HTML = "report.html"
OF_REPORTS = ("learning_curves*.png", "against_*.png")
"""Patterns of the figures of a report, among the files in `figures/`."""


def write_report(
    folder: Path,
    search: SearchSettings | None = None,
    changes: Mapping[str, Any] | None = None,
    *,
    figures: bool = True,
) -> None:
    """Print and write all tables of a folder, and draw its figures.

    Without `search`, the settings that are searched and repeated are read from the folder; `changes` override them.
    """
    runs = _runs_in(folder)
    _write(folder, runs, search or search_settings(folder, runs), changes or {}, folder, figures)
    update_hparams_page(folder)


def write_joint_report(
    given: Sequence[tuple[Path, SearchSettings | None]],
    changes: Mapping[str, Any] | None = None,
    *,
    figures: bool = True,
) -> Path:
    """Write one report on several folders to a folder beside them, which is returned: `outputs/one+other`.

    A setting that is searched or repeated in one folder is so in the report; a run in several folders counts once.
    """
    folders = [folder for folder, _ in given]
    for folder in folders:
        others = [other.resolve() for other in folders if other is not folder]
        if not {folder.resolve(), *folder.resolve().parents}.isdisjoint(others):
            raise UserError(f"{folder}: given twice, or inside another of the given folders")
    root = Path(os.path.commonpath(list(map(os.path.abspath, folders))))
    found: list[Run] = []
    searches = []
    for folder, search in given:
        runs = _runs_in(folder)
        inside = Path(os.path.abspath(folder)).relative_to(root)
        found += [replace(run, name=(inside / run.name).as_posix()) for run in runs]
        searches.append(search or search_settings(folder, runs))
    runs = each_once(found)
    here = Path.cwd()
    beside = root.relative_to(here) if root.is_relative_to(here) else root
    to = beside / "+".join(dict.fromkeys(os.path.basename(os.path.abspath(folder)) for folder in folders))
    if to.exists() and load_runs(to):
        raise UserError(f"{to}: contains runs; the report on several folders would be written there")
    to.mkdir(exist_ok=True)
    _write(root, runs, _joint(searches), changes or {}, to, figures)
    return to


def _runs_in(folder: Path) -> list[Run]:
    """The runs of a folder; raises `UserError` if there are none."""
    runs = load_runs(folder)
    if not runs and ((folder / RESULT).exists() or (folder / STORED).exists()):
        raise UserError(f"{folder}: is a single run; give the folder that contains it, {folder.parent}")
    if not runs:
        raise UserError(f"{folder}: contains no runs")
    return runs


def _joint(searches: Sequence[SearchSettings]) -> SearchSettings:
    """Join search settings: what any of them searches is searched, what any repeats is repeated, the rest is compared.

    A setting that one of them searches and another repeats is searched.
    """
    grid, repeated, columns = (
        list(dict.fromkeys(key for search in searches for key in getattr(search, name)))
        for name in ("grid", "repeated", "columns")
    )
    repeated = [key for key in repeated if key not in grid]
    columns = [key for key in columns if key not in (*grid, *repeated)]
    two_stage = all(search.two_stage for search in searches)
    return SearchSettings(grid=grid, repeated=repeated, columns=columns, two_stage=two_stage)


def _write(
    folder: Path, runs: Sequence[Run], search: SearchSettings, changes: Mapping[str, Any], to: Path, figures: bool
) -> None:
    """Print the report on the runs in `folder`, and write it to the folder `to`."""
    _check(changes, runs)
    search = replace(search, **changes)
    search.check_roles()
    write_summary(to, runs, search)
    written = ["summary.md", "summary.csv"]
    if chosen_from_several(runs, search):
        write_whole(to / "selection.csv", selection_csv(runs, search).encode())
        written.append("selection.csv")
    drawn = _draw(folder, runs, search, to) if figures else {}
    written += [f"{FIGURES}/{path.name}" for path in drawn.values()]
    write_whole(to / HTML, html_report(to.resolve().name, runs, sections(runs, search), drawn).encode())
    print_summary(runs, search)
    shown = "\n".join(f"{to}/{name}" for name in [*written, HTML])
    get_console().print(shown, markup=False, highlight=False, soft_wrap=True)


def end_sweep(folder: Path, configurations: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Print and write the tables of a sweep, without the slower figures; return the status of each run.

    `configurations` are {run: flat settings}.
    """
    runs = load_runs(folder, configurations)
    search = search_settings(folder, runs)
    write_summary(folder, runs, search)
    update_hparams_page(folder)
    print_summary(runs, search)
    quoted = shlex.quote(str(folder))
    shown = (
        f"{folder}/summary.md, summary.csv; figures: python scripts/report.py {quoted}\n"
        f"curves in TensorBoard: python scripts/curves.py {quoted}"
    )
    get_console().print(shown, markup=False, highlight=False, soft_wrap=True)
    return [run.status for run in runs]


def _draw(folder: Path, runs: Sequence[Run], search: SearchSettings, to: Path) -> dict[str, Path]:
    """Write the figures of runs in `folder`, replacing those of an earlier report, and return their files."""
    from src.reports.sweep_figures import draw_all  # imports matplotlib, which takes half a second

    figures = draw_all(folder, runs, search)
    (to / FIGURES).mkdir(exist_ok=True)
    paths = {name: to / FIGURES / f"{name}.png" for name in sorted(figures)}
    for pattern in OF_REPORTS:
        for path in (to / FIGURES).glob(pattern):
            if path not in paths.values():
                path.unlink()
    for name, path in paths.items():
        png = io.BytesIO()
        figures[name].savefig(png, format="png", dpi=200)
        write_whole(path, png.getvalue())
    return paths


def _check(changes: Mapping[str, list[str]], runs: Sequence[Run]) -> None:
    """Reject settings that do not exist, which would otherwise be ignored."""
    known = {key for run in runs for key in run.settings}
    for purpose, keys in changes.items():
        for key in keys:
            if key not in known:
                legal = choose(key, set(varied_settings(runs)) or known)
                raise UserError(f"--{purpose} {key}: no run has this setting{legal}")
