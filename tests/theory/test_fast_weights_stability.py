"""The stability of fast weights against closed forms, exponents that are known, and other ways to compute the same."""

import math

import numpy as np
import pytest
import torch

from src.errors import UserError
from src.models.gru import GRU
from src.models.sequence import SequenceModel
from src.tasks.associative_retrieval import AssociativeRetrieval
from src.theory import fast_weights_dynamics as dynamics
from src.theory import fast_weights_stability as topic
from src.theory import fast_weights_training as training
from src.theory import layer_norm_invariance
from src.theory.gradient_norms import Trained


def test_critical_strength_in_closed_form():
    assert dynamics.critical_strength(0, 1) == pytest.approx(0.5)
    # the limit of many readings, max u (1 - u²) at u = 1/√3
    assert dynamics.critical_strength(0, 60) == pytest.approx(2 / (3 * math.sqrt(3)), rel=1e-6)
    # where u/(1 + u²) - w u is steepest, by a grid
    u = np.linspace(0, 2, 2_000_001)
    for w, S in ((0.05, 1), (0.3, 2)):
        by_grid = (u / sum(u ** (2 * j) for j in range(S + 1)) - w * u).max()
        assert dynamics.critical_strength(w, S) == pytest.approx(by_grid, rel=1e-9)


def test_a_grid_of_settings_is_the_same_as_one_after_the_other():
    core = dynamics.make_core(5, 2, layer_norm=True)
    decay_G, fast_lr_G = np.array([0.5, 0.9, 0.99]), np.array([0.1, 2.0, 0.5])
    p_TGH = torch.randn(7, 3, 5, dtype=torch.float64)
    norms_TG, state = dynamics.run(dynamics.on_grid(core, decay_G, fast_lr_G), p_TGH)
    for g in range(3):
        single = dynamics.make_core(5, 2, layer_norm=True, decay=decay_G[g], fast_lr=fast_lr_G[g])
        h_1TH, after = single.scan(p_TGH[:, g][None])
        np.testing.assert_allclose(norms_TG[:, g], h_1TH[0].norm(dim=1), rtol=1e-10)
        torch.testing.assert_close(state.A_BHH[g], after.A_BHH[0])


def test_the_full_jacobian_is_that_of_finite_differences():
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


def test_exponents_that_are_known():
    """Without input and with a small W the memory alone decides, ln λ; a linear network without memory, ln |w|."""
    decay_G = np.array([0.3, 0.7, 0.95])
    core = dynamics.make_core(4, 1, layer_norm=False, recurrent_scale=0.01)
    zeros_TGH = torch.zeros(60, 3, 4, dtype=torch.float64)
    found_G = dynamics.lyapunov_exponents(dynamics.on_grid(core, decay_G, np.full(3, 0.5)), zeros_TGH, 20)
    np.testing.assert_allclose(found_G, np.log(decay_G), atol=1e-6)
    linear = dynamics.make_core(4, 1, layer_norm=False, recurrent_scale=1.3, nonlinearity="linear")
    found_G = dynamics.lyapunov_exponents(dynamics.on_grid(linear, decay_G, np.zeros(3)), zeros_TGH, 20)
    np.testing.assert_allclose(found_G, np.log(1.3), atol=1e-5)


def test_without_layer_norm_the_boundary_is_where_it_is_predicted():
    result = topic.find_blow_up(num_steps=120, num_decays=5, num_lrs=7, num_trials=20)
    assert [claim.statement for claim in result.claims if not claim.holds] == []
    assert result.critical[1] > result.critical[2] > result.critical[3]
    for S in topic.STEPS:
        inside_LE = result.fast_lr_E[None] < result.critical[S] * (1 - result.decay_L[:, None])
        assert np.isfinite(result.norm_LE[S][inside_LE]).all()
        far_LE = result.fast_lr_E[None] > 2 * result.critical[S] * (1 - result.decay_L[:, None])
        assert not np.isfinite(result.norm_LE[S][far_LE & (result.decay_L[:, None] < 0.97)]).any()
    # the discriminant of h = (1 + κ h²): with w = 0, h = (1 - √(1 - 4κ))/2κ and ‖A‖ = κ h²
    jacobian_radius, memory_radius = topic._radii_at_rest(0.1, 0.9, torch.full((4,), 0.5, dtype=torch.float64))
    roots = np.roots([0.1 * topic.W, 0.1, topic.W - 1, 1])
    smallest = min(root.real for root in roots if abs(root.imag) < 1e-12 and root.real > 0)
    assert memory_radius == pytest.approx(0.1 * smallest**2, rel=1e-9)
    assert 0.9 < jacobian_radius < 1
    assert len(topic.draw_blow_up(result).axes) == 5


def test_with_layer_norm_every_setting_is_bounded():
    result = topic.normalize_dynamics(num_units=6, num_steps=80, num_decays=4, num_lrs=4)
    assert [claim.statement for claim in result.claims if not claim.holds] == []
    for S in topic.STEPS:
        assert np.isfinite(result.exponent_LE[S]).all()
        assert result.blown_up_LE[S].any()
        assert not result.blown_up_LE[S].all()
    assert topic.draw_bounded(result).axes


def test_layer_norm_does_not_see_the_size_of_the_state():
    result = layer_norm_invariance.scale_states()
    assert all(claim.holds for claim in result.claims)
    assert result.with_C.max() <= math.sqrt(result.num_units)
    assert result.without_C[2][-1] > 1e12
    # by the definition, with α = 0.01: √(1 + 0.1)
    at = np.abs(result.epsilon_scale_C - 0.01).argmin()
    expected = 1 - 1 / math.sqrt(1 + 1e-5 / result.epsilon_scale_C[at] ** 2)
    assert result.epsilon_error_C[at] == pytest.approx(expected, rel=1e-9)
    assert layer_norm_invariance.draw_invariance(result).axes


def test_maps_before_and_after_training():
    result = training.compare_before_and_after(num_updates=60, num_decays=2, num_lrs=2, num_steps=40)
    assert result.claims[0].holds
    for values_LE in (*result.exponent_LE, result.error_LE):
        assert values_LE.shape == (2, 2)
        assert np.isfinite(values_LE).all()
    assert not np.allclose(*result.exponent_LE)
    assert training.draw_before_and_after(result).axes


def test_maps_of_a_run(train, tiny, tmp_path):
    assert train("model=fastweights", *tiny).status == 0
    (folder,) = (path.parent for path in tmp_path.rglob("result.json"))
    result = training.compare_before_and_after(run=str(folder), num_decays=2, num_lrs=2, num_steps=30)
    assert result.trained_at == (0.95, 0.5)
    assert [claim.holds for claim in result.claims] == [True]


def test_a_run_without_fast_weights_is_refused(monkeypatch):
    task = AssociativeRetrieval(0, num_pairs=1)
    model = SequenceModel(task.input_spec, task.output_spec, lambda size: GRU(size, hidden_size=4))
    monkeypatch.setattr(training, "load_run", lambda run: Trained("gru", model, model, task, 1))
    with pytest.raises(UserError, match="run=here: not a network with fast weights"):
        training.compare_before_and_after(run="here")


def test_without_layer_norm_training_fails_at_once():
    result = training.train_across_settings(num_updates=5, decays=(0.95,), fast_lrs=(0.5,), num_units=8)
    assert math.isnan(result.loss[False, 0.95, 0.5])
    assert math.isfinite(result.loss[True, 0.95, 0.5])
    assert result.floor == pytest.approx(0.624, abs=0.001)
    assert training.draw_learning(result).axes
