"""Everything about a training run that changes, and so has to be in a checkpoint."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from src.models.sequence import SequenceModel
from src.specs import State, map_state, state_tensors


class Outcome(NamedTuple):
    """How a run ended, with the metrics of the selected weights if there are any."""

    status: Literal["finished", "diverged", "interrupted"]
    reason: str
    metrics: dict[str, float]


class Selected(NamedTuple):
    """The weights that were best on the validation set, the earliest in a tie."""

    update: int
    metrics: dict[str, float]
    weights: dict[str, Tensor]


@dataclass
class TrainState:
    """The state of a run after some updates.

    Attributes:
        model: with the current weights.
        optimizer: of the model's weights as one vector, see `flat_parameters`.
        scheduler: of the optimizer, stepped once per update.
        sum_of_norms: of all gradients so far; not finite once any of them was not.
        update: how many updates have been done.
        seconds: of training.
        selected: None before the first evaluation.
        evaluations_since_selected: without a new best.
        recurrent: the state of the core after the last batch, for tasks that carry it.
        outcome: None until the run has ended.
    """

    model: SequenceModel
    optimizer: Optimizer
    scheduler: LRScheduler
    sum_of_norms: Tensor
    update: int = 0
    seconds: float = 0.0
    selected: Selected | None = None
    evaluations_since_selected: int = 0
    recurrent: State | None = None
    outcome: Outcome | None = None

    def to_checkpoint(self) -> dict[str, Any]:
        """The content of a checkpoint, with the state of torch's random numbers."""
        return {
            "update": self.update,
            "seconds": self.seconds,
            "sum_of_norms": self.sum_of_norms,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "rng": torch.get_rng_state(),
            "device_rng": torch.cuda.get_rng_state_all() if self.sum_of_norms.device.type == "cuda" else [],
            "state": None if self.recurrent is None else state_tensors(self.recurrent),
            "selected": None if self.selected is None else tuple(self.selected),
            "evaluations_since_selected": self.evaluations_since_selected,
            "outcome": None if self.outcome is None else tuple(self.outcome),
        }

    def load(self, content: dict[str, Any]) -> None:
        """Become the state in the content of a checkpoint."""
        self.update = content["update"]
        self.seconds = content["seconds"]
        self.sum_of_norms = content["sum_of_norms"]
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scheduler.load_state_dict(content["scheduler"])
        torch.set_rng_state(content["rng"].cpu())
        if content["device_rng"]:
            torch.cuda.set_rng_state_all([state.cpu() for state in content["device_rng"]])
        if content["state"] is not None:
            tensors = iter(content["state"])
            self.recurrent = map_state(lambda _: next(tensors), self.model.core.initial_state(1))
        self.selected = None if content["selected"] is None else Selected(*content["selected"])
        self.evaluations_since_selected = content["evaluations_since_selected"]
        self.outcome = None if content["outcome"] is None else Outcome(*content["outcome"])
