"""Films of episodes: the screen over time, the actions taken, and what a memory attended to.

Shapes: T actions, A actions to choose from.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from src.reports.figures import colors
from src.specs import Film

FRAMES_IN_A_ROW = 12
UNSEEN, ITS_PIXELS = 0.35, 0.75
"""Gray levels of the background and of the pixels in a frame that the network does not see; 0 is white."""


def film_figure(film: Film, looks_TT: np.ndarray | None) -> Figure:
    """An episode on one page.

    Args:
        film: the episode.
        looks_TT: how strongly each step attends to each earlier one; None if the model has no memory that attends.
    """
    num_rows = -(-len(film.frames) // FRAMES_IN_A_ROW)
    figure = Figure(figsize=(12, 1.3 * num_rows + 4), layout="constrained")
    names = ["policy", "value"] if looks_TT is None else ["policy", "value", "attention"]
    layout: list[Any] = [["screen"] * len(names), names]
    all_axes = figure.subplot_mosaic(layout, height_ratios=[1.3 * num_rows, 3.5])
    all_axes["screen"].set_title(film.title, family="monospace", fontsize=11, pad=14)
    _draw_frames(all_axes["screen"], film)

    policy, value = all_axes["policy"], all_axes["value"]
    steps = np.arange(1, len(film.taken) + 1)
    within = (0.5, steps[-1] + 0.5, len(film.actions) - 0.5, -0.5)
    image = policy.imshow(film.policy.T, cmap="Blues", vmin=0, vmax=1, aspect="auto", extent=within)
    policy.plot(steps, film.taken, "o", color="black", markersize=4)
    policy.set_yticks(range(len(film.actions)), film.actions)
    policy.set(xlabel="frame", title="policy; dots: actions taken")
    figure.colorbar(image, ax=policy, label="probability", location="bottom")
    value.plot(steps, film.values, color="black", marker="o", markersize=3)
    value.axvline(film.seen.sum() + 0.5, color="0.5", linestyle=":")
    value.set(xlabel="frame", ylabel="expected return", title="value; dotted line: the screen goes dark")
    if looks_TT is not None:
        bound, within = float(abs(looks_TT).max()) or 1.0, (0.5, steps[-1] + 0.5, steps[-1] + 0.5, 0.5)
        shown = all_axes["attention"]
        image = shown.imshow(looks_TT, **colors(looks_TT, bound), aspect="auto", extent=within)
        shown.set(xlabel="earlier frame", ylabel="frame", title="attention to earlier frames")
        figure.colorbar(image, ax=shown, label="weight", location="bottom")
    for name in names:
        all_axes[name].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _draw_frames(axes: Axes, film: Film) -> None:
    """Draw all frames in one image, each labeled with its number and the action taken after it."""
    _, height, width = film.frames.shape
    gap, space = max(1, width // 8), max(4, height // 3)
    num_rows = -(-len(film.frames) // FRAMES_IN_A_ROW)
    whole = np.full((num_rows * (height + space), FRAMES_IN_A_ROW * (width + gap)), np.nan)
    for t, frame in enumerate(film.frames):
        top, left = (t // FRAMES_IN_A_ROW) * (height + space) + space, (t % FRAMES_IN_A_ROW) * (width + gap)
        shown = frame if film.seen[t] else UNSEEN + (ITS_PIXELS - UNSEEN) * frame
        whole[top : top + height, left : left + width] = shown
        move = film.actions[film.taken[t]] if t < len(film.taken) else "end"
        axes.text(left + width / 2, top - 1, f"{t + 1} {move}", ha="center", va="bottom", fontsize=8)
        axes.plot(
            *zip(*((left + dx * width - 0.5, top + dy * height - 0.5) for dx, dy in _CORNERS), strict=True),
            color="0.6",
            linewidth=0.5,
        )
    axes.imshow(whole, cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
    axes.axis("off")


_CORNERS = ((0, 0), (1, 0), (1, 1), (0, 1), (0, 0))
