"""The norm stabilizer and weight noise against their definitions."""

import numpy as np
import pytest
import torch
from torch import nn

from src.training.regularizers import norm_stabilizer, weight_noise


def test_padding_does_not_count_in_the_norm_stabilizer():
    hidden_BTH = torch.randn(3, 8, 5, dtype=torch.float64)
    lengths = torch.tensor([8, 3, 1])
    alone = [norm_stabilizer(row[None, :length]) for row, length in zip(hidden_BTH, lengths, strict=True)]
    torch.testing.assert_close(norm_stabilizer(hidden_BTH, lengths), torch.stack(alone).mean())


def test_sequences_without_steps_do_not_count_in_the_norm_stabilizer():
    hidden_BTH = torch.randn(4, 5, 3, dtype=torch.float64)
    some = norm_stabilizer(hidden_BTH[:2], torch.tensor([5, 3]))
    torch.testing.assert_close(norm_stabilizer(hidden_BTH, torch.tensor([5, 3, 0, 0])), some)


def test_the_norm_stabilizer_is_zero_without_any_step():
    hidden_BTH = torch.randn(2, 5, 3, requires_grad=True)
    penalty = norm_stabilizer(hidden_BTH, torch.tensor([0, 0]))
    penalty.backward()
    assert penalty == 0
    assert torch.equal(hidden_BTH.grad, torch.zeros(2, 5, 3))


def test_the_norm_stabilizer_is_zero_for_states_of_equal_norm():
    hidden_BTH = nn.functional.normalize(torch.randn(3, 8, 5, dtype=torch.float64), dim=-1) * 7
    assert norm_stabilizer(hidden_BTH) < 1e-20


def test_the_norm_stabilizer_is_the_mean_squared_change_of_the_norm():
    hidden_BTH = torch.randn(3, 8, 5, dtype=torch.float64)
    norms = np.linalg.norm(hidden_BTH.numpy(), axis=-1)
    expected = np.mean([np.sum((norms[b, 1:] - norms[b, :-1]) ** 2) / 7 for b in range(3)])
    np.testing.assert_allclose(norm_stabilizer(hidden_BTH), expected, rtol=1e-9)


def test_the_norm_stabilizer_has_no_term_for_the_first_step():
    hidden_BTH = torch.randn(3, 1, 5, requires_grad=True)
    assert norm_stabilizer(hidden_BTH) == 0
    assert norm_stabilizer(hidden_BTH.expand(3, 4, 5)) < 1e-12


def test_the_norm_stabilizer_has_a_finite_gradient_at_zero():
    hidden_BTH = torch.zeros(2, 4, 3, requires_grad=True)
    (2 * norm_stabilizer(hidden_BTH)).backward()
    assert torch.equal(hidden_BTH.grad, torch.zeros(2, 4, 3))
    hidden_BTH = torch.cat([torch.zeros(2, 2, 3), torch.ones(2, 2, 3)], dim=1).requires_grad_()
    norm_stabilizer(hidden_BTH).backward()
    assert hidden_BTH.grad.isfinite().all()


def test_weight_noise_is_taken_off_to_the_last_bit():
    model = nn.GRU(3, 4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with weight_noise(model, 0.3):
        assert all(not torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weight_noise_is_taken_off_after_an_error_too():
    model = nn.Linear(3, 4)
    before = model.weight.detach().clone()
    with pytest.raises(ZeroDivisionError), weight_noise(model, 0.3):
        1 / 0  # noqa: B018
    assert torch.equal(model.weight, before)


def test_weight_noise_has_the_standard_deviation_asked_for_and_is_new_every_time():
    model = nn.Linear(100, 100, bias=False)
    before = model.weight.detach().clone()
    drawn = []
    for _ in range(2):
        with weight_noise(model, 0.3):
            drawn.append(model.weight.detach() - before)
    for noise in drawn:
        assert abs(noise.mean()) < 0.01
        assert abs(noise.std() - 0.3) < 0.01
    assert abs((drawn[0] * drawn[1]).mean()) < 0.005


def test_the_gradient_is_that_of_the_noisy_weights():
    """For the loss (w x)^2 / 2 the gradient is (w + noise) x x^T, not w x x^T."""
    model = nn.Linear(3, 1, bias=False)
    clean = model.weight.detach().clone()
    x = torch.tensor([[1.0, -2.0, 0.5]])
    with weight_noise(model, 0.5):
        noisy = model.weight.detach().clone()
        (model(x).square().sum() / 2).backward()
    assert torch.equal(model.weight, clean)
    torch.testing.assert_close(model.weight.grad, noisy @ x.T @ x)
    assert not torch.allclose(model.weight.grad, clean @ x.T @ x)


def test_weight_noise_leaves_frozen_weights_alone():
    model = nn.Linear(3, 4)
    model.weight.requires_grad_(False)
    before = model.weight.clone()
    with weight_noise(model, 0.3):
        assert torch.equal(model.weight, before)


def test_weight_noise_of_zero_draws_nothing():
    model = nn.Linear(3, 4)
    weight, state = model.weight.detach().clone(), torch.get_rng_state()
    with weight_noise(model, 0.0):
        assert torch.equal(model.weight, weight)
    assert torch.equal(torch.get_rng_state(), state)
