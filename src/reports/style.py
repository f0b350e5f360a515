"""The style of figures: a fixed color, line style and marker per model, and sizes for print."""

import textwrap
import zlib
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

FLOOR: dict[str, Any] = {"color": "0.5", "linewidth": 1.0, "zorder": 1}
LOST_LABEL = "diverged or failed"
"""Label of the crosses that mark runs without a result."""
FLOOR_LINES: tuple[Any, ...] = ((0, (1, 1.5)), (0, (5, 2)), (0, (10, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))
"""Line styles of a task's floors, one each."""
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
"""For `matplotlib.rc_context`; a panel is 3.3 inches wide, so that two fit side by side on a page."""

_STYLES: dict[str, tuple[str, Any, str]] = {
    "fastweights": ("#D55E00", "-", "o"),
    "lstm": ("#0072B2", "--", "s"),
    "irnn": ("#009E73", "-.", "^"),
    "alstm": ("#56B4E9", (0, (6, 1.5, 1, 1.5, 1, 1.5)), "X"),
    "gru": ("#CC79A7", (0, (4, 1.5)), "D"),
    "rnn": ("#000000", ":", "v"),
    "nprnn": ("#E69F00", (0, (8, 2)), "P"),
}
"""The color-blind safe colors of Okabe and Ito; line styles and markers tell models apart in grey."""
_COLORS = ("#332288", "#882255", "#117733", "#AA4499", "#999933", "#661100", "#6699CC", "#44AA99")
_LINES = ("-", "--", "-.", ":", (0, (8, 2)), (0, (4, 1, 1, 1)), (0, (2, 1)))
_CHARACTER, _HANDLE = 0.065, 0.75  # of a legend, in inches
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p")


def style_of(model: str) -> dict[str, Any]:
    """Color, line style and marker of a model: fixed ones, or ones derived from its name."""
    number = zlib.crc32(model.encode())
    own = _COLORS[number % 8], _LINES[number // 8 % 7], _MARKERS[number // 56 % 11]
    return _style(_STYLES.get(model, own))


def styles_of(labels: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The styles of the series of a figure, {label: model}.

    They are those of the models if these tell the series apart, else assigned in a fixed order.
    """
    of_models = {label: style_of(model) for label, model in labels.items()}
    if all(of_models[one] != of_models[other] for one, other in combinations(labels, 2)):
        return of_models
    choices = [*_STYLES.values(), *zip(_COLORS, _LINES + _LINES, _MARKERS, strict=False)]
    return {label: _style(choices[index % len(choices)]) for index, label in enumerate(labels)}


def _style(parts: tuple[str, Any, str]) -> dict[str, Any]:
    color, line, marker = parts
    return {"color": color, "linestyle": line, "marker": marker, "markersize": 4.5, "linewidth": 1.6}


def panels(titles: Sequence[str], **subplots: Any) -> tuple[Figure, list[Axes]]:
    """A figure outside pyplot with a panel per title, two side by side; of more than eight, three."""
    columns = 1 if len(titles) == 1 else 2 if len(titles) <= 8 else 3
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
    """One legend below all panels, series first, then floors; it makes the figure taller.

    What is too long for a line of the figure goes on in the next one.
    """
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
        if sum(_CHARACTER * max(map(len, column)) + _HANDLE for column in columns) <= figure.get_figwidth():
            break
    num_columns = -(-len(labels) // num_rows)
    texts = [textwrap.fill(label, int((figure.get_figwidth() - _HANDLE) / _CHARACTER)) for label in labels]
    num_lines = num_rows + sum(text.count("\n") for text in texts)
    figure.set_figheight(figure.get_figheight() + 0.17 * num_lines)
    figure.legend([handles[label] for label in labels], texts, loc="outside lower center", ncols=num_columns)


def _is_floor(handle: Any) -> bool:
    return getattr(handle, "zorder", None) == FLOOR["zorder"]
