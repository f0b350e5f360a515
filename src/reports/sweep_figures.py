"""Figures of a folder of runs: learning curves, and the final metric against every numeric setting that varies."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from src.config.schema import SearchSettings
from src.config.settings import label_of, short_keys
from src.reports.style import FLOOR, FLOOR_LINES, LOST_LABEL, RC, legend, panels, styles_of
from src.results.curves import learning_curves
from src.results.runs import LOST, Run, varied_settings
from src.results.selection import Cell, any_lost, cells, summarize

MOST_PANELS, MOST_TICKS = 9, 9
LOG_FROM = 20
"""An axis is logarithmic if its largest number is at least this many times its smallest."""
NAMES = {"optimizer.lr": "learning rate", "model.hidden_size": "units"}
NEAREST_TICKS = 0.14
"""Minimum distance between labeled ticks, as a share of the axis."""


class Value(NamedTuple):
    """One point of a series: a mean, and a standard deviation if there are several runs."""

    x: float
    mean: float
    sd: float | None


def draw_all(folder: Path, runs: Sequence[Run], search: SearchSettings) -> dict[str, Figure]:
    """All figures of a folder of runs, by name."""
    by_objective: dict[str, list[Cell]] = {}
    for cell in cells(runs, search):
        if cell.choice is not None:
            by_objective.setdefault(cell.objective.metric, []).append(cell)
    figures = {}
    varied = varied_settings(runs)
    for metric, chosen in by_objective.items():
        suffix = f"_{metric}" if len(by_objective) > 1 else ""
        with mpl.rc_context(RC):
            figures[f"learning_curves{suffix}"] = learning_curves_figure(folder, chosen, search)
            for key in varied:
                if key not in search.repeated and _is_number(chosen, key):
                    draw = grid_figure if key in search.grid else compared_figure
                    figures[f"against_{short_keys(varied)[key]}{suffix}"] = draw(chosen, key, search)
    return figures


def learning_curves_figure(folder: Path, cells: Sequence[Cell], search: SearchSettings) -> Figure:
    """Validation curves of each cell at its chosen point, mean and range over the repetitions, with the floors."""
    tag = f"val/{cells[0].objective.metric}"
    curves = learning_curves(folder, [run for cell in cells for run in cell.measured], tag)
    places = _places(cells, search)
    figure, axes_of = _panels(places, f"{_in_words(tag)}{_over(cells)}")
    styles = _styles(cells, places)
    for cell, (panel, label) in zip(cells, places, strict=True):
        of_cell = curves[curves["run"].isin([run.name for run in cell.measured])]
        _draw_curves(axes_of[panel], of_cell, label, styles[label])
    _finish(figure, axes_of, cells, places, cells[0].objective.metric, curves["value"].to_numpy())
    for axes in axes_of.values():
        axes.set_xlabel("update")
        axes.margins(x=0.01)
    return figure


def compared_figure(cells: Sequence[Cell], key: str, search: SearchSettings) -> Figure:
    """The test metric (mean and sd) at the chosen point against a compared numeric setting, such as the width."""
    cells = [cell for cell in cells if key in dict(cell.settings)]
    series = []
    for cell in cells:
        summary = summarize(cell)
        series.append([Value(float(dict(cell.settings)[key]), summary.mean, summary.sd if summary.n > 1 else None)])
    return _against(cells, series, key, f"test/{cells[0].objective.metric}", search)


def grid_figure(cells: Sequence[Cell], key: str, search: SearchSettings) -> Figure:
    """The validation objective against a searched numeric setting, with the chosen value circled.

    If several settings are searched, each point is the best over the other settings, by the rule of `choose`.
    """
    tag = f"val/{cells[0].objective.metric}"
    sign = -1 if cells[0].objective.higher_is_better else 1
    series = []
    for cell in cells:
        best: dict[float, tuple[bool, float, Value]] = {}
        for point, runs in cell.searched.items():
            values = [run.metrics[tag] for run in runs if run.finished and np.isfinite(run.metrics.get(tag, np.nan))]
            if key in dict(point) and values:
                x = float(dict(point)[key])
                value = Value(x, fmean(values), stdev(values) if len(values) > 1 else None)
                found = any_lost(runs), sign * value.mean, value
                best[x] = min(best.get(x, found), found, key=itemgetter(0, 1))
        series.append([value for *_, value in best.values()])
    return _against(cells, series, key, tag, search)


def _against(
    cells: Sequence[Cell], series: Sequence[Sequence[Value]], key: str, tag: str, search: SearchSettings
) -> Figure:
    places = _places(cells, search, key)
    everything = [value for values in series for value in values]
    repeated = any(value.sd is not None for value in everything)
    figure, axes_of = _panels(places, _in_words(tag) + ", mean ± sd" * repeated)
    styles = _styles(cells, places)
    lines: dict[tuple[str, str], list[Value]] = {}
    for place, values in zip(places, series, strict=True):
        lines.setdefault(place, []).extend(values)
    for (panel, label), values in lines.items():
        values = sorted(values, key=lambda value: value.x)
        x = np.array([value.x for value in values])
        drawn = styles[label] | ({"linestyle": "none"} if _drawn_at_random(x) else {})
        axes_of[panel].errorbar(
            x,
            [value.mean for value in values],
            yerr=[np.nan if value.sd is None else value.sd for value in values],
            label=label,
            capsize=2.5,
            elinewidth=1,
            **drawn,
        )
    if key in search.grid:
        for cell, (panel, label), values in zip(cells, places, series, strict=True):
            _mark_choice(axes_of[panel], cell, values, key, styles[label]["color"])
    _finish(figure, axes_of, cells, places, tag.partition("/")[2], np.array([value.mean for value in everything]))
    for axes in axes_of.values():
        _scale_x(axes, np.array([value.x for value in everything]), logarithmic=key == "optimizer.lr")
        axes.set_xlabel(NAMES.get(key) or short_keys([key, *_keys(cells)])[key].replace("_", " "))
    return figure


def _in_words(tag: str) -> str:
    """A metric as the label of an axis: "val/nll" is "validation nll (nats)"."""
    split, _, name = tag.partition("/")
    name = {"nll": "nll (nats)", "mse": "mean squared error"}.get(name, name.replace("_", " "))
    return f"{ {'val': 'validation'}.get(split, split) } {name}"


def _over(cells: Sequence[Cell]) -> str:
    """The part of an axis label that says what the curves average over: ", mean and range over 3 seeds"."""
    repeated = list(dict.fromkeys(key for cell in cells for key in cell.repeated))
    counts = sorted({len(cell.measured) for cell in cells})
    if not repeated or counts[-1] < 2:
        return ""
    number = "-".join(map(str, dict.fromkeys([counts[0], counts[-1]])))
    return f",\nmean and range over {number} {'seeds' if repeated == ['seed'] else 'runs'}"


def _is_number(cells: Sequence[Cell], key: str) -> bool:
    values = {run.settings[key] for cell in cells for run in cell.runs if key in run.settings}
    return len(values) > 1 and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _places(cells: Sequence[Cell], search: SearchSettings, drawn: str | None = None) -> list[tuple[str, str]]:
    """Panel and label of each cell: a panel per value of `search.columns`, else per width; a single one if too many."""
    keys = [key for key in search.columns or ["model.hidden_size"] if key != drawn]
    if len({tuple(item for item in cell.settings if item[0] in keys) for cell in cells}) > MOST_PANELS:
        keys = []
    places, among = [], _keys(cells)
    for cell in cells:
        panel = [item for item in cell.settings if item[0] in keys]
        label = [item for item in cell.settings if item[0] not in (*keys, drawn)]
        places.append((label_of(panel, among), label_of(label, among) or _model(cell)))
    return places


def _keys(cells: Sequence[Cell]) -> list[str]:
    """The compared and the searched settings."""
    settings = [pairs for cell in cells for pairs in (cell.settings, *cell.points)]
    return list(dict.fromkeys(key for pairs in settings for key, _ in pairs))


def _model(cell: Cell) -> str:
    return str(cell.runs[0].settings.get("model", "all runs"))


def _styles(cells: Sequence[Cell], places: Sequence[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    return styles_of({label: _model(cell) for cell, (_, label) in zip(cells, places, strict=True)})


def _panels(places: Sequence[tuple[str, str]], ylabel: str) -> tuple[Figure, dict[str, Axes]]:
    titles = list(dict.fromkeys(panel for panel, _ in places))
    figure, all_axes = panels(titles, sharey=True)
    for axes in all_axes:
        spec = axes.get_subplotspec()
        if spec is None or spec.is_first_col():
            axes.set_ylabel(ylabel)
    return figure, dict(zip(titles, all_axes, strict=True))


def _finish(
    figure: Figure,
    axes_of: Mapping[str, Axes],
    cells: Sequence[Cell],
    places: Sequence[tuple[str, str]],
    metric: str,
    values: np.ndarray,
) -> None:
    """Draw the floors and the legend, and scale the vertical axis."""
    floors = dict.fromkeys(words for cell in cells for run in cell.runs for words in run.floors)
    lines = dict(zip(floors, FLOOR_LINES * len(floors), strict=False))
    for panel, axes in axes_of.items():
        in_panel = [cell for cell, place in zip(cells, places, strict=True) if place[0] == panel]
        _draw_floors(axes, in_panel, metric, lines)
    for axes in axes_of.values():
        _scale_y(axes, values)
    legend(figure, list(axes_of.values()))


def _mark_choice(axes: Axes, cell: Cell, values: Sequence[Value], key: str, color: str) -> None:
    """Circle the chosen point; crosses at the top mark numbers at which runs diverged or failed and none finished."""
    chosen = [value for value in values if cell.choice and value.x == dict(cell.choice.point).get(key)]
    x, means = [value.x for value in chosen], [value.mean for value in chosen]
    axes.plot(x, means, "o", fillstyle="none", markersize=10, color=color)
    lost = {
        float(dict(point)[key])
        for point, runs in cell.searched.items()
        if key in dict(point) and any(run.status in LOST for run in runs)
    }
    positions = lost - {value.x for value in values}
    if positions:
        cross: dict[str, Any] = {"marker": "X", "linestyle": "none", "markersize": 7, "markeredgecolor": "white"}
        place: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False, "zorder": 4}
        axes.plot(sorted(positions), [1.0] * len(positions), color=color, **cross, **place)
        axes.plot([], [], color="black", **cross, label=LOST_LABEL)


def _draw_curves(axes: Axes, curves: pd.DataFrame, label: str, style: Mapping[str, Any]) -> None:
    """Draw mean and range; a run that stopped early keeps its last value."""
    wide = curves.pivot(index="update", columns="run", values="value").ffill()
    if wide.empty:
        return
    step = max(1, len(wide) // 8)
    axes.plot(wide.index, wide.mean(axis=1), label=label, markevery=(step // 2, step), **style)
    if wide.shape[1] > 1:
        axes.fill_between(wide.index, wide.min(axis=1), wide.max(axis=1), color=style["color"], alpha=0.18, linewidth=0)


def _draw_floors(axes: Axes, cells: Sequence[Cell], metric: str, lines: Mapping[str, Any]) -> None:
    """Draw the analytic baselines of the tasks as horizontal lines."""
    floors = {
        words: values[metric]
        for cell in cells
        for run in cell.runs
        for words, values in run.floors.items()
        if metric in values
    }
    for words, value in floors.items():
        axes.axhline(value, label=words, linestyle=lines[words], **FLOOR)


def _drawn_at_random(values: np.ndarray) -> bool:
    """Whether numbers look drawn at random (more than three digits), so that neighboring points are unrelated."""
    return any(float(f"{value:.3g}") != value for value in values)


def _scale_x(axes: Axes, values: np.ndarray, logarithmic: bool) -> None:
    if not len(values):
        return
    logarithmic = values.min() > 0 and (logarithmic or values.max() >= LOG_FROM * values.min())
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    at = np.unique(values)
    if len(at) <= MOST_TICKS and not _drawn_at_random(values):
        place = np.log(at) if logarithmic else at
        shown = [0]
        for i in range(1, len(at)):
            if place[i] - place[shown[-1]] >= NEAREST_TICKS * np.ptp(place):
                shown.append(i)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(at[shown])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _scale_y(axes: Axes, values: np.ndarray) -> None:
    """Use a logarithmic scale if the values differ widely and none is negative; around 0 it is linear if one is 0."""
    values = values[np.isfinite(values)]
    positive = values[values > 0]
    if (values < 0).any():
        return
    if not len(positive) or positive.max() < LOG_FROM * positive.min():
        axes.set_ylim(bottom=0)
    elif len(positive) < len(values):
        threshold = 10 ** np.floor(np.log10(positive.min()))
        axes.set_yscale("symlog", linthresh=threshold)
        axes.set_ylim(bottom=-0.15 * threshold)  # so that a marker at 0 is not cut off
    else:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
