"""Initializations of weight matrices, shared by several architectures.

A matrix multiplies from the left, W h, so its shape is [outputs, inputs].
"""

import math

import torch
from torch import Tensor


@torch.no_grad()
def uniform_fan_out_(weight: Tensor) -> Tensor:
    """Fill with U(-1/sqrt(n), 1/sqrt(n)), where n is the number of outgoing weights of one input unit.

    Ba et al. (2016), appendix A.1, print the bound sqrt(n); taken literally, it saturates the softmax from the start.
    """
    bound = 1 / math.sqrt(weight.shape[0])
    return weight.uniform_(-bound, bound)


@torch.no_grad()
def scaled_identity_(weight: Tensor, scale: float) -> Tensor:
    """Fill with `scale` times the identity."""
    return torch.nn.init.eye_(weight).mul_(scale)


@torch.no_grad()
def spectral_radius_(weight: Tensor, radius: float) -> Tensor:
    """Fill with a Gaussian matrix, scaled so that the largest modulus of its eigenvalues is `radius`."""
    weight.normal_()
    return weight.mul_(radius / torch.linalg.eigvals(weight).abs().amax())
