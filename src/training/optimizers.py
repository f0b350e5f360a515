"""torch's optimizers with annotated settings, so that invalid values are found before a run starts."""

from collections.abc import Iterable, Mapping
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Len, Lt
from torch import Tensor, nn

from src.training.fast_updates import Columns, FusedAdamW, Unwrapped

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
    return RMSprop(parameters, lr, alpha, eps, weight_decay, momentum)


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
    return SGD(parameters, lr, momentum, weight_decay=weight_decay, nesterov=nesterov)


class RMSprop(Unwrapped, torch.optim.RMSprop):  # type: ignore[misc]
    """torch's RMSprop, which can also perform a step for several runs at once."""

    @staticmethod
    def step_rows(weights_PN: Tensor, gradient_PN: Tensor, state: Mapping[str, Tensor], settings: Columns) -> None:
        """Perform one step for P runs, each with its own settings; see `src.training.population`."""
        lr, decay, alpha, eps, momentum = (
            settings[key].to(weights_PN.dtype) for key in ("lr", "weight_decay", "alpha", "eps", "momentum")
        )
        state["step"].add_(1)
        gradient_PN = gradient_PN + decay * weights_PN
        square_PN = state["square_avg"].mul_(alpha).addcmul_(gradient_PN, gradient_PN * (1 - alpha))
        moved_PN = gradient_PN / square_PN.sqrt().add_(eps)
        if "momentum_buffer" in state:
            moved_PN = state["momentum_buffer"].mul_(momentum).add_(moved_PN)
        weights_PN.sub_(lr * moved_PN)


class SGD(Unwrapped, torch.optim.SGD):  # type: ignore[misc]
    """torch's SGD, which can also perform a step for several runs at once."""

    @staticmethod
    def step_rows(weights_PN: Tensor, gradient_PN: Tensor, state: Mapping[str, Tensor], settings: Columns) -> None:
        """Perform one step for P runs, each with its own settings; see `src.training.population`."""
        lr, decay, momentum = (settings[key].to(weights_PN.dtype) for key in ("lr", "weight_decay", "momentum"))
        moved_PN = gradient_PN + decay * weights_PN
        if "momentum_buffer" in state:
            buffer_PN = state["momentum_buffer"].mul_(momentum).add_(moved_PN)
            moved_PN = moved_PN + momentum * buffer_PN if settings["nesterov"] else buffer_PN
        weights_PN.sub_(lr * moved_PN)
