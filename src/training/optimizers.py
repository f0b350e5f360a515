"""torch's optimizers with annotated settings, so that wrong values are found before a run starts."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import optree
import torch
from annotated_types import Ge, Gt, Len, Lt
from torch import Tensor, nn

from src.training.fast_updates import Columns, FusedAdamW

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


class RMSprop(torch.optim.RMSprop):
    """torch's RMSprop, which can also do a step for several runs at once."""

    @staticmethod
    def step_rows(weights_PN: Tensor, gradient_PN: Tensor, state: Mapping[str, Tensor], settings: Columns) -> None:
        """A step of P runs, each with its own settings; see `src.training.population`."""
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


class SGD(torch.optim.SGD):
    """torch's SGD, which can also do a step for several runs at once."""

    @staticmethod
    def step_rows(weights_PN: Tensor, gradient_PN: Tensor, state: Mapping[str, Tensor], settings: Columns) -> None:
        """A step of P runs, each with its own settings; see `src.training.population`."""
        lr, decay, momentum = (settings[key].to(weights_PN.dtype) for key in ("lr", "weight_decay", "momentum"))
        moved_PN = gradient_PN + decay * weights_PN
        if "momentum_buffer" in state:
            buffer_PN = state["momentum_buffer"].mul_(momentum).add_(moved_PN)
            moved_PN = moved_PN + momentum * buffer_PN if settings["nesterov"] else buffer_PN
        weights_PN.sub_(lr * moved_PN)


class StackedOptimizer:
    """The optimizers of P runs as one: one step for all rows of their weights, each with its own settings.

    Their states become rows of the states here. Optimizers without `step_rows` do their steps one after the other.

    Args:
        optimizers: of one vector of weights each, of one class, with states of the same shapes.
        weights_PN: the vectors as rows.
        gradient_PN: their gradients.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], weights_PN: Tensor, gradient_PN: Tensor):
        self.optimizers = optimizers
        self.weights_PN = weights_PN
        self.gradient_PN = gradient_PN
        self.groups = [optimizer.param_groups[0] for optimizer in optimizers]
        states = [self.state_of(optimizer) for optimizer in optimizers]
        self.state = {key: torch.stack([state[key] for state in states]) for key in states[0]}
        for row, optimizer in enumerate(optimizers):
            (weights,) = self.groups[row]["params"]
            if self.state:
                optimizer.state[weights] = {key: tensor[row] for key, tensor in self.state.items()}
            optimizer._opt_called = True  # type: ignore[attr-defined]  # its scheduler would miss its own steps
        self.settings: dict[str, Any] = {}
        self._read: dict[str, list] = {}

    def read_settings(self) -> None:
        """Take over the settings that have changed, such as learning rates."""
        for key in self.groups[0].keys() - {"params"}:
            values = [group[key] for group in self.groups]
            if self._read.get(key) != values:
                self._read[key], columns = values, self._columns(values)
                held = self.settings.setdefault(key, columns)
                optree.tree_map_(_write, held, columns)  # in place, since a CUDA graph may read it

    def _columns(self, values: list) -> Any:
        if isinstance(values[0], tuple | list):
            return [self._columns(list(items)) for items in zip(*values, strict=True)]
        if isinstance(values[0], bool | str | None):
            return values[0]
        return torch.tensor(values, dtype=torch.float64, device=self.weights_PN.device)[:, None]

    def step(self) -> None:
        """One step of every run."""
        if hasattr(self.optimizers[0], "step_rows"):
            self.optimizers[0].step_rows(self.weights_PN, self.gradient_PN, self.state, self.settings)
            return
        for optimizer in self.optimizers:
            optimizer.step()

    @staticmethod
    def state_of(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """The state of an optimizer of one vector; before its first step, zeros in the shapes that it will have."""
        (weights,) = optimizer.param_groups[0]["params"]
        if optimizer.state:
            return dict(optimizer.state[weights])
        twin = copy.deepcopy(optimizer)
        (weights,) = twin.param_groups[0]["params"]
        weights.grad = torch.zeros_like(weights)
        twin.step()
        return {key: torch.zeros_like(tensor) for key, tensor in twin.state[weights].items()}


def _write(held: Any, value: Any) -> None:
    if isinstance(held, Tensor):
        held.copy_(value)
