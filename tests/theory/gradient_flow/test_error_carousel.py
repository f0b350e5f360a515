"""The constant error carousel against powers of its forget gate."""

import math

import numpy as np

from src.theory.gradient_flow import error_carousel


def test_the_error_carousel():
    result = error_carousel.ride_carousel(num_units=6, num_steps=40)
    assert all(claim.holds for claim in result.claims)
    for bias in (0, 1, 4):
        forget = 1 / (1 + math.exp(-bias))
        np.testing.assert_allclose(
            result.along_cell_state[f"forget bias {bias}"], forget ** np.arange(41.0), rtol=1e-10
        )
    assert [len(axes.lines) for axes in error_carousel.draw_carousel(result).axes] == [4, 2]
