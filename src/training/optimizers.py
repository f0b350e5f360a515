"""torch's optimizers with annotated settings, so that wrong values are found before a run starts."""

from collections.abc import Iterable
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Len, Lt
from torch import nn

from src.training.fast_updates import FusedAdamW

LearningRate = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Lt(1)]


def adam(
    parameters: Iterable[nn.Parameter],
    *,
    lr: LearningRate = 1e-3,
    betas: Annotated[list[Fraction], Len(2, 2)] = (0.9, 0.999),  # type: ignore[assignment]
    eps: Annotated[float, Gt(0)] = 1e-8,
    weight_decay: Annotated[float, Ge(0)] = 0.0,
) -> torch.optim.Optimizer:
    """Adam (Kingma & Ba, 2015); `weight_decay` is decoupled (AdamW, Loshchilov & Hutter, 2019)."""
    return FusedAdamW(parameters, lr, (betas[0], betas[1]), eps, weight_decay, fused=True)


def rmsprop(
    parameters: Iterable[nn.Parameter],
    *,
    lr: LearningRate = 1e-3,
    alpha: Fraction = 0.99,
    eps: Annotated[float, Gt(0)] = 1e-8,
    momentum: Fraction = 0.0,
    weight_decay: Annotated[float, Ge(0)] = 0.0,
) -> torch.optim.Optimizer:
    """RMSProp (Tieleman & Hinton, 2012), with optional momentum."""
    return torch.optim.RMSprop(parameters, lr, alpha, eps, weight_decay, momentum)


def sgd(
    parameters: Iterable[nn.Parameter],
    *,
    lr: LearningRate = 1e-2,
    momentum: Fraction = 0.0,
    nesterov: bool = False,
    weight_decay: Annotated[float, Ge(0)] = 0.0,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent, with optional (Nesterov) momentum."""
    if nesterov and momentum == 0:
        raise ValueError("nesterov=true: requires momentum above 0")
    return torch.optim.SGD(parameters, lr, momentum, weight_decay=weight_decay, nesterov=nesterov)
