"""The metrics on a whole split, of one model or of several at once."""

import math
from itertools import zip_longest
from logging import getLogger
from operator import itemgetter
from typing import Any

import torch

from src.config.errors import explain
from src.models.sequence import SequenceModel
from src.specs import Output, Split
from src.tasks.base import Metrics, Task
from src.training.population import Stacked

log = getLogger(__name__)


class Averages:
    """Accumulates the metrics of batches into those of a whole split; nan where nothing counts."""

    def __init__(self, task: Task):
        self.task = task
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def add(self, metrics: Metrics) -> None:
        """Add the metrics of one more batch."""
        for name, (total, count) in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(total)
            self.counts[name] = self.counts.get(name, 0) + count

    def of_split(self) -> dict[str, float]:
        """The metrics of all batches so far."""
        counts = self.counts
        return self.task.averaged({k: total / counts[k] if counts[k] else math.nan for k, total in self.sums.items()})


@torch.no_grad()
def evaluate(model: SequenceModel, task: Task, split: Split) -> dict[str, float]:
    """The metrics of a model on a split, in evaluation mode; nan where nothing counts."""
    was_training = model.training
    model.eval()
    averages, state = Averages(task), None
    for batch in task.evaluation(split):
        step = task.loss(model, batch, state)
        state = step.output.state if task.carries_state else None
        averages.add(task.metrics(step.output, step.played or batch))
    model.train(was_training)
    return averages.of_split()


class StackedEvaluation:
    """The validation metrics of runs that are trained together.

    When the first run asks for its metrics, those of all runs are computed as one program, and kept until a run has
    done another update. So every run gets the metrics of its current weights, even if the others are at other updates.
    Where one program is not possible, for example for lack of memory, each run is evaluated by itself.

    Args:
        stacked: the runs.
    """

    def __init__(self, stacked: Stacked):
        self.stacked = stacked
        self.possible = True
        self.at: tuple[int, ...] | None = None
        self.found: list[dict[str, float]] = []

    def of(self, row: int) -> dict[str, float]:
        """The metrics of one run."""
        update = self.stacked.updates[row]
        at = tuple(state.update for state in self.stacked.states)
        if self.possible and at != self.at:
            try:
                self.at, self.found = at, self.evaluate()
            except Exception as error:  # such as an operation that torch.func.vmap lacks
                self.possible = False
                log.info("%d runs are evaluated one by one: %s", len(at), explain(error).splitlines()[0])
        return self.found[row] if self.possible else evaluate(update.state.model, update.task, "val")

    @torch.no_grad()
    def evaluate(self) -> list[dict[str, float]]:
        """The metrics of all runs."""
        tasks = [update.task for update in self.stacked.updates]
        averages = [Averages(task) for task in tasks]
        recurrent: Any = []
        for batches in zip_longest(*(task.evaluation("val") for task in tasks)):
            step = self.stacked.evaluated(batches, recurrent)
            output, played = step.output, step.played
            recurrent = output.state if tasks[0].carries_state else []
            for row, (task, batch) in enumerate(zip(tasks, batches, strict=True)):
                own = batch if played is None else played.map(itemgetter(row))
                averages[row].add(task.metrics(Output(output.prediction[row], output.hidden_BTH[row], None), own))
        return [each.of_split() for each in averages]
