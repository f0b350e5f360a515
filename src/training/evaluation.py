"""The metrics of a model on a whole split."""

import math

import torch

from src.models.sequence import SequenceModel
from src.specs import Split
from src.tasks.base import Task


@torch.no_grad()
def evaluate(model: SequenceModel, task: Task, split: Split) -> dict[str, float]:
    """The metrics of a model on a split, in evaluation mode; nan where nothing counts."""
    was_training = model.training
    model.eval()
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    state = None
    for batch in task.evaluation(split):
        step = task.loss(model, batch, state)
        state = step.output.state if task.carries_state else None
        for name, (total, count) in task.metrics(step.output, step.played or batch).items():
            sums[name] = sums.get(name, 0.0) + float(total)
            counts[name] = counts.get(name, 0) + count
    model.train(was_training)
    means = {name: total / counts[name] if counts[name] else math.nan for name, total in sums.items()}
    return task.averaged(means)
