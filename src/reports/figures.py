"""Figures of what a model remembers.

Shapes: B examples, T time steps.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

LONGEST_LABELED = 40
SYMBOL: dict[str, Any] = {"fontsize": 12, "family": "monospace", "parse_math": False}
"""Text properties for the symbols of a sequence, which are shown verbatim, even a "$"."""


def colors(weights: np.ndarray, bound: float) -> dict[str, Any]:
    """The color scale of weights up to a bound, for `imshow`: from 0, or centered on 0 if any weight is negative."""
    if (weights < 0).any():
        return {"cmap": "RdBu_r", "vmin": -bound, "vmax": bound}
    return {"cmap": "Blues", "vmin": 0, "vmax": bound}


def attention_figure(attention_BT: Tensor, labels: Sequence[Sequence[str]]) -> Figure:
    """How strongly the last step attends to each earlier step, one row per example.

    Args:
        attention_BT: a weight for each step except the last; there is at least one. Weights after the end of a shorter
            example are 0.
        labels: the label of every step of each example, including the last.
    """
    num_examples, num_steps = attention_BT.shape
    share_BT = (attention_BT / attention_BT.abs().amax(dim=1, keepdim=True).clamp_min(1e-12)).numpy(force=True)
    width = min(3 + 0.35 * num_steps, 16)
    figure = Figure(figsize=(width, 1.6 + 0.35 * num_examples), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share_BT, **colors(share_BT, 1), aspect="auto")
    if num_steps <= LONGEST_LABELED:
        for row, row_labels in enumerate(labels):
            for t, label in enumerate(row_labels[:-1]):
                color = "white" if abs(share_BT[row, t]) > 0.6 else "black"
                axes.text(t, row, label, ha="center", va="center", color=color, **SYMBOL)
    axes.set_yticks(range(num_examples), [row_labels[-1] for row_labels in labels], **SYMBOL)
    axes.set_ylabel("symbol of the last step")
    axes.set_xlabel("earlier step")
    figure.colorbar(image, ax=axes, label="attention of the last step,\nrelative to its maximum")
    return figure


def memory_figure(memory_BRC: Tensor, titles: Sequence[str], num_examples: int = 4) -> Figure:
    """The memory matrix of a model at the last step, for a few examples on a common scale.

    The scale ends at the 99.5th percentile, so that a few large entries do not hide the others.
    """
    shown = memory_BRC[:num_examples].numpy(force=True)
    num_columns = 2 if len(shown) > 1 else 1
    num_rows = -(-len(shown) // num_columns)
    figure = Figure(figsize=(3.2 * num_columns + 1, 3.1 * num_rows), layout="constrained")
    bound = float(np.quantile(abs(shown), 0.995)) or 1.0
    all_axes = figure.subplots(num_rows, num_columns, squeeze=False, sharex=True, sharey=True)
    for axes, matrix, title in zip(all_axes.flat, shown, titles, strict=False):
        image = axes.imshow(matrix, cmap="RdBu_r", vmin=-bound, vmax=bound)
        axes.set_title(title.split("   ")[0], **SYMBOL)
    figure.supxlabel("from unit")
    figure.supylabel("to unit")
    figure.colorbar(image, ax=list(all_axes.flat), extend="both", label="weight")
    return figure
