"""The boundary without layer norm and the bound with it, against closed forms."""

import numpy as np
import pytest
import torch

from src.theory.fast_weights_stability import with_layer_norm, without_layer_norm
from src.theory.fast_weights_stability.dynamics import STEPS, W


def test_the_boundary_without_layer_norm_is_where_predicted():
    result = without_layer_norm.find_blow_up(num_steps=120, num_decays=5, num_lrs=7, num_trials=20)
    assert [claim.statement for claim in result.claims if not claim.holds] == []
    assert result.critical[1] > result.critical[2] > result.critical[3]
    for S in STEPS:
        inside_LE = result.fast_lr_E[None] < result.critical[S] * (1 - result.decay_L[:, None])
        assert np.isfinite(result.norm_LE[S][inside_LE]).all()
        far_LE = result.fast_lr_E[None] > 2 * result.critical[S] * (1 - result.decay_L[:, None])
        assert not np.isfinite(result.norm_LE[S][far_LE & (result.decay_L[:, None] < 0.97)]).any()
    # with one read, the state at rest is the smallest positive root of h = (w h + 1)(1 + κ h²), and ‖A‖ = κ h²
    jacobian_radius, memory_radius = without_layer_norm._radii_at_rest(
        0.1, 0.9, torch.full((4,), 0.5, dtype=torch.float64)
    )
    roots = np.roots([0.1 * W, 0.1, W - 1, 1])
    smallest = min(root.real for root in roots if abs(root.imag) < 1e-12 and root.real > 0)
    assert memory_radius == pytest.approx(0.1 * smallest**2, rel=1e-9)
    assert 0.9 < jacobian_radius < 1
    assert len(without_layer_norm.draw_blow_up(result).axes) == 5


def test_with_layer_norm_every_setting_is_bounded():
    result = with_layer_norm.normalize_dynamics(num_units=6, num_steps=80, num_decays=4, num_lrs=4)
    assert [claim.statement for claim in result.claims if not claim.holds] == []
    for S in STEPS:
        assert np.isfinite(result.exponent_LE[S]).all()
        assert result.blown_up_LE[S].any()
        assert not result.blown_up_LE[S].all()
    assert len(with_layer_norm.draw_bounded(result).axes) == 4
