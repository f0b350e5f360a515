"""Adam equals the implementation of torch to the last bit."""

import pytest
import torch
from torch import nn

from src.training.optimizers import adam
from src.training.schedulers import cosine

GRADIENTS = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))


def steps(weights, optimizer, gradients):
    """Take a step with each gradient, and return the weights."""
    scheduler = cosine(optimizer, len(GRADIENTS))
    for gradient in gradients:
        weights.grad = gradient.clone()
        optimizer.step()
        scheduler.step()
    return weights.detach().clone()


def of_torch(parameters, weight_decay):
    return torch.optim.AdamW(parameters, 1e-2, (0.8, 0.95), 1e-6, weight_decay, fused=True)


def of_ours(parameters, weight_decay):
    return adam(parameters, lr=1e-2, betas=[0.8, 0.95], eps=1e-6, weight_decay=weight_decay)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_is_that_of_torch_with_or_without_its_hooks(weight_decay):
    theirs, ours = (nn.Parameter(torch.linspace(-1, 1, 40)) for _ in range(2))
    expected = steps(theirs, of_torch([theirs], weight_decay), GRADIENTS)
    assert torch.equal(steps(ours, of_ours([ours], weight_decay), GRADIENTS), expected)


def test_the_states_of_both_are_the_same():
    """A run can resume from a checkpoint that was written with either of them."""
    weights = [nn.Parameter(torch.linspace(-1, 1, 40)) for _ in range(2)]
    theirs, ours = of_torch([weights[0]], 0.1), of_ours([weights[1]], 0.1)
    for one, optimizer in zip(weights, (theirs, ours), strict=True):
        steps(one, optimizer, GRADIENTS[:3])
    saved = theirs.state_dict(), ours.state_dict()
    assert saved[0]["param_groups"] == saved[1]["param_groups"]
    theirs.load_state_dict(saved[1])
    ours.load_state_dict(saved[0])
    after = [steps(one, optimizer, GRADIENTS[3:]) for one, optimizer in zip(weights, (theirs, ours), strict=True)]
    assert torch.equal(*after)


def test_the_optimizers_of_others_keep_their_hooks():
    adam([nn.Parameter(torch.zeros(3))])
    called = []
    other = of_torch([nn.Parameter(torch.zeros(3))], 0.0)
    other.register_step_post_hook(lambda *arguments: called.append(True))
    other.step()
    assert called
