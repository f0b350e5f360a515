"""The colors of weights."""

import numpy as np
import pytest
import torch

from src.reports.figures import attention_figure
from src.reports.film import film_figure
from src.specs import Film


def film():
    """An episode of two actions."""
    frames, policy = np.zeros((3, 4, 4)), np.full((2, 2), 0.5)
    seen, taken, values = np.ones(3, dtype=bool), np.zeros(2, dtype=int), np.zeros(2)
    return Film("a film", frames, seen, ["left", "right"], taken, policy, values)


@pytest.mark.parametrize("least", [0.25, -0.25, -1.0])
def test_negative_attention_differs_from_none(least):
    attention = torch.tensor([[1.0, 0.0], [1.0, least]])
    page, alone = film_figure(film(), attention.numpy()), attention_figure(attention, ["abc", "abc"])
    in_film = next(axes for axes in page.axes if axes.get_title() == "attention to earlier frames")
    for image in (in_film.images[0], alone.axes[0].images[0]):
        assert image.get_clim() == ((0, 1) if least > 0 else (-1, 1))
        colors = {tuple(image.cmap(image.norm(weight))) for weight in (0.0, -abs(least))}
        assert len(colors) == (1 if least > 0 else 2)
