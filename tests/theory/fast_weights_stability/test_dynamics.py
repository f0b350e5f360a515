"""The dynamics of fast weights against closed forms, known exponents, and a loop over the settings."""

import math

import numpy as np
import pytest
import torch

from src.theory.fast_weights_stability import dynamics


def test_critical_strength_in_closed_form():
    assert dynamics.critical_strength(0, 1) == pytest.approx(0.5)
    # in the limit of many reads, the maximum of u (1 - u²), at u = 1/√3
    assert dynamics.critical_strength(0, 60) == pytest.approx(2 / (3 * math.sqrt(3)), rel=1e-6)
    # the maximum of u/(1 + u² + ... + u^(2S)) - w u, on a grid
    u = np.linspace(0, 2, 2_000_001)
    for w, S in ((0.05, 1), (0.3, 2)):
        by_grid = (u / sum(u ** (2 * j) for j in range(S + 1)) - w * u).max()
        assert dynamics.critical_strength(w, S) == pytest.approx(by_grid, rel=1e-9)


def test_a_grid_of_settings_equals_a_loop_over_them():
    core = dynamics.make_core(5, 2, layer_norm=True)
    decay_G, fast_lr_G = np.array([0.5, 0.9, 0.99]), np.array([0.1, 2.0, 0.5])
    p_TGH = torch.randn(7, 3, 5, dtype=torch.float64)
    norms_TG, state = dynamics.run(dynamics.on_grid(core, decay_G, fast_lr_G), p_TGH)
    for g in range(3):
        single = dynamics.make_core(5, 2, layer_norm=True, decay=decay_G[g], fast_lr=fast_lr_G[g])
        h_1TH, after = single.scan(p_TGH[:, g][None])
        np.testing.assert_allclose(norms_TG[:, g], h_1TH[0].norm(dim=1), rtol=1e-10)
        torch.testing.assert_close(state.A_BHH[g], after.A_BHH[0])


def test_the_full_jacobian_equals_finite_differences():
    core = dynamics.make_core(3, 2, layer_norm=True, decay=0.9)
    p_H, h_H, A_HH = torch.randn(3).double(), torch.rand(3).double(), torch.randn(3, 3).double()
    state = dynamics.FastWeightsState(h_H, A_HH)
    jacobian_NN = dynamics.full_jacobian(core, p_H, state)
    flat_N = torch.cat([h_H, A_HH.flatten()])
    for column in range(12):
        ends = []
        for sign in (1, -1):
            moved_N = flat_N.clone()
            moved_N[column] += sign * 1e-6
            moved = dynamics.FastWeightsState(moved_N[None, :3], moved_N[3:].view(1, 3, 3))
            ends.append(torch.cat([part.flatten() for part in core.step(p_H[None], moved)[1]]))
        torch.testing.assert_close(jacobian_NN[:, column], (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-8)


def test_known_exponents():
    """Without input and with a small W, the memory sets the exponent, ln λ.

    In a linear network without memory, W sets it, ln |w|.
    """
    decay_G = np.array([0.3, 0.7, 0.95])
    core = dynamics.make_core(4, 1, layer_norm=False, recurrent_scale=0.01)
    zeros_TGH = torch.zeros(60, 3, 4, dtype=torch.float64)
    found_G = dynamics.lyapunov_exponents(dynamics.on_grid(core, decay_G, np.full(3, 0.5)), zeros_TGH, 20)
    np.testing.assert_allclose(found_G, np.log(decay_G), atol=1e-6)
    linear = dynamics.make_core(4, 1, layer_norm=False, recurrent_scale=1.3, nonlinearity="linear")
    found_G = dynamics.lyapunov_exponents(dynamics.on_grid(linear, decay_G, np.zeros(3)), zeros_TGH, 20)
    np.testing.assert_allclose(found_G, np.log(1.3), atol=1e-5)
