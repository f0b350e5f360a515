"""The training loop: update, log, evaluate, select, checkpoint, stop.

Time is counted in updates, one step of the optimizer each. Batch number `update` is a pure function of the task's
settings and seed, so the counter is the whole position in the data, and a run that goes on from a checkpoint is the
same run to the last bit.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from src.models.base import State, map_state, state_tensors
from src.models.sequence import SequenceModel
from src.regularizers import norm_stabilizer, weight_noise
from src.schema import TrainerSettings
from src.tasks.base import Batch, Split, Step, Task
from src.utils import checkpoint
from src.utils.flat import add_gradients, clip_norm_
from src.utils.progress import RunProgress
from src.utils.tensorboard import Curves

Watch = Callable[[int, float], str | None]
"""Told the update and the validation objective after each evaluation; an answer, the reason, stops the run there."""


class Outcome(NamedTuple):
    """How a run ended, with the metrics of the selected weights where there are any."""

    status: Literal["finished", "diverged", "interrupted"]
    reason: str
    metrics: dict[str, float]


class Selected(NamedTuple):
    """The weights that were best on the validation set, the first of equals."""

    update: int
    metrics: dict[str, float]
    weights: dict[str, Tensor]


class WrongCheckpointError(Exception):
    """A checkpoint belongs to another configuration."""


@torch.no_grad()
def evaluate(model: SequenceModel, task: Task, split: Split) -> dict[str, float]:
    """The metrics of the whole split, averaged over its examples."""
    was_training = model.training
    model.eval()
    totals: dict[str, Tensor] = {}
    count = 0
    state = None
    for batch in task.evaluation(split):
        output = task.loss(model, batch, state).output
        state = output.state if task.carries_state else None
        num_examples = len(batch.inputs)
        for name, value in task.metrics(output, batch).items():
            totals[name] = totals.get(name, torch.zeros_like(value, dtype=torch.float64)) + value * num_examples
        count += num_examples
    model.train(was_training)
    return {name: float(total) / count for name, total in totals.items()}


class Trainer:
    """Trains a model on a task in a folder, and goes on from the folder's newest checkpoint.

    Args:
        model: on its device.
        task: on the same device.
        optimizer: of the model's weights as one vector, see `flat_parameters`.
        scheduler: of the optimizer, stepped once per update.
        settings: of the loop.
        folder: checkpoints go to `checkpoints` in it.
        identity: of the run; a checkpoint of another identity is refused.
    """

    def __init__(
        self,
        model: SequenceModel,
        task: Task,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        settings: TrainerSettings,
        folder: Path,
        identity: str,
    ):
        self.model = model
        self.model.keep_hidden = settings.norm_stabilizer > 0
        self.task = task
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.settings = settings
        self.folder = folder
        self.identity = identity
        (self.weights,) = optimizer.param_groups[0]["params"]
        assert self.weights.grad is not None
        self.gradient = self.weights.grad
        self.device = self.weights.device
        self.floors = task.floors

        self.update = 0
        self.seconds = 0.0
        self.lr = 0.0
        self.selected: Selected | None = None
        self.evaluations_since_selected = 0
        self.state: State | None = None
        self.outcome: Outcome | None = None
        self.stop_requested = False
        self.watch: Watch | None = None
        self.stop_reason = ""
        self._one = torch.ones((), device=self.device)  # the gradient of the loss, not made anew at every update
        # a sum shows whether any was not finite, and has to be waited for, on a GPU, only when it is looked at
        self._norms = torch.zeros((), device=self.device)

    def fit(self, curves: Curves, progress: RunProgress, after_update: Callable[[], None] | None = None) -> Outcome:
        """Train to the end, or until `stop_requested`; a run that had already ended returns its outcome.

        Args:
            curves: where scalars and histograms go.
            progress: told about losses and evaluations.
            after_update: called after every update, for a profiler.
        """
        if self.outcome is not None:
            return self.outcome
        self.model.train()
        ended = None
        if self.update == 0:
            ended = self._evaluate(curves, progress)
        while ended is None and self.update < self.settings.max_updates:
            if self.stop_requested:
                self.save(curves)
                return Outcome("interrupted", self.stop_reason or f"stopped at update {self.update}", {})
            started = time.perf_counter()
            batch, step, norm = self._train()
            self.seconds += time.perf_counter() - started
            if after_update is not None:
                after_update()
            last = self.update == self.settings.max_updates
            if last or self.update % self.settings.log_every == 0:
                ended = self._log(curves, progress, batch, step, norm)
            if ended is None and (last or self.update % self.settings.eval_every == 0):
                ended = self._evaluate(curves, progress)
            if ended is None and not last and self.update % self.settings.checkpoint_every == 0:
                self.save(curves)
        ended = ended or Outcome("finished", f"all {self.update} updates done", {})
        return self._finish(ended, curves)

    def _train(self) -> tuple[Batch, Step, Tensor]:
        """One update; the norm is that of the gradient before it was clipped."""
        index = 0 if self.settings.overfit_one_batch else self.update
        batch = self.task.batch("train", index, self.settings.batch_size)
        with weight_noise(self.model, self.settings.weight_noise):
            step = self.task.loss(self.model, batch, self.state)
            if self.settings.norm_stabilizer > 0:
                penalty = norm_stabilizer(step.output.hidden_BTH)
                step = step._replace(loss=step.loss + self.settings.norm_stabilizer * penalty)
            self.gradient.zero_()
            add_gradients(step.loss, self._one)
        norm = clip_norm_(self.gradient, self.settings.clip_norm)
        self._norms += norm
        self.lr = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        self.scheduler.step()
        if self.task.carries_state:
            self.state = map_state(Tensor.detach, step.output.state)
        self.update += 1
        return batch, step, norm

    def _log(self, curves: Curves, progress: RunProgress, batch: Batch, step: Step, norm: Tensor) -> Outcome | None:
        """Log the last update; an outcome if the run has diverged since the last time."""
        with torch.no_grad():
            metrics = self.task.metrics(step.output, batch)
        scalars = {"loss": step.loss.item()} | {name: value.item() for name, value in metrics.items()}
        progress.advance(self.update, scalars)
        scalars |= {"gradient_norm": norm.item(), "lr": float(self.lr)}
        curves.scalars("train", scalars, self.update)
        if self._norms.isfinite():
            return None
        since = max(self.update - self.settings.log_every, 0)
        return Outcome("diverged", f"the gradient is not finite between updates {since + 1} and {self.update}", {})

    def _evaluate(self, curves: Curves, progress: RunProgress) -> Outcome | None:
        """Evaluate on the validation set and select; an outcome if that ends the run."""
        metrics = evaluate(self.model, self.task, "val")
        progress.evaluated(self.update, metrics)
        curves.scalars("val", metrics, self.update)
        curves.floors(self.floors, self.update)
        curves.weights(self.model, self.update)

        objective = metrics[self.task.objective]
        self.evaluations_since_selected += 1
        if self.selected is None or objective < self.selected.metrics[self.task.objective]:
            weights = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
            self.selected = Selected(self.update, metrics, weights)
            self.evaluations_since_selected = 0
        if self.watch is not None and (reason := self.watch(self.update, objective)):
            self.stop_requested, self.stop_reason = True, reason
        if self.settings.stop_at is not None and objective <= self.settings.stop_at:
            return Outcome("finished", f"val/{self.task.objective} {objective:.4g} at update {self.update}", {})
        if self.settings.patience is not None and self.evaluations_since_selected >= self.settings.patience:
            return Outcome("finished", f"no better val/{self.task.objective} since {self.selected.update}", {})
        return None

    def _finish(self, ended: Outcome, curves: Curves) -> Outcome:
        """Load the selected weights, test them, and keep the outcome in the last checkpoint."""
        assert self.selected is not None
        self.model.load_state_dict(self.selected.weights)
        test = evaluate(self.model, self.task, "test")
        metrics = {f"val/{name}": value for name, value in self.selected.metrics.items()}
        curves.scalars("val_selected", self.selected.metrics | {"update": self.selected.update}, self.update)
        curves.scalars("test", test, self.update)
        metrics |= {f"test/{name}": value for name, value in test.items()}
        self.outcome = ended._replace(metrics=metrics)
        self.save(curves)
        return self.outcome

    def save(self, curves: Curves) -> None:
        """Write a checkpoint; the curves are on disk before it, so that none of their points is lost."""
        curves.flush()
        content: dict[str, Any] = {
            "identity": self.identity,
            "update": self.update,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "rng": torch.get_rng_state(),
            "device_rng": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
            "state": None if self.state is None else state_tensors(self.state),
            "selected": None if self.selected is None else tuple(self.selected),
            "evaluations_since_selected": self.evaluations_since_selected,
            "outcome": None if self.outcome is None else tuple(self.outcome),
        }
        checkpoint.save(self.folder / "checkpoints", self.update, content)

    def resume(self) -> bool:
        """Go on from the newest whole checkpoint; False if there is none.

        Raises:
            WrongCheckpointError: it was written by a run with other settings.
        """
        content = checkpoint.load_newest(self.folder / "checkpoints", self.device)
        if content is None:
            return False
        if content["identity"] != self.identity:
            raise WrongCheckpointError(
                f"{self.folder}/checkpoints belong to another configuration ({content['identity']}, this is "
                f"{self.identity}); run.fresh=true starts over"
            )
        self.update = content["update"]
        self.seconds = content["seconds"]
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scheduler.load_state_dict(content["scheduler"])
        torch.set_rng_state(content["rng"].cpu())
        if content["device_rng"]:
            torch.cuda.set_rng_state_all([state.cpu() for state in content["device_rng"]])
        if content["state"] is not None:
            tensors = iter(content["state"])
            self.state = map_state(lambda _: next(tensors), self.model.core.initial_state(1))
        self.selected = None if content["selected"] is None else Selected(*content["selected"])
        self.evaluations_since_selected = content["evaluations_since_selected"]
        self.outcome = None if content["outcome"] is None else Outcome(*content["outcome"])
        return True
