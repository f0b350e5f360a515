"""Examples of a split in readable form, and what the memory of the model holds and attends to."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from src.models.base import Core
from src.models.sequence import SequenceModel
from src.specs import Batch, Output, Split, State, map_state, state_tensors
from src.tasks.base import Task
from src.training.curves import Curves
from src.training.trainer import Trainer

NUM_FILMS = 2
"""Number of episodes that are shown as films in TensorBoard."""


def examples(model: SequenceModel, task: Task, split: Split, num_examples: int) -> tuple[Batch, Output]:
    """A few examples of a split, and the output of the model for them.

    Both right and wrong answers are shown if the first batch of the evaluation has both.
    """
    batch = next(iter(task.evaluation(split)))
    model.eval()
    with torch.no_grad():
        step = task.loss(model, batch)
        rows = task.examples(step.played or batch, step.output, num_examples)
        shown = batch.take(torch.tensor(rows, device=batch.inputs.device))
        step = task.loss(model, shown)
        return step.played or shown, step.output


@torch.no_grad()
def show_examples(trainer: Trainer, curves: Curves, num_examples: int = 12) -> None:
    """Add rendered test examples to TensorBoard, with figures of the model's memory if it has one."""
    task, core = trainer.task, trainer.model.core
    batch, output = examples(trainer.model, task, "test", num_examples)
    lines = [task.render(batch, row, output) for row in range(len(batch.inputs))]
    curves.text("examples", lines, trainer.state.update)
    projected = trainer.model.project(batch.inputs).vectors
    ends = [batch.inputs.shape[1]] * len(lines) if batch.lengths is None else batch.lengths.tolist()
    attention, memory = attention_of_last_steps(core, projected, ends), memory_at(core, projected, ends)
    if attention is not None:
        from src.reports.figures import attention_figure

        labels = [task.labels(batch, row)[:end] for row, end in enumerate(ends)]
        curves.figure("visualization/attention", attention_figure(attention, labels), trainer.state.update)
    if memory is not None:
        from src.reports.figures import memory_figure

        curves.figure("visualization/memory", memory_figure(memory, lines), trainer.state.update)
    for row in range(min(len(lines), NUM_FILMS)):
        if (film := task.film(batch, row, output)) is not None:
            from src.reports.film import film_figure

            looks = attention_of_every_step(core, trainer.model.project(batch.inputs[row : row + 1]).vectors)
            curves.figure(f"visualization/episode_{row}", film_figure(film, looks), trainer.state.update)


def attention_of_last_steps(core: Core, p_BTP: State, ends: Sequence[int]) -> Tensor | None:
    """How strongly the last step of each sequence attends to each earlier one, [B, T - 1], 0 after its end.

    None if the core has no attention, or if there is only one step. `ends` holds the length of each sequence.
    """
    looks = [core.attention(p_1TP) for p_1TP in _each(p_BTP, ends)]
    if max(ends) == 1 or any(look is None for look in looks):
        return None
    return torch.cat([pad(look, (0, max(ends) - 1 - look.shape[1])) for look in looks if look is not None])


def memory_at(core: Core, p_BTP: State, ends: Sequence[int]) -> Tensor | None:
    """The memory at the end of each sequence, [B, R, C]; None if the core has none."""
    memories = [core.memory(p_1TP) for p_1TP in _each(p_BTP, ends)]
    return None if any(memory is None for memory in memories) else torch.cat([it for it in memories if it is not None])


def _each(p_BTP: State, ends: Sequence[int]) -> Iterator[State]:
    """Each sequence as a batch of its own, up to its end."""
    for row, end in enumerate(ends):
        yield map_state(lambda tensor, row=row, end=end: tensor[row : row + 1, :end], p_BTP)  # type: ignore[misc]


def attention_of_every_step(core: Core, p_1TP: Any) -> np.ndarray | None:
    """How strongly each step of a sequence attends to each earlier one, [T, T], 0 elsewhere; None without attention."""
    num_steps = state_tensors(p_1TP)[0].shape[1]
    looks_TT = np.zeros((num_steps, num_steps))
    for t in range(1, num_steps):
        looks_1t = core.attention(map_state(lambda tensor, end=t + 1: tensor[:, :end], p_1TP))  # type: ignore[misc]
        if looks_1t is None:
            return None
        looks_TT[t, :t] = looks_1t[0].numpy(force=True)
    return looks_TT
