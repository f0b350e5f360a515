"""Everything about a training run that changes, and so has to be in a checkpoint."""

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
        model: with the current weights.
        optimizer: of the model's weights as one vector, see `flat_parameters`.
        scheduler: of the optimizer, stepped once per update.
        sum_of_norms: of all gradients so far, in float64; not finite once any number of them was not.
        update: how many updates have been done.
        seconds: of training.
        selected: None before the first evaluation.
        evaluations_since_selected: without a new best.
        recurrent: the state of the core after the last batch, for tasks that carry it.
        outcome: None until the run has ended.
        rng: torch's random numbers as this run has left them; None if they are those of the process, because it is the
            only run there.
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
        """The content of a checkpoint, with the state of torch's random numbers; its tensors are copies."""
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
        # a view would be stored with all that it is a view of: the weights of every run that is trained together
        copied: Any = optree.tree_map(lambda it: it.clone() if isinstance(it, Tensor) else it, cast(Any, content))
        return copied

    def load(self, content: Content) -> None:
        """Become the state in a checkpoint.

        Raises:
            ValueError: it is not of such a run; the state remains as it was.
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
        # last, since an initial state may be drawn
        torch.set_rng_state(content["rng"].cpu())
        if content["device_rng"] and (device := self.sum_of_norms.device).type == "cuda":
            torch.cuda.set_rng_state(content["device_rng"][0].cpu(), device)  # others are of cards that it did not use

    def _check(self, content: Content) -> None:
        """Raise a ValueError unless all of a checkpoint can be loaded and gone on from."""
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
    """The state, as in its `state_dict`, that an optimizer of one vector has after a step with a gradient of zero."""
    twin = copy.deepcopy(optimizer)
    (weights,) = twin.param_groups[0]["params"]
    weights.grad = torch.zeros_like(weights)
    twin.step()
    return twin.state_dict()["state"]
