"""Tables of a folder of runs (selection, all runs, unfinished runs) for the terminal, as Markdown and as CSV."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich import get_console

from src.config.schema import SearchSettings
from src.config.settings import label_of
from src.reports.tables import escaped, sweep_table, to_csv, to_markdown
from src.results.runs import Run, varied_settings
from src.results.selection import Summary, cells, summarize
from src.utils.console import print_table
from src.utils.files import write_whole

Row = dict[str, Any]


class Section(NamedTuple):
    """A section of a summary."""

    title: str
    text: str
    tables: list[list[Row]]
    remark: str = ""
    """Text below the first table."""


def sections(runs: Sequence[Run], search: SearchSettings) -> list[Section]:
    """The sections of a summary: selection, runs, and unfinished runs."""
    parts = []
    if chosen_from_several(runs, search):
        summaries = select(runs, search)
        tables, remark = [selection_rows(summaries, search)], ""
        across = pivot(summaries, search)
        if across is not None:
            tables.insert(0, across)
            remark = "* see the notes below" if any(summary.notes for summary in summaries) else ""
        parts.append(Section("Selection", caption(summaries, runs, search), tables, remark))
    parts.append(Section("Runs", "", [_short(run_rows(runs), runs)]))
    unfinished = [{"status": run.status, "reason": run.reason, "run": run.name} for run in runs if not run.finished]
    return [*parts, Section("Not finished", "", [unfinished])] if unfinished else parts


def write_summary(folder: Path, runs: Sequence[Run], search: SearchSettings) -> None:
    """Write `summary.csv`, with one row per run, and `summary.md`."""
    write_whole(folder / "summary.csv", to_csv(run_rows(runs)).encode())
    parts = [f"# {escaped(folder.resolve().name)}\n"]
    if note := common_note(runs):
        parts.append(f"{escaped(note)}\n")
    for title, text, (first, *others), remark in sections(runs, search):
        head = f"## {title}\n\n" + (f"{text}\n\n" if text else "")
        parts.append(head + to_markdown(first) + (f"\n{escaped(remark)}\n".replace("*", "\\*") if remark else ""))
        parts += map(to_markdown, others)
    write_whole(folder / "summary.md", "\n".join(parts).encode())


def common_note(runs: Sequence[Run]) -> str:
    """The note that all runs with a note share, else ""; different notes get a column in the table of runs."""
    notes = {run.note for run in runs if run.note}
    return notes.pop() if len(notes) == 1 else ""


def print_summary(runs: Sequence[Run], search: SearchSettings) -> None:
    """Print the selection if anything is searched or repeated, else the runs; then the unfinished runs."""
    console = get_console()
    if note := common_note(runs):
        console.print(note, style="italic", markup=False, highlight=False, soft_wrap=True)
    if chosen_from_several(runs, search):
        summaries = select(runs, search)
        console.print(f"{caption(summaries, runs, search)}\n", markup=False, highlight=False)
        print_table(sweep_table(selection_rows(summaries, search, short=True), breaks="_/"))
        lines = [": ".join(filter(None, [label_of(s.cell.settings), s.notes])) for s in summaries if s.notes]
    else:
        lines = []
        hidden = {"run", "reason", "selected_update", "num_parameters", "state_size"}
        hidden |= {"updates"} if len({run.updates for run in runs}) == 1 else set()
        shown_rows = _short(run_rows(runs), runs)
        print_table(sweep_table([{key: row[key] for key in row if key not in hidden} for row in shown_rows]))
    lines += [f"{run.name}: {run.status}" + f", {run.reason}" * bool(run.reason) for run in runs if not run.finished]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def run_rows(runs: Sequence[Run]) -> list[Row]:
    """One row per run: settings that vary, status, metrics and sizes."""
    keys = varied_settings(runs)
    tags = list(dict.fromkeys(tag for run in runs for tag in run.metrics))
    reasons = any(run.reason for run in runs)
    notes = any(run.note for run in runs) and not common_note(runs)
    return [
        {key: run.settings.get(key) for key in keys}
        | {"status": run.status}
        | ({"reason": run.reason} if reasons else {})
        | ({"note": run.note} if notes else {})
        | {tag: run.metrics.get(tag) for tag in tags}
        | {"updates": run.updates, "selected_update": run.selected_update}
        | {"seconds": None if run.seconds is None else round(run.seconds, 1)}
        | {"num_parameters": run.num_parameters, "state_size": run.state_size, "run": run.name}
        for run in runs
    ]


def _short(rows: Sequence[Row], runs: Sequence[Run]) -> list[Row]:
    """Format settings and seconds with no more digits than needed."""
    keys = {*varied_settings(runs), "seconds"}
    return [{key: _text(value) if key in keys else value for key, value in row.items()} for row in rows]


def chosen_from_several(runs: Sequence[Run], search: SearchSettings) -> bool:
    """Whether any setting that varies is searched or repeated."""
    return not {*search.grid, *search.repeated}.isdisjoint(varied_settings(runs))


def select(runs: Sequence[Run], search: SearchSettings) -> list[Summary]:
    """The results of each cell."""
    return [summarize(cell) for cell in cells(runs, search)]


def selection_csv(runs: Sequence[Run], search: SearchSettings) -> str:
    """One row per compared cell, with all digits.

    Columns: the compared and the chosen settings; the attributes of `Summary`, with `spread` as `grid_min`,
    `grid_median` and `grid_max`; the number of `points` and of `runs` in the cell.
    """
    summaries = select(runs, search)
    rows = []
    for summary, settings in zip(summaries, _settings(summaries), strict=True):
        row = settings | {"metric": summary.metric, "mean": summary.mean, "sd": summary.sd, "ci95": summary.ci95}
        row |= {"n": summary.n, "val": summary.val}
        row |= dict(zip(("grid_min", "grid_median", "grid_max"), summary.spread, strict=True))
        row |= {"points": len(summary.cell.searched), "runs": len(summary.cell.runs), "notes": summary.notes}
        rows.append({key: None if value != value else value for key, value in row.items()})
    return to_csv(rows)


def _settings(summaries: Sequence[Summary]) -> list[Row]:
    """The compared and chosen settings of each cell, with the same keys in all rows."""
    compared = dict.fromkeys(key for summary in summaries for key, _ in summary.cell.settings)
    searched = dict.fromkeys(key for summary in summaries for point in summary.cell.points for key, _ in point)
    return [
        compared
        | searched
        | dict(summary.cell.settings)
        | dict(summary.cell.choice.point if summary.cell.choice else ())
        for summary in summaries
    ]


def caption(summaries: Sequence[Summary], runs: Sequence[Run], search: SearchSettings) -> str:
    """The caption of the selection table."""
    keys = varied_settings(runs)
    grid, repeated = (", ".join(key for key in keys if key in names) for names in (search.grid, search.repeated))
    text = metrics = " and ".join(_metrics(summaries))
    if grid:
        text += f" at the {grid} chosen on {metrics.replace('test/', 'val/')}"
    if repeated:
        text += f", mean ± standard deviation over n finished runs ({repeated})"
    if grid:
        text += ". Over the grid: minimum / median / maximum of the validation objective"
    if grid and repeated and search.two_stage:
        text += f". Two-stage search: chosen with the first {repeated} only, then run with all"
    return text + "."


def _metrics(summaries: Sequence[Summary]) -> list[str]:
    """The metrics in the table, from cells with a finished run if there are any: others may not know theirs."""
    known = [summary for summary in summaries if summary.cell.choice] or summaries
    return list(dict.fromkeys(summary.metric for summary in known))


def selection_rows(summaries: Sequence[Summary], search: SearchSettings, *, short: bool = False) -> list[Row]:
    """The selection formatted for reading, one row per cell; `short` is for the terminal: narrow, without notes."""
    settings = _settings(summaries)
    keys = [key for key in settings[0] if any(row[key] is not None for row in settings)]
    tails = [key.rpartition(".")[2] for key in keys]
    headers = dict(zip(keys, tails if short and len(set(tails)) == len(tails) else keys, strict=True))
    metric = " or ".join(_metrics(summaries))
    searched = any(key in search.grid for key in settings[0])
    noted = any(summary.notes for summary in summaries)
    rows = []
    for summary, chosen in zip(summaries, settings, strict=True):
        row: Row = {headers[key]: _text(chosen[key]) for key in keys}
        row |= {metric: plus_minus(summary.mean, summary.sd), "n": summary.n}
        if searched:
            over = f"{metric.replace('test/', 'val/')} over the grid (min / median / max)"
            row["over the grid" if short else over] = " / ".join(map(_significant, summary.spread))
            if not short:
                row["grid points"] = len(summary.cell.searched)
        rows.append(row | ({"notes": summary.notes} if noted and not short else {}))
    return rows


def pivot(summaries: Sequence[Summary], search: SearchSettings) -> list[Row] | None:
    """The means, with the settings in `search.columns` across the columns; None if none of them is compared."""
    compared = dict.fromkeys(key for summary in summaries for key, _ in summary.cell.settings)
    across = [key for key in search.columns if key in compared]
    if not across:
        return None
    heads = dict.fromkeys(_label(summary, across) for summary in summaries)
    rows: dict[tuple[str, ...], Row] = {}
    for summary in summaries:
        settings = {key: _text(dict(summary.cell.settings).get(key)) for key in compared if key not in across}
        row = rows.setdefault(tuple(settings.values()), settings | heads)
        shown = plus_minus(summary.mean, summary.sd) + " *" * bool(summary.notes)
        head = _label(summary, across)
        row[head] = f"{row[head]} and {shown}" if row[head] else shown
    ranks = [list(dict.fromkeys(values)) for values in zip(*rows, strict=True)]
    in_blocks = sorted(rows, key=lambda values: [rank.index(value) for rank, value in zip(ranks, values, strict=True)])
    return [rows[values] for values in in_blocks]  # rows with the same first setting are adjacent


def _label(summary: Summary, keys: Sequence[str]) -> str:
    settings = dict(summary.cell.settings)
    return label_of(((key, settings[key]) for key in keys if key in settings), keys) or "–"


def plus_minus(mean: float, sd: float) -> str:
    """Mean and standard deviation, to two significant digits of the latter but at most four of the mean.

    For example "0.0108 ± 0.0011"; very large and very small numbers are in scientific notation: "1.5e-10 ± 7.1e-11".
    """
    if not math.isfinite(mean):
        return "–"
    if not math.isfinite(sd) or sd == 0:
        return f"{mean:.4g}" + (" ± 0" if sd == 0 else "")
    if abs(mean) >= 1e5 or max(abs(mean), sd) < 1e-4:
        return f"{mean:.3g} ± {sd:.2g}"
    digits = 1 - math.floor(math.log10(sd))
    if mean:
        digits = min(digits, 3 - math.floor(math.log10(abs(mean))))
    digits = min(max(digits, 0), 8)
    return f"{mean:.{digits}f} ± {sd:.{digits}f}"


def _significant(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "–"


def _text(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
