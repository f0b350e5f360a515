"""The invariance of layer norm against its definition."""

import math

import numpy as np
import pytest

from src.theory.fast_weights_stability import layer_norm_invariance


def test_layer_norm_is_invariant_to_the_scale_of_the_state():
    result = layer_norm_invariance.scale_states()
    assert all(claim.holds for claim in result.claims)
    assert result.with_C.max() <= math.sqrt(result.num_units)
    assert result.without_C[2][-1] > 1e12
    # from the definition, with ε = 1e-5 and α = 0.01: √(1 + ε/α²) = √(1 + 0.1)
    at = np.abs(result.epsilon_scale_C - 0.01).argmin()
    expected = 1 - 1 / math.sqrt(1 + 1e-5 / result.epsilon_scale_C[at] ** 2)
    assert result.epsilon_error_C[at] == pytest.approx(expected, rel=1e-9)
    assert [len(axes.lines) for axes in layer_norm_invariance.draw_invariance(result).axes] == [4, 2, 2]
