"""How figures look: one color, line style and marker per model everywhere, sizes for print."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

FLOOR: dict[str, Any] = {"color": "0.5", "linewidth": 1.0, "zorder": 1}
LOST_LABEL = "diverged or failed"
"""The label of the crosses where a run has no number."""
FLOOR_LINES: tuple[Any, ...] = ((0, (1, 1.5)), (0, (5, 2)), (0, (10, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))
"""A task's floors: thin grey lines, one style each."""
RC: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "savefig.dpi": 200,
}
"""For `matplotlib.rc_context`; a panel is 3.3 inches wide, so that two stand side by side on a page."""

_STYLES: dict[str, tuple[str, Any, str]] = {
    "fastweights": ("#D55E00", "-", "o"),
    "lstm": ("#0072B2", "--", "s"),
    "irnn": ("#009E73", "-.", "^"),
    "alstm": ("#56B4E9", (0, (6, 1.5, 1, 1.5, 1, 1.5)), "X"),
    "gru": ("#CC79A7", (0, (4, 1.5)), "D"),
    "rnn": ("#000000", ":", "v"),
    "nprnn": ("#E69F00", (0, (8, 2)), "P"),
}
"""Okabe and Ito's colors, distinct for color-blind readers, which alone would not do in grey."""
_COLORS = ("#332288", "#882255", "#117733", "#AA4499", "#999933", "#661100", "#6699CC", "#44AA99")
_LINES = ("-", "--", "-.", ":", (0, (8, 2)), (0, (4, 1, 1, 1)), (0, (2, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p")


def style_of(model: str) -> dict[str, Any]:
    """Color, line style and marker of a model: the fixed ones, or some that its name alone decides."""
    number = zlib.crc32(model.encode())
    own = _COLORS[number % 8], _LINES[number // 8 % 7], _MARKERS[number // 56 % 11]
    return _style(_STYLES.get(model, own))


def styles_of(labels: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The styles of the series of a figure, {label: model}: those of the models, where each has one series.

    Variants of one model follow one another in a fixed order.
    """
    if len(set(labels.values())) == len(labels):
        return {label: style_of(model) for label, model in labels.items()}
    choices = [*_STYLES.values(), *zip(_COLORS, _LINES + _LINES, _MARKERS, strict=False)]
    return {label: _style(choices[index % len(choices)]) for index, label in enumerate(labels)}


def _style(parts: tuple[str, Any, str]) -> dict[str, Any]:
    color, line, marker = parts
    return {"color": color, "linestyle": line, "marker": marker, "markersize": 4.5, "linewidth": 1.6}


def panels(titles: Sequence[str], **subplots: Any) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each title, at most three side by side, that belongs to no window and no list."""
    columns = 1 if len(titles) == 1 else 3 if len(titles) in (3, 5, 6) or len(titles) > 8 else 2
    rows = -(-len(titles) // columns)
    width = 4.8 if columns == 1 else 3.3 * columns
    figure = Figure(figsize=(width, 2.7 * rows + 0.2), layout="constrained")
    all_axes = list(figure.subplots(rows, columns, squeeze=False, **subplots).flat)
    for axes, title in zip(all_axes, titles, strict=False):
        axes.set_title(title, loc="left")
    for axes in all_axes[len(titles) :]:
        axes.remove()
    return figure, all_axes[: len(titles)]


def legend(figure: Figure, all_axes: Sequence[Axes]) -> None:
    """One legend below the panels for all of them: the series, then the floors; it makes the figure higher."""
    handles: dict[str, Any] = {}
    for axes in all_axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if not handles:
        return
    labels = sorted(handles, key=lambda label: (_is_floor(handles[label]), label == LOST_LABEL))
    for num_columns in range(len(labels), 0, -1):
        num_rows = -(-len(labels) // num_columns)
        columns = [labels[start : start + num_rows] for start in range(0, len(labels), num_rows)]
        if sum(0.065 * max(map(len, column)) + 0.75 for column in columns) <= figure.get_figwidth():
            break
    num_columns = -(-len(labels) // num_rows)
    figure.set_figheight(figure.get_figheight() + 0.17 * num_rows)
    figure.legend([handles[label] for label in labels], labels, loc="outside lower center", ncols=num_columns)


def _is_floor(handle: Any) -> bool:
    return hasattr(handle, "get_zorder") and handle.get_zorder() == FLOOR["zorder"]
