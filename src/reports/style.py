"""The style of figures: the color, line style and marker of each model, and sizes for print."""

import textwrap
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

MOST_LABELS = 40
FLOOR: dict[str, Any] = {"color": "0.5", "linewidth": 1.0, "zorder": 1}
LOST_LABEL = "diverged or failed"
"""Label of the crosses that mark runs without a result."""
FLOOR_LINES: tuple[Any, ...] = ((0, (1, 1.5)), (0, (5, 2)), (0, (10, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))
"""Line styles of the floors of a task, one per floor."""
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
"""Settings for `matplotlib.rc_context`; a panel is 3.3 inches wide, so that two fit side by side on a page."""

OKABE_ITO = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky blue": "#56B4E9",
    "green": "#009E73",
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
}
"""Okabe and Ito's colors, which color-blind readers can tell apart."""
_STYLES: dict[str, tuple[str, Any, str]] = {
    "fastweights": (OKABE_ITO["vermilion"], "-", "o"),
    "lstm": (OKABE_ITO["blue"], "--", "s"),
    "irnn": (OKABE_ITO["green"], "-.", "^"),
    "alstm": (OKABE_ITO["sky blue"], (0, (6, 1.5, 1, 1.5, 1, 1.5)), "X"),
    "gru": (OKABE_ITO["purple"], (0, (4, 1.5)), "D"),
    "rnn": (OKABE_ITO["black"], ":", "v"),
    "nprnn": (OKABE_ITO["orange"], (0, (8, 2)), "P"),
}
"""Line styles and markers distinguish the models in grayscale."""
_COLORS = ("#332288", "#882255", "#117733", "#AA4499", "#999933", "#661100", "#6699CC", "#44AA99")
_LINES = ("-", "--", "-.", ":", (0, (8, 2)), (0, (4, 1, 1, 1)), (0, (2, 1)))
_FURTHER = tuple(
    zip(
        (_COLORS[n] for n in (0, 1, 4, 3, 2, 5, 6, 7)),  # dark green later: it resembles the green of the IRNN
        ("-", "--", "-.", ":", (0, (8, 2)), (0, (4, 1, 1, 1)), (0, (2, 1)), "-"),
        ("p", "h", ">", "<", "X", "D", "v", "P"),
        strict=True,
    )
)
"""Styles for series that cannot have the style of their model."""
_CHARACTER, _HANDLE = 0.065, 0.75  # widths in a legend, in inches: a character, and a handle with its spacing
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p")


def style_of(model: str) -> dict[str, Any]:
    """Color, line style and marker of a model: fixed ones, or ones derived from its name."""
    return _style(_of_model(model))


def styles_of(labels: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The styles of the series of a figure, {label: model}.

    The first series of a model has the style of the model, unless its color is already taken; models with fixed styles
    choose first. Further series of a model have styles that are left. There are distinct colors for 15 series.
    """
    choices = [*_STYLES.values(), *_FURTHER]
    styles: dict[str, tuple[str, Any, str]] = {}
    first = {model: label for label, model in reversed(list(labels.items()))}
    order = sorted(labels, key=lambda label: (first[labels[label]] != label, labels[label] not in _STYLES))
    for number, label in enumerate(order):
        colors = {color for color, _, _ in styles.values()}
        wanted = (_of_model(labels[label]), *choices)
        styles[label] = next((one for one in wanted if one[0] not in colors), choices[number % len(choices)])
    return {label: _style(styles[label]) for label in labels}


def _of_model(model: str) -> tuple[str, Any, str]:
    number = zlib.crc32(model.encode())
    own = _COLORS[number % 8], _LINES[number // 8 % 7], _MARKERS[number // 56 % 11]
    return _STYLES.get(model, own)


def _style(parts: tuple[str, Any, str]) -> dict[str, Any]:
    color, line, marker = parts
    return {"color": color, "linestyle": line, "marker": marker, "markersize": 4.5, "linewidth": 1.6}


def panels(titles: Sequence[str], **subplots: Any) -> tuple[Figure, list[Axes]]:
    """A figure outside pyplot with one panel per title: two side by side, or three if there are more than eight."""
    columns = 1 if len(titles) == 1 else 2 if len(titles) <= 8 else 3
    rows = -(-len(titles) // columns)
    width = 4.8 if columns == 1 else 3.3 * columns
    figure = Figure(figsize=(width, 2.7 * rows + 0.2), layout="constrained")
    all_axes = list(figure.subplots(rows, columns, squeeze=False, **subplots).flat)
    for axes, title in zip(all_axes, titles, strict=False):
        axes.set_title(as_written(title), loc="left")
    for axes in all_axes[len(titles) :]:
        axes.remove()
    return figure, all_axes[: len(titles)]


def as_written(text: str) -> str:
    """The text with "$" escaped, so that it does not begin a formula."""
    return text.replace("$", r"\$")


def legend(figure: Figure, all_axes: Sequence[Axes]) -> None:
    """Add one legend below all panels, series before floors, and make the figure taller to fit it.

    Labels that are wider than the figure are wrapped. A legend with more than `MOST_LABELS` labels would be taller than
    the panels and is left out.
    """
    handles: dict[str, Any] = {}
    for axes in all_axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if not 0 < len(handles) <= MOST_LABELS:
        return
    labels = sorted(handles, key=lambda label: (_is_floor(handles[label]), label == LOST_LABEL))
    for num_columns in range(len(labels), 0, -1):
        num_rows = -(-len(labels) // num_columns)
        columns = [labels[start : start + num_rows] for start in range(0, len(labels), num_rows)]
        if sum(_CHARACTER * max(map(len, column)) + _HANDLE for column in columns) <= figure.get_figwidth():
            break
    num_columns = -(-len(labels) // num_rows)
    texts = [textwrap.fill(as_written(label), int((figure.get_figwidth() - _HANDLE) / _CHARACTER)) for label in labels]
    num_lines = num_rows + sum(text.count("\n") for text in texts)
    figure.set_figheight(figure.get_figheight() + 0.17 * num_lines)
    figure.legend([handles[label] for label in labels], texts, loc="outside lower center", ncols=num_columns)


def _is_floor(handle: Any) -> bool:
    return getattr(handle, "zorder", None) == FLOOR["zorder"]
