"""The training loop: update, log, evaluate, select, checkpoint, stop.

Time is counted in updates, each of which is one optimizer step. Batch number `update` is a pure function of the task's
settings and seed, so the counter alone gives the position in the data, and a run that is resumed from a checkpoint is
the same run to the last bit.
"""

import time
from collections.abc import Callable, Iterator

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from src.config.schema import TrainerSettings
from src.models.sequence import SequenceModel
from src.tasks.base import Task
from src.training.content import Outcome, Selected
from src.training.curves import Curves
from src.training.evaluation import evaluate
from src.training.progress import RunProgress
from src.training.run_checkpoints import RunCheckpoints
from src.training.schedulers import Plateau
from src.training.state import TrainState
from src.training.update import Update

StopRule = Callable[[int, float], str | None]
"""Called with the update and the validation objective after each evaluation; stops the run by returning a reason."""


class Trainer:
    """Trains a model on a task.

    Args:
        model: the model, on its device.
        task: the task, on the same device.
        optimizer: the optimizer; see `TrainState`.
        scheduler: the scheduler of the optimizer.
        settings: the settings of the loop.
        checkpoints: the checkpoints of the run; the trainer saves them, and `checkpoints.resume(state)` resumes from
            the newest one.
    """

    def __init__(
        self,
        model: SequenceModel,
        task: Task,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        settings: TrainerSettings,
        checkpoints: RunCheckpoints,
    ):
        self.model = model
        self.model.return_sequence |= settings.norm_stabilizer > 0
        self.task = task
        self.settings = settings
        self.checkpoints = checkpoints
        self.device = optimizer.param_groups[0]["params"][0].device
        self.floors = task.floors
        self.state = TrainState(model, optimizer, scheduler, torch.zeros((), dtype=torch.float64, device=self.device))
        self.update = Update(self.state, task, settings)

        self.outcome = Outcome("interrupted", "not started", {})
        self.stop_requested = False
        self.stop_rule: StopRule | None = None
        self.stop_reason = ""
        self.evaluate_elsewhere: Callable[[], dict[str, float]] | None = None
        """Returns the validation metrics, if they are computed for several runs at once."""

    def fit(self, curves: Curves, progress: RunProgress, after_update: Callable[[], None] | None = None) -> Outcome:
        """Train to the end, or until `stop_requested`, and return the outcome; at once if the run has already ended.

        Args:
            curves: receives scalars and histograms.
            progress: receives losses and evaluations.
            after_update: called after every update, for a profiler.
        """
        for _ in self.updates(curves, progress):
            self.do_update()
            if after_update is not None:
                after_update()
        return self.outcome

    def do_update(self) -> None:
        """Perform one update of this run alone."""
        started = time.perf_counter()
        self.update()
        self.wait()
        self.state.seconds += time.perf_counter() - started

    def wait(self) -> None:
        """Wait for a GPU after every `log_every` updates, so that the time of updates includes its work."""
        if self.device.type == "cuda" and self.state.update % self.settings.log_every == 0:
            torch.cuda.synchronize(self.device)

    def updates(self, curves: Curves, progress: RunProgress) -> Iterator[None]:
        """Do everything in `fit` except the updates: yield whenever one is due, and set `outcome` at the end.

        This allows several runs to be updated at once; see `src.training.population`.
        """
        state, settings = self.state, self.settings
        if state.outcome is not None:
            self.outcome = state.outcome
            return
        self.model.train()
        ended = None
        if state.update == 0 and state.selected is None:  # else it was stopped after this evaluation
            ended = self._evaluate(curves, progress)
        while ended is None and state.update < settings.max_updates:
            if self.stop_requested:
                self.save(curves)
                self.outcome = Outcome("interrupted", self.stop_reason or f"stopped at update {state.update}", {})
                return
            yield
            last = state.update == settings.max_updates
            if last or state.update % settings.log_every == 0:
                self._log(curves, progress)
            if last or state.update % settings.eval_every == 0:
                ended = self._diverged() or self._evaluate(curves, progress)
            if ended is None and not last and state.update % settings.checkpoint_every == 0:
                self.save(curves)
        ended = ended or Outcome("finished", f"all {state.update} updates done", {})
        self.outcome = self._finish(ended, curves)

    def _log(self, curves: Curves, progress: RunProgress) -> None:
        """Log the last update, with the parts of its loss if there are several."""
        batch, step, norm, lr = self.update.last()
        with torch.no_grad():
            metrics = self.task.metrics(step.output, step.played or batch)
        scalars = {"loss": step.loss.item()}
        if len(step.losses) > 1:
            scalars |= {f"loss/{name}": part.item() for name, part in step.losses.items()}
        scalars |= {name: float(total) / count for name, (total, count) in metrics.items() if count}
        progress.advance(self.state.update, scalars)
        curves.trained(scalars | {"gradient_norm": norm.item(), "lr": float(lr)}, step.losses, self.state.update)

    def _diverged(self) -> Outcome | None:
        """The outcome of the run if a gradient since the last evaluation was not finite, else None."""
        update = self.state.update
        if self.state.sum_of_norms.isfinite():
            return None
        first = (update - 1) // self.settings.eval_every * self.settings.eval_every + 1
        among = f"a gradient between updates {first} and {update}"
        which = among if first < update else f"the gradient of update {update}"
        return Outcome("diverged", f"{which} is not finite", {})

    def _evaluate(self, curves: Curves, progress: RunProgress) -> Outcome | None:
        """Evaluate on the validation set and select weights; return an outcome if that ends the run."""
        state, settings, update = self.state, self.settings, self.state.update
        metrics = (
            evaluate(self.model, self.task, "val") if self.evaluate_elsewhere is None else self.evaluate_elsewhere()
        )
        progress.evaluated(update, metrics)
        curves.scalars("val", metrics, update)
        if settings.histograms:
            curves.histograms(self.model, update)

        metric, objective = self.task.objective.metric, metrics[self.task.objective.metric]
        state.evaluations_since_selected += 1
        if state.selected is None or self.task.objective.improves(objective, state.selected.metrics[metric]):
            weights = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
            state.selected = Selected(update, metrics, weights)
            state.evaluations_since_selected = 0
        if isinstance(state.scheduler, Plateau):
            state.scheduler.evaluated(is_best=state.evaluations_since_selected == 0)
        if self.stop_rule is not None and (reason := self.stop_rule(update, objective)):
            self.stop_requested, self.stop_reason = True, reason
        if settings.stop_at is not None and self.task.objective.reached(objective, settings.stop_at):
            return Outcome("finished", f"val/{metric} {objective:.4g} at update {update}", {})
        if settings.patience is not None and state.evaluations_since_selected >= settings.patience:
            return Outcome("finished", f"no better val/{metric} since update {state.selected.update}", {})
        return None

    def _finish(self, ended: Outcome, curves: Curves) -> Outcome:
        """Load the selected weights, evaluate them on the test set, and store the outcome in the last checkpoint."""
        selected, update = self.state.selected, self.state.update
        assert selected is not None
        self.model.load_state_dict(selected.weights)
        test = evaluate(self.model, self.task, "test")
        metrics = {f"val/{name}": value for name, value in selected.metrics.items()}
        curves.selected(selected.metrics, selected.update, test, update)
        metrics |= {f"test/{name}": value for name, value in test.items()}
        self.state.outcome = ended._replace(metrics=metrics)
        self.save(curves)
        return self.state.outcome

    def save(self, curves: Curves) -> None:
        """Write a checkpoint, after flushing the curves to disk, so that none of their points is lost."""
        curves.flush()
        self.checkpoints.save(self.state)
