"""The fold, the gradient on the cliff, and a clipped step."""

import numpy as np
import pytest
import torch

from src.theory import loss_cliff


def test_the_fold_is_where_the_slope_is_one():
    for w in (4.5, 6.0, 8.0):
        b = loss_cliff.fold_bias(w)
        h = 1 / (1 + np.exp(-np.linspace(-8, 0, 400_001)))  # the lower half
        assert b == pytest.approx((np.log(h / (1 - h)) - w * h).max(), abs=1e-8)


def test_gradient_by_hand_equals_finite_differences():
    w, b, step = 5.0, -2.3, 1e-6

    def loss(w, b):
        return float(loss_cliff.loss_of(*torch.tensor([w, b], dtype=torch.float64), num_steps=50, target=0.15))

    numeric = [
        (loss(w + step, b) - loss(w - step, b)) / (2 * step),
        (loss(w, b + step) - loss(w, b - step)) / (2 * step),
    ]
    np.testing.assert_allclose(loss_cliff.gradient_by_hand(w, b, 50, 0.15), numeric, rtol=1e-5)


def test_a_clipped_step_is_the_rate_times_the_threshold():
    start = (6.0, loss_cliff.fold_bias(6.0) + loss_cliff.excess_bias(6.0, 50))
    gradient = loss_cliff.gradient_by_hand(*start, 50, 0.15)
    assert np.linalg.norm(gradient) > 1
    path = loss_cliff.descend(start, 0.05, 1.0, 1, 50, 0.15)
    np.testing.assert_allclose(path[1] - path[0], -0.05 * gradient / np.linalg.norm(gradient), rtol=1e-4)
    path = loss_cliff.descend(start, 0.05, None, 1, 50, 0.15)
    np.testing.assert_allclose(path[1] - path[0], -0.05 * gradient, rtol=1e-9)


def test_a_clipped_step_in_another_direction_refutes_the_claim(monkeypatch):
    def turned(parameters, threshold):
        (parameter,) = parameters
        parameter.grad = threshold * parameter.grad.flip(0) / parameter.grad.norm()

    (claim,) = (claim for claim in loss_cliff.run(resolution=401).claims if claim.statement.startswith("Clipping"))
    assert claim.holds
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", turned)
    (claim,) = (claim for claim in loss_cliff.run(resolution=401).claims if claim.statement.startswith("Clipping"))
    assert claim.measured == pytest.approx(0.05)
    assert not claim.holds
