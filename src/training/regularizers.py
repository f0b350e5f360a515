"""Regularizers of recurrent networks: the norm stabilizer and weight noise."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def norm_stabilizer(hidden_BTH: Tensor, lengths: Tensor | None = None) -> Tensor:
    r"""Mean over the batch of 1/(T-1) Σ_{t=2..T} (‖h_t‖ - ‖h_{t-1}‖)², Krueger & Memisevic (2016), arXiv 1511.08400.

    The paper's sum starts at t = 1; with h_0 = 0 that term would penalize the first step of a network that keeps
    its norm perfectly. A small constant under the root keeps its gradient finite at h = 0.

    Args:
        hidden_BTH: the hidden states.
        lengths: length T of each sequence [B], if some are padded; sequences of length 0 do not count, and the result
            is 0 if all are.
    """
    norms_BT = (hidden_BTH.square().sum(-1) + 1e-12).sqrt()
    if norms_BT.shape[1] == 1:
        return norms_BT.new_zeros(())
    squares_BT = norms_BT.diff(dim=1).square()
    if lengths is None:
        return squares_BT.mean()
    counts_BT = torch.arange(1, hidden_BTH.shape[1], device=lengths.device) < lengths[:, None]
    means_B = (squares_BT * counts_BT).sum(1) / (lengths - 1).clamp(min=1)
    return means_B.sum() / (lengths > 0).sum().clamp(min=1)


@contextmanager
def weight_noise(model: nn.Module, standard_deviation: float) -> Iterator[None]:
    """Add Gaussian noise to all weights, then restore them exactly; the gradient is taken at the noisy weights."""
    if standard_deviation == 0:
        yield
        return
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    clean = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn_like(parameter), alpha=standard_deviation)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, clean, strict=True):
                parameter.copy_(value)
