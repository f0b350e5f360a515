"""The tables of a folder of runs: selection, all runs, what did not finish; for a terminal, as Markdown, as CSV."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box, get_console
from rich.table import Column, Table

from src.reports.cells import label_of, selection
from src.reports.runs import NOT_SHOWN, varied_settings
from src.reports.tables import sweep_table, to_markdown
from src.utils.files import write_whole


def write_summary(folder: Path, runs: pd.DataFrame, search: Mapping[str, Any]) -> None:
    """Write `summary.csv`, a row per run, and `summary.md`: the selection, the runs, what did not finish."""
    table = run_table(runs)
    write_whole(folder / "summary.csv", table.to_csv(index=False, lineterminator="\n").encode())
    parts = [f"# {folder.name}\n"]
    if chosen_from_several(runs, search):
        cells = selection(runs, search)
        parts.append(f"## Selection\n\n{caption(cells, runs, search)}\n")
        across = pivot(cells, runs, search)
        if across is not None:
            parts.append(to_markdown(_records(across)) + "\n\\* see the notes below\n" * bool(cells["notes"].any()))
        parts.append(to_markdown(_records(readable(cells, runs, search))))
    parts.append(f"## Runs\n\n{to_markdown(_records(_plain(table)))}")
    unfinished = runs.loc[runs["status"] != "finished", ["status", "reason", "run"]]
    if len(unfinished):
        parts.append(f"## Not finished\n\n{to_markdown(_records(unfinished))}")
    write_whole(folder / "summary.md", "\n".join(parts).encode())


def print_summary(runs: pd.DataFrame, search: Mapping[str, Any]) -> None:
    """The selection where something is searched or repeated, else the runs; then what did not finish."""
    console = get_console()
    if chosen_from_several(runs, search):
        cells = selection(runs, search)
        table = readable(cells, runs, search, short=True)
        headers = (Column(name.replace("_", "_\n").replace("/", "/\n"), no_wrap=True) for name in table)
        shown = Table(*headers, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for record in _records(table):
            shown.add_row(*(_text(value) for value in record.values()))
        console.print(f"{caption(cells, runs, search)}\n", markup=False, highlight=False)
        console.print(shown)
        for line in _noted(cells, search):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    else:
        hidden = ["run", "reason", "selected_update", "num_parameters", "state_size"]
        hidden += ["updates"] if runs["updates"].nunique(dropna=False) == 1 else []
        console.print(sweep_table(_records(_plain(run_table(runs)).drop(columns=hidden, errors="ignore"))))
    for status, reason, run in runs.loc[runs["status"] != "finished", ["status", "reason", "run"]].itertuples(
        index=False
    ):
        line = f"{run}: {status}" + (f", {reason}" if reason else "")
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def run_table(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with the columns that readers want."""
    table = runs.drop(columns=list(NOT_SHOWN)).assign(seconds=runs["seconds"].round(1))
    return table.drop(columns=["reason"]) if not runs["reason"].any() else table


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """The runs with settings and seconds as texts, so that they have no more digits than they need."""
    keys = [*varied_settings(table), "seconds"]
    return table.assign(**{key: table[key].map(_text) for key in keys})


def chosen_from_several(runs: pd.DataFrame, search: Mapping[str, Any]) -> bool:
    """Whether anything that varies is searched or repeated."""
    return not {*search["grid"], *search["repeated"]}.isdisjoint(varied_settings(runs))


def caption(cells: pd.DataFrame, runs: pd.DataFrame, search: Mapping[str, Any]) -> str:
    """What the numbers of the selection table are."""
    keys = varied_settings(runs)
    grid, repeated = (", ".join(key for key in keys if key in search[name]) for name in ("grid", "repeated"))
    metrics = " and ".join(dict.fromkeys(cells["metric"]))
    text = metrics
    if grid:
        text += f" at the {grid} chosen on {metrics.replace('test/', 'val/')}"
    if repeated:
        text += f", mean ± standard deviation over n finished runs ({repeated})"
    if grid:
        text += ". Over the grid: minimum / median / maximum of the validation objective"
    if grid and repeated and search.get("two_stage"):
        text += f". Two-stage search: chosen with the first {repeated} only, then run with all"
    return text + "."


def readable(
    cells: pd.DataFrame, runs: pd.DataFrame, search: Mapping[str, Any], *, short: bool = False
) -> pd.DataFrame:
    """The selection as its readers see it, a row per cell.

    Args:
        cells: from `selection`.
        runs: that they were selected from.
        search: what the settings that vary are for.
        short: narrow, for a terminal, and without the notes.
    """
    keys = [key for key in cells.columns[: cells.columns.get_loc("metric")] if cells[key].notna().any()]
    tails = [key.rpartition(".")[2] for key in keys]
    headers = dict(zip(keys, tails, strict=True)) if short and len(set(tails)) == len(tails) else {}
    table = cells[keys].map(_text).rename(columns=headers)
    metric = " or ".join(dict.fromkeys(cells["metric"]))
    table[metric] = [plus_minus(mean, sd) for mean, sd in zip(cells["mean"], cells["sd"], strict=True)]
    table["n"] = cells["n"]
    if any(key in search["grid"] for key in varied_settings(runs)):
        spread = cells[["grid_min", "grid_median", "grid_max"]].itertuples(index=False)
        header = "over the grid" if short else f"{metric.replace('test/', 'val/')} over the grid (min / median / max)"
        table[header] = [" / ".join(_significant(value) for value in row) for row in spread]
        if not short:
            table["grid points"] = cells["points"]
    if cells["notes"].any() and not short:
        table["notes"] = cells["notes"]
    return table


def _noted(cells: pd.DataFrame, search: Mapping[str, Any]) -> list[str]:
    """The notes of the cells, each with its cell."""
    keys = [key for key in cells.columns[: cells.columns.get_loc("metric")] if key not in search["grid"]]
    noted = cells[cells["notes"] != ""]
    lines = []
    for _, row in noted.iterrows():
        settings = label_of([(key, row[key]) for key in keys if pd.notna(row[key])])
        lines.append(f"{settings}: {row['notes']}" if settings else row["notes"])
    return lines


def pivot(cells: pd.DataFrame, runs: pd.DataFrame, search: Mapping[str, Any]) -> pd.DataFrame | None:
    """The means with the settings of `search.columns` across; None if there are none among the compared ones."""
    compared = [key for key in cells.columns[: cells.columns.get_loc("metric")] if key not in search["grid"]]
    across = [key for key in search["columns"] if key in compared]
    down = [key for key in compared if key not in across]
    if not across:
        return None
    text = cells.assign(
        shown=[
            plus_minus(mean, sd) + " *" * bool(notes)
            for mean, sd, notes in zip(cells["mean"], cells["sd"], cells["notes"], strict=True)
        ]
    )
    text[down] = text[down].map(_text)
    heads = [label_of([(key, row[key]) for key in across]) for _, row in text.iterrows()]
    text = text.assign(head=heads)
    wide = text.pivot_table("shown", down or (lambda _: ""), "head", aggfunc=" and ".join, sort=False)
    return wide[list(dict.fromkeys(heads))].rename_axis(columns=None).reset_index()


def plus_minus(mean: float, sd: float) -> str:
    """Mean and standard deviation, to two digits of the latter or four of the former: "0.0108 ± 0.0011"."""
    if not math.isfinite(mean):
        return "–"
    if not math.isfinite(sd) or sd == 0:
        return f"{mean:.4g}" + (" ± 0" if sd == 0 else "")
    if abs(mean) >= 1e5:
        return f"{mean:.3g} ± {sd:.2g}"
    digits = 1 - math.floor(math.log10(sd))
    if mean:
        digits = min(digits, 3 - math.floor(math.log10(abs(mean))))
    digits = min(max(digits, 0), 8)
    return f"{mean:.{digits}f} ± {sd:.{digits}f}"


def _significant(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "–"


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries, None where there is nothing."""
    plain = table.astype(object)
    return plain.where(plain.notna(), None).to_dict("records")


def _text(value: Any) -> str:
    return "" if pd.isna(value) else f"{value:g}" if isinstance(value, float) else str(value)
