"""Figures of what a model remembers.

Shapes: B examples, T time steps.
"""

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

LONGEST_LABELED = 40


def attention_figure(attention_BT: Tensor, labels: Sequence[Sequence[str]], titles: Sequence[str]) -> Figure:
    """How strongly the last step looks at each step before it, one row per example.

    Args:
        attention_BT: one weight for each step but the last.
        labels: a label for every step of every example, the last one included.
        titles: a line about each example.
    """
    num_examples, num_steps = attention_BT.shape
    share_BT = attention_BT / attention_BT.abs().amax(dim=1, keepdim=True).clamp_min(1e-12)
    figure = Figure(figsize=(max(6.0, 0.45 * min(num_steps, LONGEST_LABELED) + 5), 0.45 * num_examples + 1.3))
    axes = figure.subplots()
    image = axes.imshow(share_BT.cpu(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    if num_steps <= LONGEST_LABELED:
        for row, row_labels in enumerate(labels):
            for t, label in enumerate(row_labels[:num_steps]):
                color = "white" if share_BT[row, t] > 0.6 else "black"
                axes.text(t, row, label, ha="center", va="center", color=color)
    axes.set_yticks(range(num_examples), [row_labels[-1] for row_labels in labels])
    axes.set_ylabel("asked at the last step")
    axes.set_xlabel("step looked at")
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(num_examples), [title.split("->")[-1].strip() for title in titles])
    right.tick_params(length=0)
    figure.colorbar(image, ax=axes, location="top", shrink=0.5, label="attention, as a share of the row's largest")
    figure.set_layout_engine("constrained")
    return figure


def memory_figure(memory_BRC: Tensor, titles: Sequence[str], num_examples: int = 4) -> Figure:
    """The matrix that a model holds as its memory when it answers, for a few examples on one scale."""
    shown = memory_BRC[:num_examples].cpu()
    figure = Figure(figsize=(3.2 * len(shown) + 0.8, 3.6))
    bound = float(shown.abs().max()) or 1.0
    all_axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, matrix, title in zip(all_axes, shown, titles, strict=False):
        image = axes.imshow(matrix, cmap="RdBu_r", vmin=-bound, vmax=bound)
        axes.set_title(title.split("   ")[0], fontsize=9, family="monospace")
        axes.set_xlabel("unit")
    all_axes[0].set_ylabel("unit")
    figure.colorbar(image, ax=list(all_axes), shrink=0.8)
    return figure
