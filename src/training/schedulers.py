"""torch's learning-rate schedules, counted in updates, and one that follows the validation set."""

from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler


def constant(optimizer: Optimizer, max_updates: int) -> LRScheduler:
    """The same learning rate throughout."""
    return lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)


def cosine(optimizer: Optimizer, max_updates: int, *, final_lr: Annotated[float, Ge(0)] = 0.0) -> LRScheduler:
    """Half a cosine from the initial learning rate to `final_lr`, which it reaches after the last update."""
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


class Plateau(LRScheduler):
    """Multiplies the learning rate by a factor after some evaluations without a new best; see `plateau`.

    torch's `ReduceLROnPlateau` is stepped with a loss rather than at every update, and keeps a best value of its own.
    """

    def __init__(self, optimizer: Optimizer, factor: float, patience: int, least_lr: float):
        self.factor = factor
        self.patience = patience
        self.least_lr = least_lr
        self.evaluations_without_best = 0
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        """The current learning rates, which an update does not change."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def evaluated(self, is_best: bool) -> None:
        """Take an evaluation into account; `is_best` says whether its validation objective is the best so far."""
        self.evaluations_without_best = 0 if is_best else self.evaluations_without_best + 1
        if self.evaluations_without_best < self.patience:
            return
        self.evaluations_without_best = 0
        for group in self.optimizer.param_groups:
            group["lr"] = max(group["lr"] * self.factor, min(self.least_lr, group["lr"]))


def plateau(
    optimizer: Optimizer,
    max_updates: int,
    *,
    factor: Annotated[float, Gt(0), Lt(1)] = 0.5,
    patience: Annotated[int, Ge(1)] = 1,
    least_lr: Annotated[float, Ge(0)] = 0.0,
) -> LRScheduler:
    """Multiply the learning rate by `factor` after `patience` evaluations without a new best, down to `least_lr`."""
    return Plateau(optimizer, factor, patience, least_lr)
