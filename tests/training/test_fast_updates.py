"""Training one vector of all weights equals training the separate weights; steps and clipping are those of torch."""

import math

import pytest
import torch
from torch import nn

from src.training.fast_updates import FusedAdamW, clip_norm_, clip_rows_, flat_parameters
from src.training.optimizers import SGD, RMSprop


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2, bias=False)).double()


def train(network, parameters, num_updates=20):
    optimizer = torch.optim.Adam(parameters, lr=0.1)
    for x in torch.randn(num_updates, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)):
        optimizer.zero_grad(set_to_none=False)
        network(x).square().mean().backward()
        nn.utils.clip_grad_norm_(parameters, 0.1)
        optimizer.step()


def test_training_the_vector_trains_the_weights():
    separate, flat = model(), model()
    vector = flat_parameters(flat)
    train(separate, list(separate.parameters()))
    train(flat, [vector])
    for name, weight in separate.state_dict().items():
        torch.testing.assert_close(flat.state_dict()[name], weight, rtol=1e-9, atol=1e-12)
    assert not torch.equal(next(flat.parameters()), next(model().parameters()))


def test_loaded_weights_are_those_of_the_vector():
    flat = model()
    vector = flat_parameters(flat)
    flat.load_state_dict({name: torch.full_like(weight, 2.0) for name, weight in flat.state_dict().items()})
    assert torch.equal(vector, torch.full_like(vector, 2.0))
    assert vector.numel() == sum(parameter.numel() for parameter in flat.parameters())


def test_frozen_weights_stay_outside():
    flat = model()
    flat[0].bias.requires_grad_(False)
    assert flat_parameters(flat).numel() == 12 + 8


def test_the_fused_step_is_that_of_torch_and_resumes_from_its_state():
    mine, theirs = (nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.float64)) for _ in range(2))
    settings = {"lr": 0.1, "betas": (0.8, 0.99), "eps": 1e-3, "weight_decay": 0.1}
    optimizer, other = FusedAdamW([mine], **settings, fused=True), torch.optim.AdamW([theirs], **settings)
    for update in range(10):
        for weight in (mine, theirs):
            weight.grad = torch.sin(3 * weight.detach())
        optimizer.step()
        other.step()
        if update == 4:
            state = optimizer.state_dict()
            optimizer = FusedAdamW([mine], **settings, fused=True)
            optimizer.load_state_dict(state)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize(("mine", "theirs"), [(SGD, torch.optim.SGD), (RMSprop, torch.optim.RMSprop)])
def test_steps_without_wrappers_are_those_of_torch(mine, theirs, momentum):
    values = []
    for kind in (mine, theirs):
        weights = nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.float64))
        optimizer = kind([weights], 0.1, momentum=momentum, weight_decay=0.1)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        for update in range(10):
            weights.grad = torch.sin(3 * weights.detach())
            optimizer.step()
            scheduler.step()
            if update == 4:
                state, optimizer = optimizer.state_dict(), kind([weights], 0.1, momentum=momentum, weight_decay=0.1)
                optimizer.load_state_dict(state)
                scheduler.optimizer = optimizer
        values.append(weights.detach())
    assert torch.equal(*values)


def test_clipping_is_that_of_torch():
    gradient = torch.randn(50, dtype=torch.float64)
    for bound in (0.1, 1e3, None):
        clipped, theirs = gradient.clone(), nn.Parameter(torch.zeros(50, dtype=torch.float64))
        theirs.grad = gradient.clone()
        norm = clip_norm_(clipped, bound)
        expected = nn.utils.clip_grad_norm_([theirs], float("inf") if bound is None else bound)
        torch.testing.assert_close(norm, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(clipped, theirs.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1e18, 1e20, 1e30, 3e38])
@pytest.mark.parametrize("bound", [0.5, 1e3, None])
def test_a_gradient_is_scaled_as_long_as_its_numbers_are_finite(size, bound):
    """The squares of numbers above 1e19 overflow float32."""
    gradient = size * torch.randn(1000, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    exact = gradient.double()
    expected = exact if bound is None else exact * (bound / exact.norm())
    alone, rows = gradient.clone(), torch.stack([gradient, 1e-3 * gradient / size])
    bounds = torch.tensor([math.inf if bound is None else bound, 0.5])
    norms = clip_norm_(alone, bound).double(), clip_rows_(rows, bounds)[0]
    for norm, scaled in zip(norms, (alone, rows[0]), strict=True):
        torch.testing.assert_close(norm, exact.norm(), rtol=1e-6, atol=0)
        torch.testing.assert_close(scaled.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(rows[1], 1e-3 * gradient / size, rtol=1e-6, atol=0)


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf")])
def test_what_is_not_finite_is_neither_hidden_nor_scaled_away(spoilt):
    gradient = torch.tensor([1.0, spoilt])
    rows = gradient[None].clone()
    assert not math.isfinite(clip_norm_(gradient, 1.0))
    assert not clip_rows_(rows, torch.ones(1)).isfinite()
    assert gradient[1].isnan()
    assert rows[0, 1].isnan()
    unbounded = torch.tensor([[1.0, spoilt]])
    clip_rows_(unbounded, torch.tensor([math.inf]))
    assert unbounded[0, 0] == 1


@pytest.mark.parametrize("change", [nn.Module.double, nn.Module.half, lambda part: part.to("meta")])
def test_what_would_take_weights_from_the_optimizer_is_an_error(change):
    flat = model()
    vector = flat_parameters(flat)
    for part in (flat, flat[0]):
        with pytest.raises(RuntimeError, match="convert or move the model before that"):
            change(part)
    assert flat[0].weight.data_ptr() == vector.data_ptr()
