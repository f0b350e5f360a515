"""Examples of a split as a person reads them, and what the memory of the model holds and attends to."""

import torch

from src.models.sequence import SequenceModel
from src.specs import Batch, Output, Split
from src.tasks.base import Task
from src.training.curves import Curves
from src.training.trainer import Trainer


def examples(model: SequenceModel, task: Task, split: Split, num_examples: int) -> tuple[Batch, Output]:
    """A few examples of a split, wrong answers among them if there are any, and the output of the model for them."""
    batch = next(iter(task.evaluation(split)))
    model.eval()
    with torch.no_grad():
        rows = task.examples(batch, task.loss(model, batch).output, num_examples)
        shown = batch.take(torch.tensor(rows, device=batch.inputs.device))
        return shown, task.loss(model, shown).output


@torch.no_grad()
def show_examples(trainer: Trainer, curves: Curves, num_examples: int = 12) -> None:
    """Put rendered test examples into TensorBoard, with figures of the model's memory if it has one."""
    task, core = trainer.task, trainer.model.core
    batch, output = examples(trainer.model, task, "test", num_examples)
    lines = [task.render(batch, row, output) for row in range(len(batch.inputs))]
    curves.text("examples", lines, trainer.state.update)
    projected = trainer.model.project(batch.inputs).vectors
    attention, memory = core.attention(projected), core.memory(projected)
    if attention is not None:
        from src.reports.figures import attention_figure

        labels = [task.labels(batch, row) for row in range(len(batch.inputs))]
        curves.figure("visualization/attention", attention_figure(attention, labels), trainer.state.update)
    if memory is not None:
        from src.reports.figures import memory_figure

        curves.figure("visualization/memory", memory_figure(memory, lines), trainer.state.update)
