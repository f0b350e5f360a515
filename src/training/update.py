"""One update of a run: batch, forward and backward pass, clipping, and one step of the optimizer and the scheduler."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from src.config.schema import Precision, TrainerSettings
from src.models.sequence import SequenceModel
from src.specs import Batch, State, Step, map_state
from src.tasks.base import Task
from src.training.fast_updates import FusedAdamW, clip_norm_
from src.training.graphs import Recorder, Replayed
from src.training.regularizers import norm_stabilizer, weight_noise
from src.training.state import TrainState


class Done(NamedTuple):
    """What an update consisted of, for the curves."""

    batch: Batch
    step: Step
    norm: Tensor
    """The norm of the gradient before it was clipped."""
    lr: float


class Update:
    """Performs one update of a run each time it is called.

    Args:
        state: the state of the run.
        task: the task, on the device of the weights.
        settings: the settings of the loop.
    """

    def __init__(self, state: TrainState, task: Task, settings: TrainerSettings):
        self.state = state
        self.task = task
        self.settings = settings
        (self.weights,) = state.optimizer.param_groups[0]["params"]
        assert self.weights.grad is not None
        self.gradient = self.weights.grad
        self.done: Done | None = None
        """What the last update consisted of, if it was done here."""
        self.done_elsewhere: Callable[[], Done] | None = None
        """Returns the same, if the last update was one of several runs at once."""
        self.program: Callable[[Batch, State | None], tuple[Step, Tensor]] = self.compute
        """Performs `compute`, directly or by replaying a recording."""
        self.replayed: Replayed | None = None
        """The part of `compute` that is recorded and replayed, if any."""

    def replay_with(self, recorder: Recorder) -> None:
        """Record and replay the work on tensors, with the optimizer step if its learning rate can be a tensor."""
        optimizer = self.state.optimizer
        whole = isinstance(optimizer, FusedAdamW)
        self.replayed = replayed = Replayed(self.compute if whole else self.gradients, recorder)

        def program(batch: Batch, recurrent: State | None) -> tuple[Step, Tensor]:
            if isinstance(optimizer, FusedAdamW):
                optimizer.write_lr(optimizer.param_groups[0]["lr"])
            result: tuple[Step, Tensor] = replayed(batch, recurrent)
            if not whole:
                optimizer.step()
            return result

        self.program = program

    def __call__(self) -> None:
        self.done = None  # so that its memory is reused, which saves 3 % of an update of fast weights
        batch = self.next_batch()
        step, norm = self.program(batch, self.state.recurrent)
        lr = self.advance(step.output.state if self.carries_state else None)
        self.done = Done(batch, step, norm, lr)

    @property
    def carries_state(self) -> bool:
        """Whether the next update starts from the state of this one."""
        return self.task.carries_state and not self.settings.overfit_one_batch

    def next_batch(self) -> Batch:
        """The data of the next update."""
        return self.task.batch("train", self.index, self.settings.batch_size)

    @property
    def index(self) -> int:
        """The index of the next batch."""
        return 0 if self.settings.overfit_one_batch else self.state.update

    def compute(self, batch: Batch, recurrent: State | None) -> tuple[Step, Tensor]:
        """Do the work on tensors, which changes the weights; return the pass over the batch and its gradient norm."""
        step, norm = self.gradients(batch, recurrent)
        self.state.optimizer.step()
        return step, norm

    def gradients(self, batch: Batch, recurrent: State | None) -> tuple[Step, Tensor]:
        """Do everything in `compute` except the optimizer step."""
        state, settings = self.state, self.settings
        with weight_noise(state.model, settings.weight_noise):
            step = loss_of(state.model, self.task, batch, recurrent, settings.norm_stabilizer, settings.precision)
            self.gradient.zero_()
            step.loss.backward()
        norm = clip_norm_(self.gradient, settings.clip_norm)
        state.sum_of_norms += norm
        return step, norm

    def advance(self, recurrent: State | None) -> float:
        """Count an update that has been computed, prepare the next one, and return the learning rate of this one."""
        state = self.state
        self.done = None
        lr = state.optimizer.param_groups[0]["lr"]
        state.scheduler.step()
        if recurrent is not None:
            state.recurrent = map_state(Tensor.detach, recurrent)
        state.update += 1
        return lr

    def last(self) -> Done:
        """What the last update consisted of."""
        if self.done is not None:
            return self.done
        assert self.done_elsewhere is not None
        return self.done_elsewhere()


def loss_of(
    model: SequenceModel,
    task: Task,
    batch: Batch,
    state: State | None,
    stabilizer: float | Tensor,
    precision: Precision = "float32",
) -> Step:
    """Run a pass over a batch from `state`; the norm stabilizer is among the losses unless its weight is 0."""
    if precision == "float32":
        step = task.loss(model, batch, state)
    else:
        with torch.autocast(batch.inputs.device.type, torch.bfloat16):
            step = task.loss(model, batch, state)
        step = step._replace(output=map_state(_in_float32, step.output))
    if not isinstance(stabilizer, Tensor) and stabilizer == 0:
        return step
    penalty = stabilizer * norm_stabilizer(step.output.hidden_BTH, _lengths(batch))
    return step._replace(losses=step.losses | {"norm_stabilizer": penalty})


def _lengths(batch: Batch) -> Tensor | None:
    """The length of each sequence, up to the last step that counts."""
    if batch.lengths is not None or batch.mask is None:
        return batch.lengths
    return (batch.mask * torch.arange(1, batch.mask.shape[1] + 1, device=batch.mask.device)).amax(1)


def _in_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor
