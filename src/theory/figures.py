"""The shared style of the figures: sizes, colors, and line styles that stay distinct in grayscale."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.reports.style import OKABE_ITO

PANEL_WIDTH, PANEL_HEIGHT = 3.6, 3.1
"""Size of a panel in inches: two or three fit side by side on a page with 10-point labels."""

COLORS = tuple(OKABE_ITO[name] for name in ("black", "blue", "vermilion", "green", "purple", "orange"))
"""Colors of the first to sixth series, from dark to light."""
LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P")

THEORY: dict[str, Any] = {"color": "0.35", "linestyle": "-", "linewidth": 4, "alpha": 0.35}
"""Style of a predicted curve: a broad gray band behind the measured points."""
LIMIT: dict[str, Any] = {"color": "0.25", "linestyle": (0, (1, 1)), "linewidth": 1.3}
"""Style of a threshold or bound."""


def new_figure(
    rows: int = 1,
    columns: int = 1,
    *,
    panel_width: float = PANEL_WIDTH,
    panel_height: float = PANEL_HEIGHT,
    **subplots: Any,
) -> tuple[Figure, np.ndarray]:
    """An empty figure and its axes, an array [rows, columns]; further arguments are passed to `Figure.subplots`.

    The figure is not registered with pyplot, so any process may create one, and it need not be closed.
    """
    figure = Figure(figsize=(panel_width * columns, panel_height * rows), layout="constrained")
    all_axes = figure.subplots(rows, columns, squeeze=False, **subplots)
    for axes in all_axes.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, all_axes


def wrapped(num_panels: int, **options: Any) -> tuple[Figure, list[Axes]]:
    """Like `new_figure`, with two panels per row, as wide as a page of text; the last row may be half empty."""
    figure, all_axes = new_figure(-(-num_panels // 2), 2, **{"panel_width": 4.0} | options)
    for empty in all_axes.flat[num_panels:]:
        empty.remove()
    return figure, list(all_axes.flat[:num_panels])


def line(index: int, marker: bool = False) -> dict[str, Any]:
    """Color, line style and, optionally, marker of the series with this index."""
    style: dict[str, Any] = {"color": COLORS[index], "linestyle": LINE_STYLES[index], "linewidth": 1.6}
    return style | {"marker": MARKERS[index], "markersize": 4.5} if marker else style


def points(index: int) -> dict[str, Any]:
    """Color and marker of the series with this index, drawn as separate points."""
    return {"color": COLORS[index], "linestyle": "none", "marker": MARKERS[index], "markersize": 4.5}


def heading(axes: Axes, text: str) -> None:
    """A short left-aligned title above a panel."""
    axes.set_title(text, loc="left", fontsize=10)
