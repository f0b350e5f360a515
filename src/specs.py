"""Types shared by models and tasks.

Code that reads results needs some of these types but not torch, so this module does not import torch.

Shapes: B sequences in a batch, T time steps, H hidden units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

State = Any
"""What a core passes from one step to the next: tensors, batch dimension first, in any nesting of (named) tuples, lists
and dictionaries."""


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply `function` to every tensor of a state."""
    import optree

    return optree.tree_map(function, state)


def state_tensors(state: State) -> list[Tensor]:
    """The tensors of a state, in a fixed order."""
    import optree

    return optree.tree_leaves(state)


def state_like(like: State, tensors: Sequence[Tensor]) -> State:
    """Build a state with the structure of `like` from tensors in the order of `state_tensors`."""
    import optree

    return optree.tree_unflatten(optree.tree_structure(like), tensors)


@dataclass(frozen=True)
class InputSpec:
    """The input at every step: one of `size` symbols, or a vector of `size` numbers."""

    kind: Literal["tokens", "vectors"]
    size: int

    def __post_init__(self) -> None:
        if self.kind not in ("tokens", "vectors"):
            raise ValueError(f"input_spec.kind={self.kind}: must be tokens or vectors")

    def __str__(self) -> str:
        return f"{self.kind} of {self.size}"


@dataclass(frozen=True)
class OutputSpec:
    """The answer: one of `size` classes, `size` numbers, `size` bits, or a policy over `size` actions with its value.

    The answer is due at the last step or at every step.
    """

    kind: Literal["class", "value", "bits", "policy"]
    size: int
    every_step: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("class", "value", "bits", "policy"):
            raise ValueError(f"output_spec.kind={self.kind}: must be class, value, bits or policy")

    @property
    def num_outputs(self) -> int:
        """How many numbers a network outputs per step; for a policy, the logits of the actions and then the value."""
        return self.size + (self.kind == "policy")

    def __str__(self) -> str:
        return f"{self.kind} of {self.size} at {'every' if self.every_step else 'the last'} step"


@dataclass(frozen=True)
class Objective:
    """The metric by which models are selected on the validation set, and its direction."""

    metric: str
    higher_is_better: bool = False

    def improves(self, value: float, best: float) -> bool:
        """Whether a value is strictly better than the best so far; nan never is, and any number is better than nan."""
        if math.isnan(best):
            return not math.isnan(value)
        return value > best if self.higher_is_better else value < best

    def reached(self, value: float, goal: float) -> bool:
        """Whether a value is at least as good as a goal."""
        return value >= goal if self.higher_is_better else value <= goal


class Batch(NamedTuple):
    """A batch of examples, batch first.

    Episodes that have not been played yet are represented by how they start and by random numbers, see
    `src.tasks.environment`; once played, they form a batch as described here, of observations, actions and rewards.
    """

    inputs: Tensor
    """Symbols [B, T] (int64) or vectors [B, T, size] (float32)."""
    targets: Tensor
    """Classes or actions [B] (int64), or values or bits [B, size] (float32); with a T after B if the task asks at every
    step."""
    mask: Tensor | None = None
    """The steps that count [B, T] (bool); None if all of them do. Only for tasks that ask at every step."""
    lengths: Tensor | None = None
    """Length of each sequence [B] (int64), from 1 to T; None if all are T. Later steps are padding."""
    resets: Tensor | None = None
    """Steps before which a row is reset to its initial state [B, T] (bool); None if there are no resets."""
    rewards: Tensor | None = None
    """The reward for each action of an episode [B, T] (float32); None if nothing is played."""

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return self.map(lambda tensor: tensor.to(device))

    def take(self, rows: Tensor | slice) -> Batch:
        """A subset of the examples."""
        if isinstance(rows, slice):  # twice as fast as indexing with a tensor
            return self.map(lambda tensor: tensor[rows])
        return self.map(lambda tensor: tensor.index_select(0, rows))

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with `function` applied to every tensor."""
        return Batch(*(None if tensor is None else function(tensor) for tensor in self))  # type: ignore[arg-type]


class Output(NamedTuple):
    """The output of a network for a batch of sequences."""

    prediction: Tensor
    """Logits or values, `num_outputs` of them: [B, size], or [B, T, size] if the task asks at every step."""
    hidden_BTH: Tensor
    """Outputs of the core at every step; only those of the last step, [B, H], if no others are needed."""
    state: State | None
    """The state after the last step, if requested."""


class Step(NamedTuple):
    """The result of one pass over a batch, for the trainer."""

    losses: dict[str, Tensor]
    """The parts of the loss by name, such as {"nll": ...}; their sum is minimized."""
    output: Output
    played: Batch | None = None
    """The batch as it was played, if the model helped to generate it; None if it is the batch that was passed in."""

    @property
    def loss(self) -> Tensor:
        """The sum of the parts."""
        total, *others = self.losses.values()
        for part in others:
            total = total + part
        return total


class Film(NamedTuple):
    """An episode as it was played, frame by frame: T actions between T + 1 frames."""

    title: str
    frames: np.ndarray
    """The screen [T + 1, rows, columns], whether or not the network saw it."""
    seen: np.ndarray
    """Whether a network saw the frame [T + 1]."""
    actions: list[str]
    """The names of all actions."""
    taken: np.ndarray
    """The index of the action taken after each frame except the last [T]."""
    policy: np.ndarray
    """The probabilities of all actions at that time [T, A]."""
    values: np.ndarray
    """The return expected at that time [T]."""
