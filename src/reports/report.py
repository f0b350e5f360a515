"""The report on a folder of runs: tables, figures, and its page in TensorBoard."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich import get_console

from src.config.errors import UserError, choose
from src.config.paths import FIGURES
from src.config.schema import SearchSettings
from src.reports.hparams import update_hparams_page
from src.reports.summary import chosen_from_several, print_summary, selection_csv, write_summary
from src.results.runs import Run, load_runs, search_settings, varied_settings
from src.utils.files import write_whole


def write_report(
    folder: Path,
    search: SearchSettings | None = None,
    changes: Mapping[str, Any] | None = None,
    *,
    figures: bool = True,
) -> list[Run]:
    """Print and write all tables of a folder, draw its figures, and return its runs.

    Args:
        folder: of runs.
        search: which settings are searched and repeated; None to read it from the folder.
        changes: to `search`.
        figures: whether to draw them.
    """
    runs = load_runs(folder)
    if not runs:
        raise UserError(f"{folder}: contains no runs")
    _check(changes or {}, runs)
    search = replace(search or search_settings(folder, runs), **(changes or {}))
    print_summary(runs, search)
    write_summary(folder, runs, search)
    written = ["summary.md", "summary.csv"]
    if chosen_from_several(runs, search):
        write_whole(folder / "selection.csv", selection_csv(runs, search).encode())
        written.append("selection.csv")
    if figures:
        written += _draw(folder, runs, search)
    update_hparams_page(folder)
    shown = "\n".join(f"{folder}/{name}" for name in written)
    get_console().print(shown, markup=False, highlight=False, soft_wrap=True)
    return runs


def end_sweep(folder: Path, configurations: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Print and write the tables of a sweep, without figures, which take longer; return the status of each run.

    Args:
        folder: of the sweep.
        configurations: {run: flat settings} of its runs.
    """
    runs = load_runs(folder, configurations)
    search = search_settings(folder, runs)
    print_summary(runs, search)
    write_summary(folder, runs, search)
    update_hparams_page(folder)
    shown = (
        f"{folder}/summary.md, summary.csv; figures: python scripts/report.py {folder}\ntensorboard --logdir {folder}"
    )
    get_console().print(shown, markup=False, highlight=False, soft_wrap=True)
    return [run.status for run in runs]


def _draw(folder: Path, runs: Sequence[Run], search: SearchSettings) -> list[str]:
    """Write the figures, replacing those of an earlier report, and return their names."""
    from src.reports.sweep_figures import draw_all  # imports matplotlib, which takes half a second

    figures = draw_all(folder, runs, search)
    (folder / FIGURES).mkdir(exist_ok=True)
    names = {f"{name}.png" for name in figures}
    for path in (folder / FIGURES).glob("*.png"):
        if path.name not in names:
            path.unlink()
    for name, figure in figures.items():
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=200)
        write_whole(folder / FIGURES / f"{name}.png", png.getvalue())
    return [f"{FIGURES}/{name}" for name in sorted(names)]


def _check(changes: Mapping[str, list[str]], runs: Sequence[Run]) -> None:
    """Reject settings that do not exist."""
    known = {key for run in runs for key in run.settings}
    for purpose, keys in changes.items():
        for key in keys:
            if key not in known:
                legal = choose(key, set(varied_settings(runs)) or known)
                raise UserError(f"{purpose}: no run has a setting {key}{legal}")
