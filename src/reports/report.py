"""The report on a folder of runs: tables, figures, and its page in TensorBoard."""

import io
import shlex
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
) -> None:
    """Print and write all tables of a folder, and draw its figures.

    Without `search`, which settings are searched and repeated is read from the folder; `changes` override it.
    """
    runs = load_runs(folder)
    if not runs:
        raise UserError(f"{folder}: contains no runs")
    _check(changes or {}, runs)
    search = replace(search or search_settings(folder, runs), **(changes or {}))
    write_summary(folder, runs, search)
    written = ["summary.md", "summary.csv"]
    if chosen_from_several(runs, search):
        write_whole(folder / "selection.csv", selection_csv(runs, search).encode())
        written.append("selection.csv")
    if figures:
        written += _draw(folder, runs, search)
    update_hparams_page(folder)
    print_summary(runs, search)
    shown = "\n".join(f"{folder}/{name}" for name in written)
    get_console().print(shown, markup=False, highlight=False, soft_wrap=True)


def end_sweep(folder: Path, configurations: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Print and write the tables of a sweep, without figures, which take longer; return the status of each run.

    `configurations` are {run: flat settings}.
    """
    runs = load_runs(folder, configurations)
    search = search_settings(folder, runs)
    write_summary(folder, runs, search)
    update_hparams_page(folder)
    print_summary(runs, search)
    quoted = shlex.quote(str(folder))
    shown = (
        f"{folder}/summary.md, summary.csv; figures: python scripts/report.py {quoted}\ntensorboard --logdir {quoted}"
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
    """Reject settings that do not exist, which would be ignored."""
    known = {key for run in runs for key in run.settings}
    for purpose, keys in changes.items():
        for key in keys:
            if key not in known:
                legal = choose(key, set(varied_settings(runs)) or known)
                raise UserError(f"{purpose}: no run has a setting {key}{legal}")
