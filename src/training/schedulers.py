"""torch's learning-rate schedules, counted in updates."""

from typing import Annotated

from annotated_types import Ge, Gt, Le
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler


def constant(optimizer: Optimizer, max_updates: int) -> LRScheduler:
    """The same learning rate throughout."""
    return lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)


def cosine(optimizer: Optimizer, max_updates: int, *, final_lr: Annotated[float, Ge(0)] = 0.0) -> LRScheduler:
    """Half a cosine from the initial learning rate to `final_lr` at the last update."""
    return lr_scheduler.CosineAnnealingLR(optimizer, T_max=max_updates, eta_min=final_lr)


def step(
    optimizer: Optimizer,
    max_updates: int,
    *,
    every: Annotated[int, Ge(1)] = 10_000,
    factor: Annotated[float, Gt(0), Le(1)] = 0.1,
) -> LRScheduler:
    """Multiply the learning rate by `factor` after every `every` updates."""
    return lr_scheduler.StepLR(optimizer, step_size=every, gamma=factor)


def exponential(
    optimizer: Optimizer,
    max_updates: int,
    *,
    every: Annotated[int, Ge(1)] = 10_000,
    factor: Annotated[float, Gt(0), Le(1)] = 0.5,
) -> LRScheduler:
    """Decay the learning rate smoothly, by `factor` per `every` updates."""
    return lr_scheduler.ExponentialLR(optimizer, gamma=factor ** (1 / every))
