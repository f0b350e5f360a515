"""The training loop: update, log, evaluate, select, checkpoint, stop.

Time is counted in updates, one optimizer step each. Batch number `update` is a pure function of the task's settings and
seed, so the counter alone gives the position in the data, and a run resumed from a checkpoint has the same result as an
uninterrupted one, to the last bit.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from src.config.paths import CHECKPOINTS
from src.config.schema import TrainerSettings
from src.models.sequence import SequenceModel
from src.specs import Batch, Split, State, Step, map_state, state_tensors
from src.tasks.base import Task
from src.training import checkpoint
from src.training.curves import Curves
from src.training.fast_updates import clip_norm_
from src.training.progress import RunProgress
from src.training.regularizers import norm_stabilizer, weight_noise

StopRule = Callable[[int, float], str | None]
"""Called with the update and the validation objective after each evaluation; stops the run by returning a reason."""


class Outcome(NamedTuple):
    """How a run ended, with the metrics of the selected weights, if any."""

    status: Literal["finished", "diverged", "interrupted"]
    reason: str
    metrics: dict[str, float]


class Selected(NamedTuple):
    """The weights that were best on the validation set, the earliest in a tie."""

    update: int
    metrics: dict[str, float]
    weights: dict[str, Tensor]


class WrongCheckpointError(Exception):
    """A checkpoint belongs to another configuration."""


@torch.no_grad()
def evaluate(model: SequenceModel, task: Task, split: Split) -> dict[str, float]:
    """The metrics of the whole split."""
    was_training = model.training
    model.eval()
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    state = None
    for batch in task.evaluation(split):
        output = task.loss(model, batch, state).output
        state = output.state if task.carries_state else None
        for name, (total, count) in task.metrics(output, batch).items():
            sums[name] = sums.get(name, 0.0) + float(total)
            counts[name] = counts.get(name, 0) + count
    model.train(was_training)
    return {name: total / counts[name] if counts[name] else math.nan for name, total in sums.items()}


class Trainer:
    """Trains a model on a task in a folder, and resumes from the folder's newest checkpoint.

    Args:
        model: on its device.
        task: on the same device.
        optimizer: of the model's weights as one vector, see `flat_parameters`.
        scheduler: of the optimizer, stepped once per update.
        settings: of the loop.
        folder: of the run; checkpoints go to its subfolder `checkpoints`.
        fingerprint: of the run; a checkpoint with another one is refused.
    """

    def __init__(
        self,
        model: SequenceModel,
        task: Task,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        settings: TrainerSettings,
        folder: Path,
        fingerprint: str,
    ):
        self.model = model
        self.model.return_sequence |= settings.norm_stabilizer > 0
        self.task = task
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.settings = settings
        self.folder = folder
        self.fingerprint = fingerprint
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
        self.stop_rule: StopRule | None = None
        self.stop_reason = ""
        # of all gradients so far: not finite once any of them was not; read only at evaluations
        self.sum_of_norms = torch.zeros((), device=self.device)

    def fit(self, curves: Curves, progress: RunProgress, after_update: Callable[[], None] | None = None) -> Outcome:
        """Train to the end, or until `stop_requested`; a run that has already ended returns its outcome.

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
                self._log(curves, progress, batch, step, norm)
            if last or self.update % self.settings.eval_every == 0:
                ended = self._diverged() or self._evaluate(curves, progress)
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
                penalty = self.settings.norm_stabilizer * norm_stabilizer(step.output.hidden_BTH, batch.lengths)
                step = step._replace(losses=step.losses | {"norm_stabilizer": penalty})
            self.gradient.zero_()
            step.loss.backward()
        norm = clip_norm_(self.gradient, self.settings.clip_norm)
        self.sum_of_norms += norm
        self.lr = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        self.scheduler.step()
        if self.task.carries_state:
            self.state = map_state(Tensor.detach, step.output.state)
        self.update += 1
        return batch, step, norm

    def _log(self, curves: Curves, progress: RunProgress, batch: Batch, step: Step, norm: Tensor) -> None:
        """Log the last update, with the parts of its loss if there are several."""
        with torch.no_grad():
            metrics = self.task.metrics(step.output, batch)
        scalars = {"loss": step.loss.item()}
        if len(step.losses) > 1:
            scalars |= {f"loss/{name}": part.item() for name, part in step.losses.items()}
        scalars |= {name: float(total) / count for name, (total, count) in metrics.items() if count}
        progress.advance(self.update, scalars)
        curves.scalars("train", scalars | {"gradient_norm": norm.item(), "lr": float(self.lr)}, self.update)

    def _diverged(self) -> Outcome | None:
        """An outcome if a gradient since the last evaluation was not finite."""
        if self.sum_of_norms.isfinite():
            return None
        since = max(self.update - self.settings.eval_every, 0)
        return Outcome("diverged", f"a gradient between updates {since + 1} and {self.update} is not finite", {})

    def _evaluate(self, curves: Curves, progress: RunProgress) -> Outcome | None:
        """Evaluate on the validation set and select; an outcome if that ends the run."""
        metrics = evaluate(self.model, self.task, "val")
        progress.evaluated(self.update, metrics)
        curves.scalars("val", metrics, self.update)
        curves.floors(self.floors, self.update)
        curves.weights(self.model, self.update)

        metric, goal = self.task.objective.metric, self.settings.stop_at
        objective = metrics[metric]
        self.evaluations_since_selected += 1
        if self.selected is None or self.task.objective.improves(objective, self.selected.metrics[metric]):
            weights = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
            self.selected = Selected(self.update, metrics, weights)
            self.evaluations_since_selected = 0
        if self.stop_rule is not None and (reason := self.stop_rule(self.update, objective)):
            self.stop_requested, self.stop_reason = True, reason
        if goal is not None and self.task.objective.reached(objective, goal):
            return Outcome("finished", f"val/{metric} {objective:.4g} at update {self.update}", {})
        if self.settings.patience is not None and self.evaluations_since_selected >= self.settings.patience:
            return Outcome("finished", f"no better val/{metric} since update {self.selected.update}", {})
        return None

    def _finish(self, ended: Outcome, curves: Curves) -> Outcome:
        """Load the selected weights, test them, and store the outcome in the last checkpoint."""
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
        """Write a checkpoint, after flushing the curves to disk, so that none of their points is lost."""
        curves.flush()
        content: dict[str, Any] = {
            "fingerprint": self.fingerprint,
            "update": self.update,
            "seconds": self.seconds,
            "sum_of_norms": self.sum_of_norms,
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
        checkpoint.save(self.folder / CHECKPOINTS, self.update, content)

    def resume(self) -> bool:
        """Resume from the newest undamaged checkpoint; False if there is none.

        Raises:
            WrongCheckpointError: it was written by a run with other settings.
        """
        content = checkpoint.load_newest(self.folder / CHECKPOINTS, self.device)
        if content is None:
            return False
        if content["fingerprint"] != self.fingerprint:
            raise WrongCheckpointError(
                f"{self.folder}/{CHECKPOINTS} belong to another configuration ({content['fingerprint']}, this is "
                f"{self.fingerprint}); run.fresh=true starts over"
            )
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
            self.state = map_state(lambda _: next(tensors), self.model.core.initial_state(1))
        self.selected = None if content["selected"] is None else Selected(*content["selected"])
        self.evaluations_since_selected = content["evaluations_since_selected"]
        self.outcome = None if content["outcome"] is None else Outcome(*content["outcome"])
        return True
