"""Figures of a folder of runs: learning curves, and the final metric against every number that varies."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from src.reports.cells import Cell, label_of, select
from src.reports.curves import learning_curves
from src.reports.runs import varied_settings
from src.reports.style import FLOOR, FLOOR_LINES, LOST, RC, legend, panels, styles_of

MOST_PANELS, MOST_TICKS = 9, 9
LOG_FROM = 20
"""An axis is logarithmic where its largest number is this many times its smallest."""
NAMES = {"optimizer.lr": "learning rate", "model.hidden_size": "units"}
NEAREST_TICKS = 0.09
"""Share of an axis between two labeled ticks."""


def draw_all(folder: Path, runs: pd.DataFrame, search: Mapping[str, Any]) -> dict[str, Figure]:
    """All figures that a folder's runs call for, by name."""
    by_objective: dict[str, list[Cell]] = {}
    for cell in select(runs, search):
        if cell.choice is not None:
            by_objective.setdefault(cell.objective, []).append(cell)
    figures = {}
    for objective, cells in by_objective.items():
        suffix = f"_{objective.rpartition('/')[2]}" if len(by_objective) > 1 else ""
        with mpl.rc_context(RC):
            figures[f"learning_curves{suffix}"] = learning_curves_figure(folder, cells, search)
            for key in varied_settings(runs):
                if key not in search["repeated"] and _is_number(cells, key):
                    draw = grid_figure if key in search["grid"] else compared_figure
                    figures[f"against_{key.rpartition('.')[2]}{suffix}"] = draw(cells, key, search)
    return figures


def learning_curves_figure(folder: Path, cells: Sequence[Cell], search: Mapping[str, Any]) -> Figure:
    """Validation curves of each cell at its chosen point, mean and range over the repetitions, with the floors."""
    tag = cells[0].objective
    curves = learning_curves(folder, pd.concat([cell.measured for cell in cells]), tag)
    places = _places(cells, search)
    repeated = ", ".join(dict.fromkeys(key for cell in cells for rep in cell.grid["repetition"] for key, _ in rep))
    figure, axes_of = _panels(places, f"{tag}, mean and range over {repeated}" if repeated else tag)
    styles = _styles(cells, places)
    for cell, (panel, label) in zip(cells, places, strict=True):
        _draw_curves(axes_of[panel], curves[curves["run"].isin(cell.measured["run"])], label, styles[label])
    _finish(figure, axes_of, cells, places, tag, curves["value"])
    for axes in axes_of.values():
        axes.set_xlabel("update")
        axes.margins(x=0.01)
    return figure


def compared_figure(cells: Sequence[Cell], key: str, search: Mapping[str, Any]) -> Figure:
    """The test metric at the chosen point against a compared number, such as the width; mean and sd."""
    cells = [cell for cell in cells if key in dict(cell.settings)]
    tag = cells[0].objective.replace("val/", "test/")
    points = [
        pd.DataFrame([(dict(cell.settings)[key], cell.measured[tag].mean(), cell.measured[tag].std())], columns=_XY)
        for cell in cells
    ]
    return _against(cells, points, key, tag, search)


def grid_figure(cells: Sequence[Cell], key: str, search: Mapping[str, Any]) -> Figure:
    """The validation objective against a searched number, the chosen one circled.

    Where several are searched, a point is the best over the others.
    """
    tag = cells[0].objective
    points = []
    for cell in cells:
        finished = cell.searched[cell.searched["status"] == "finished"]
        table = finished.groupby("point", sort=False)[tag].agg(["mean", "std"]).reset_index()
        table["x"] = [dict(point).get(key) for point in table["point"]]
        points.append(table.dropna(subset="x").sort_values("mean", kind="stable").drop_duplicates("x")[list(_XY)])
    return _against(cells, points, key, tag, search)


_XY = ("x", "mean", "std")


def _against(
    cells: Sequence[Cell], points: Sequence[pd.DataFrame], key: str, tag: str, search: Mapping[str, Any]
) -> Figure:
    places = _places(cells, search, key)
    repeated = any(table["std"].notna().any() for table in points)
    figure, axes_of = _panels(places, f"{tag}, mean ± sd" if repeated else tag)
    styles = _styles(cells, places)
    series: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for place, table in zip(places, points, strict=True):
        series.setdefault(place, []).append(table)
    for (panel, label), tables in series.items():
        line = pd.concat(tables).astype(float).sort_values("x", kind="stable")
        drawn = styles[label] | ({"linestyle": "none"} if _drawn_at_random(line["x"]) else {})
        axes_of[panel].errorbar(
            line["x"], line["mean"], yerr=line["std"].fillna(0), label=label, capsize=2.5, elinewidth=1, **drawn
        )
    if key in search["grid"]:
        for cell, (panel, label), table in zip(cells, places, points, strict=True):
            _mark_choice(axes_of[panel], cell, table, key, styles[label]["color"])
    everything = pd.concat(points).astype(float)
    _finish(figure, axes_of, cells, places, tag, everything["mean"])
    for axes in axes_of.values():
        _scale_x(axes, everything["x"], logarithmic=key == "optimizer.lr")
        axes.set_xlabel(NAMES.get(key, key.rpartition(".")[2].replace("_", " ")))
    return figure


def _is_number(cells: Sequence[Cell], key: str) -> bool:
    values = {settings[key] for cell in cells for settings in cell.grid["settings"] if key in settings}
    return len(values) > 1 and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _places(cells: Sequence[Cell], search: Mapping[str, Any], drawn: str | None = None) -> list[tuple[str, str]]:
    """The panel and the label of each cell: what the table has across has a panel for each value, else the width."""
    keys = [key for key in search["columns"] or ["model.hidden_size"] if key != drawn]
    if len({tuple(item for item in cell.settings if item[0] in keys) for cell in cells}) > MOST_PANELS:
        keys = []
    places = []
    for cell in cells:
        panel = [item for item in cell.settings if item[0] in keys]
        label = [item for item in cell.settings if item[0] not in (*keys, drawn)]
        places.append((label_of(panel), label_of(label) or _model(cell)))
    return places


def _model(cell: Cell) -> str:
    return str(cell.grid["settings"].iloc[0].get("model", "all runs"))


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
    tag: str,
    values: "pd.Series[float]",
) -> None:
    """Floors, the vertical scale and the legend."""
    floors = dict.fromkeys(words for cell in cells for floor in cell.grid["floors"] for words in floor)
    lines = dict(zip(floors, FLOOR_LINES * len(floors), strict=False))
    for panel, axes in axes_of.items():
        _draw_floors(axes, [cell for cell, place in zip(cells, places, strict=True) if place[0] == panel], tag, lines)
    for axes in axes_of.values():
        _scale_y(axes, values)
    legend(figure, list(axes_of.values()))


def _mark_choice(axes: Axes, cell: Cell, points: pd.DataFrame, key: str, color: str) -> None:
    """A ring around the chosen point, and a cross at the top for every number at which no run got through."""
    chosen = points[points["x"] == (dict(cell.choice.point).get(key) if cell.choice else None)]
    axes.plot(chosen["x"], chosen["mean"], "o", fillstyle="none", markersize=10, color=color)
    lost = cell.searched[cell.searched["status"].isin(["diverged", "failed"])]
    positions = {dict(point).get(key) for point in lost["point"]} - set(points["x"])
    if positions:
        cross: dict[str, Any] = {"marker": "X", "linestyle": "none", "markersize": 7, "markeredgecolor": "white"}
        place: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False, "zorder": 4}
        axes.plot(sorted(positions), [1.0] * len(positions), color=color, **cross, **place)
        axes.plot([], [], color="black", **cross, label=LOST)


def _draw_curves(axes: Axes, curves: pd.DataFrame, label: str, style: Mapping[str, Any]) -> None:
    """A run that ended early, since it had solved the task or no longer improved, stays at its last value."""
    wide = curves.pivot(index="update", columns="run", values="value").ffill()
    if wide.empty:
        return
    step = max(1, len(wide) // 8)
    axes.plot(wide.index, wide.mean(axis=1), label=label, markevery=(step // 2, step), **style)
    if wide.shape[1] > 1:
        axes.fill_between(wide.index, wide.min(axis=1), wide.max(axis=1), color=style["color"], alpha=0.18, linewidth=0)


def _draw_floors(axes: Axes, cells: Sequence[Cell], tag: str, lines: Mapping[str, Any]) -> None:
    """What one reaches who knows only so much, as the tasks of the cells say."""
    metric = tag.partition("/")[2]
    floors: dict[str, float] = {}
    for cell in cells:
        for floor in cell.grid["floors"]:
            floors |= {words: values[metric] for words, values in floor.items() if metric in values}
    for words, value in floors.items():
        axes.axhline(value, label=words, linestyle=lines[words], **FLOOR)


def _drawn_at_random(values: "pd.Series[float]") -> bool:
    """Numbers that nobody wrote down, so that neighbors have nothing in common."""
    return any(float(f"{value:.3g}") != value for value in values)


def _scale_x(axes: Axes, values: "pd.Series[float]", logarithmic: bool) -> None:
    logarithmic = values.min() > 0 and (logarithmic or values.max() >= LOG_FROM * values.min())
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    if values.nunique() <= MOST_TICKS and not _drawn_at_random(values):
        at = np.sort(values.unique())
        place = np.log(at) if logarithmic else at
        shown = [0]
        for i in range(1, len(at)):
            if place[i] - place[shown[-1]] >= NEAREST_TICKS * np.ptp(place):
                shown.append(i)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(at[shown])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _scale_y(axes: Axes, values: "pd.Series[float]") -> None:
    """Logarithmic where the numbers are of different sizes, with a place for 0 where one is 0."""
    positive = values[values > 0]
    if not len(positive) or positive.max() < LOG_FROM * positive.min():
        axes.set_ylim(bottom=min(0, values.min()))
    elif (values <= 0).any():
        threshold = 10 ** np.floor(np.log10(positive.min()))
        axes.set_yscale("symlog", linthresh=threshold)
        axes.set_ylim(bottom=-0.15 * threshold)  # so that a marker at 0 is whole
    else:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
