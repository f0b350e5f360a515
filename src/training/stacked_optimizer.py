"""The optimizers of several runs as one, for `src.training.population`.

Shapes: P runs, N weights of each.
"""

from collections.abc import Callable, Sequence
from typing import Any

import optree
import torch
from torch import Tensor

from src.training.state import state_after_a_step


class StackedOptimizer:
    """The optimizers of P runs as one, which performs one step for all rows of weights, each with its own settings.

    The states of the optimizers become rows of the state here.

    Args:
        optimizers: one per run, each of one vector of weights. All are of one class, which has `step_rows`, and their
            states have the same shapes.
        weights_PN: the vectors, as rows.
        gradient_PN: the gradients of the vectors.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], weights_PN: Tensor, gradient_PN: Tensor):
        self.step_rows: Callable[..., None] = optimizers[0].step_rows  # type: ignore[attr-defined]
        self.weights_PN = weights_PN
        self.gradient_PN = gradient_PN
        self.groups = [optimizer.param_groups[0] for optimizer in optimizers]
        states = [self.state_of(optimizer) for optimizer in optimizers]
        self.state = {key: torch.stack([state[key] for state in states]) for key in states[0]}
        for row, optimizer in enumerate(optimizers):
            (weights,) = self.groups[row]["params"]
            if self.state:
                optimizer.state[weights] = {key: tensor[row] for key, tensor in self.state.items()}
            optimizer._opt_called = True  # type: ignore[attr-defined]  # else its scheduler warns that it never steps
        self.settings: dict[str, Any] = {}
        self._read: dict[str, list] = {}

    def read_settings(self) -> None:
        """Read the settings that have changed, such as learning rates."""
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
        """Perform one step for every run."""
        self.step_rows(self.weights_PN, self.gradient_PN, self.state, self.settings)

    @staticmethod
    def state_of(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """The state of an optimizer of one vector; before its first step, zeros of the shapes it will have."""
        (weights,) = optimizer.param_groups[0]["params"]
        if optimizer.state:
            return dict(optimizer.state[weights])
        moments = state_after_a_step(optimizer).get(0, {})
        return {key: torch.zeros_like(tensor) for key, tensor in moments.items()}


def _write(held: Any, value: Any) -> None:
    if isinstance(held, Tensor):
        held.copy_(value)
