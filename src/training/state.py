"""Everything that changes during a training run and therefore has to be in a checkpoint."""

import copy
from dataclasses import dataclass
from typing import Any, cast

import optree
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from src.models.sequence import SequenceModel
from src.specs import State, state_like, state_tensors
from src.training.content import Content, Outcome, Selected, check_like, check_weights


@dataclass
class TrainState:
    """The state of a run after some updates.

    Attributes:
        model: the model, with its current weights.
        optimizer: the optimizer of the model's weights as one vector; see `flat_parameters`.
        scheduler: the scheduler of the optimizer, stepped once per update.
        sum_of_norms: sum of the norms of all gradients so far, in float64; not finite once any gradient was not.
        update: number of updates done.
        seconds: seconds spent in updates.
        selected: the selected weights; None before the first evaluation.
        evaluations_since_selected: number of evaluations since the last new best.
        recurrent: the state of the core after the last batch, for tasks that carry it.
        outcome: how the run ended; None until then.
        rng: the state in which this run left torch's random number generator; None if it is the only run of the
            process, whose generator has that state.
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
    rng: Tensor | None = None

    def to_checkpoint(self) -> dict[str, Any]:
        """The content of a checkpoint, with the state of torch's random number generators; its tensors are copies."""
        device = self.sum_of_norms.device
        on_gpu = self.rng is None and device.type == "cuda"
        content = {
            "update": self.update,
            "seconds": self.seconds,
            "sum_of_norms": self.sum_of_norms,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "rng": torch.get_rng_state() if self.rng is None else self.rng,
            "device_rng": [torch.cuda.get_rng_state(device)] if on_gpu else [],
            "state": None if self.recurrent is None else state_tensors(self.recurrent),
            "selected": None if self.selected is None else tuple(self.selected),
            "evaluations_since_selected": self.evaluations_since_selected,
            "outcome": None if self.outcome is None else tuple(self.outcome),
        }
        # a view would be stored with the whole tensor that it belongs to: the weights of all runs trained together
        copied: Any = optree.tree_map(lambda it: it.clone() if isinstance(it, Tensor) else it, cast(Any, content))
        return copied

    def load(self, content: Content) -> None:
        """Take over the state in a checkpoint.

        Raises:
            ValueError: the checkpoint does not fit this run; its state remains unchanged.
        """
        self._check(content)
        self.update = content["update"]
        self.seconds = content["seconds"]
        self.sum_of_norms = content["sum_of_norms"]
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scheduler.load_state_dict(content["scheduler"])
        if content["state"] is not None:
            self.recurrent = state_like(self.model.core.initial_state(1), content["state"])
        self.selected = content["selected"]
        self.evaluations_since_selected = content["evaluations_since_selected"]
        self.outcome = content["outcome"]
        # last, since `initial_state` may draw random numbers
        torch.set_rng_state(content["rng"].cpu())
        if content["device_rng"] and (device := self.sum_of_norms.device).type == "cuda":
            torch.cuda.set_rng_state(content["device_rng"][0].cpu(), device)  # any others are of cards it did not use

    def _check(self, content: Content) -> None:
        """Raise a ValueError unless the whole checkpoint can be loaded and training can continue from it."""
        moments = state_after_a_step(self.optimizer) if content["update"] else {}
        own = {"sum_of_norms": self.sum_of_norms, "rng": torch.get_rng_state(), "scheduler": {"last_epoch": 0}}
        own["optimizer"] = {"state": moments, "param_groups": [{"lr": 0.0, "params": [0]}]}
        for key, wanted in own.items():
            check_like(content[key], wanted, key)  # type: ignore[literal-required]
        try:
            torch.Generator().set_state(content["rng"].cpu())
        except RuntimeError as error:
            raise ValueError(f"rng: {error}") from None
        check_weights(self.model, content["model"], "model")
        if content["selected"] is not None:
            check_weights(self.model, content["selected"].weights, "selected")
        if content["state"] is not None:
            check_like(
                [one[:1] if one.ndim else one for one in content["state"]],
                state_tensors(self.model.core.initial_state(1)),
                "state",
            )


def state_after_a_step(optimizer: Optimizer) -> dict[int, dict[str, Tensor]]:
    """The state, as in `state_dict`, of an optimizer of one vector after a step with a gradient of zero."""
    twin = copy.deepcopy(optimizer)
    (weights,) = twin.param_groups[0]["params"]
    weights.grad = torch.zeros_like(weights)
    twin.step()
    return twin.state_dict()["state"]
