"""Several runs trained as one program: while a device has capacity to spare, this takes hardly longer than one run.

The weights of the runs are the rows of one matrix. Each run keeps its own model and optimizer, whose tensors become
views of its row. So a run does everything but the updates (logging, evaluation, selection, checkpoints) as if it were
alone, and it can continue alone at any time.

Shapes: P runs, N weights of each.
"""

import copy
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from src.config.schema import Precision
from src.models.sequence import SequenceModel
from src.ops.generated.settings import OF_ALL_MODULES
from src.specs import Batch, Output, State, Step, state_like, state_tensors
from src.tasks.base import Task
from src.training.fast_updates import clip_rows_, make_views_of
from src.training.graphs import Replayed
from src.training.stacked_optimizer import StackedOptimizer
from src.training.update import Done, Update, loss_of


def signature(update: Update) -> Hashable:
    """What must be equal for runs to be trained together: everything about model and optimizer except numbers.

    Numbers are nonzero floats (a weight or setting of 0 often means that something is absent), and all numbers among
    the optimizer settings that do not change the shapes of its state.
    """
    model, optimizer = update.state.model, update.state.optimizer
    modules = [(name, type(module), *sorted(_settings(module))) for name, module in model.named_modules()]
    tensors = [
        (name, tensor.shape, tensor.dtype, tensor.requires_grad)
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    ]
    kinds = [(key, value) for key, value in optimizer.param_groups[0].items() if isinstance(value, bool | str | None)]
    moments = [(key, tensor.shape) for key, tensor in StackedOptimizer.state_of(optimizer).items()]
    return (*modules, *tensors, type(optimizer), *kinds, *moments)


def _settings(module: nn.Module) -> Iterator[tuple[str, Hashable]]:
    for key, value in vars(module).items():
        is_another_view = isinstance(value, list) and all(isinstance(item, nn.Module) for item in value)
        if key not in OF_ALL_MODULES and not is_another_view:  # modules with the same weights, kept out of the tree
            if isinstance(value, float):
                yield key, ("number", value == 0)
            else:
                yield key, value if _is_hashable(value) else id(value)


def _is_hashable(value: Any) -> bool:
    """Whether a value can be hashed and compared as a whole, unlike a tuple of lists or a tensor."""
    try:
        hash(value)
    except TypeError:
        return False
    return not isinstance(value, Tensor)


class Stacked:
    """Performs one update of several runs each time it is called.

    The forward pass is one model under `torch.func.vmap`, mapped over the trained and frozen weights, the buffers, the
    data, and the settings in which the runs differ. The losses are summed, which does not change the gradient of any
    run; clipping and the optimizer work on rows. A fused kernel can be used if its `torch.autograd.Function` has a
    `vmap` rule.

    Args:
        updates: the updates of the runs, which have the same task, except for its seed, and the same `signature`.
    """

    def __init__(self, updates: Sequence[Update]):
        self.updates = updates
        self.states = [update.state for update in updates]
        self.weights_PN = torch.stack([update.weights.detach() for update in updates])
        self.gradient_PN = torch.stack([update.gradient for update in updates])
        self.sums_P = torch.stack([state.sum_of_norms for state in self.states])
        for row, update in enumerate(updates):
            if update.replayed is not None:
                update.replayed.forget()
            update.weights.data = self.weights_PN[row]
            update.weights.grad = update.gradient = self.gradient_PN[row]
            update.state.sum_of_norms = self.sums_P[row]
            make_views_of(update.weights, update.state.model)
            update.done_elsewhere = partial(self._done, row)
        optimizers = [state.optimizer for state in self.states]
        self.optimizer = StackedOptimizer(optimizers, self.weights_PN, self.gradient_PN)

        models = [state.model for state in self.states]
        self.one = _Loss(copy.deepcopy(models[0]), updates[0].task, updates[0].settings.precision)
        self.any_state = self.one.model.core.initial_state(1)
        """A state of one run, for the structure of the states that the runs carry."""
        self.leaf_PN = self.weights_PN.detach().requires_grad_()
        self.leaf_PN.grad = self.gradient_PN
        untrained = [_untrained(model) for model in models]
        self.untrained = {name: torch.stack([own[name] for own in untrained]) for name in untrained[0]}
        for row, own in enumerate(untrained):
            for name, tensor in own.items():
                tensor.data = self.untrained[name][row]
        self.numbers = list(self._numbers(models))
        settings = [update.settings for update in updates]
        self.bounds_P = self._column([torch.inf if one.clip_norm is None else one.clip_norm for one in settings])
        stabilizers = [one.norm_stabilizer for one in settings]
        self.stabilizers = [self._column(stabilizers)] if any(stabilizers) else []

        self.program: Callable[[Batch, list[Tensor]], tuple[Step, Tensor]] = self.compute
        """Performs `compute`, directly or by replaying a recording of it."""
        if (replayed := updates[0].replayed) is not None:
            self.program = Replayed(self.compute, replayed.recorder)

    def close(self) -> None:
        """Release the runs, so that this object and its CUDA graph can be garbage-collected."""
        del self.program
        for update in self.updates:
            update.done_elsewhere = None

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=self.weights_PN.dtype, device=self.weights_PN.device)

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        """The weights of all runs by name, as views of the rows."""
        named = [(name, tensor) for name, tensor in self.one.named_parameters() if tensor.requires_grad]
        columns = self.leaf_PN.split([tensor.numel() for _, tensor in named], dim=1)
        for (name, tensor), values in zip(named, columns, strict=True):
            yield name, values.view(-1, *tensor.shape)

    def _numbers(self, models: Sequence[nn.Module]) -> Iterator[tuple[nn.Module, str, Tensor]]:
        """The model settings in which the runs differ, each as its module, its name, and its values [P]."""
        for module, *same in zip(self.one.model.modules(), *(model.modules() for model in models), strict=True):
            for key, value in vars(module).items():
                if isinstance(value, float) and key not in OF_ALL_MODULES:
                    values = [vars(other)[key] for other in same]
                    if len(set(values)) > 1:
                        yield module, key, self._column(values)

    def __call__(self) -> None:
        self.done: tuple[list[Batch], Step, Tensor, list[float]] | None = None
        carried = [state.recurrent is not None for state in self.states]
        some_begin = any(carried) and not all(carried)  # after one update all carry a state
        batches = self.next_batches()
        alike = len({(batch.inputs.shape, batch.resets is None) for batch in batches}) == 1  # unless epochs begin apart
        if some_begin or not alike:
            for update in self.updates:
                update()
            return
        self.optimizer.read_settings()
        step, norms_P = self.program(stack(batches), self.recurrent)
        self.done = batches, step, norms_P, self.advance(step)

    def next_batches(self) -> list[Batch]:
        """The data of the next update of each run."""
        drawn: dict[tuple[Task, int], Batch] = {}  # runs may share a task
        for update in self.updates:
            if (update.task, update.index) not in drawn:
                drawn[update.task, update.index] = update.next_batch()
        return [drawn[update.task, update.index] for update in self.updates]

    @property
    def recurrent(self) -> list[Tensor]:
        """The tensors of the states that the runs carry, stacked; an empty list if they carry none."""
        carried = [state_tensors(state.recurrent) for state in self.states if state.recurrent is not None]
        return [torch.stack(tensors) for tensors in zip(*carried, strict=True)]

    def compute(self, batch: Batch, recurrent: list[Tensor]) -> tuple[Step, Tensor]:
        """Like `Update.compute`, but all tensors have a first dimension P, and the state is a list of tensors."""
        step = self.gradients(batch, recurrent)
        norms_P = clip_rows_(self.gradient_PN, self.bounds_P)
        self.sums_P += norms_P
        self.optimizer.step()
        return step, norms_P

    def gradients(self, batch: Batch, recurrent: list[Tensor]) -> Step:
        """Compute the losses and outputs on a batch of each run, and write the gradients to `gradient_PN`."""
        total_P, step = self._step(batch, recurrent, self.stabilizers)
        self.gradient_PN.zero_()
        total_P.sum().backward()
        return step

    def evaluated(self, batches: Sequence[Batch], recurrent: list[Tensor]) -> Step:
        """Compute the losses and outputs on a batch of each run, in evaluation mode and float32."""
        precision, self.one.precision = self.one.precision, "float32"
        self.one.eval()
        try:
            return self._step(stack(batches), recurrent, [])[1]
        finally:
            self.one.train()
            self.one.precision = precision

    def _step(self, batch: Batch, recurrent: list[Tensor], stabilizers: list[Tensor]) -> tuple[Tensor, Step]:
        given = {name: tensor for name, tensor in batch._asdict().items() if tensor is not None}
        numbers = [values for _, _, values in self.numbers]
        arguments = (dict(self._weights()) | self.untrained, numbers, given, recurrent, stabilizers)
        total_P, losses, prediction, hidden, state, played = torch.func.vmap(self._one_run)(*arguments)
        return total_P, Step(losses, Output(prediction, hidden, state), Batch(**played) if played else None)

    def _one_run(
        self,
        tensors: dict[str, Tensor],
        numbers: list[Tensor],
        batch: dict[str, Tensor],
        recurrent: list[Tensor],
        stabilizer: list[Tensor],
    ) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor, list[Tensor], dict[str, Tensor]]:
        for (module, key, _), number in zip(self.numbers, numbers, strict=True):
            setattr(module, key, number)
        state = state_like(self.any_state, recurrent) if recurrent else None
        step: Step = torch.func.functional_call(self.one, tensors, (Batch(**batch), state, *stabilizer))
        prediction, hidden, state = step.output
        carried = [] if state is None else state_tensors(state)
        played = {} if step.played is None else step.played._asdict()
        played = {name: tensor for name, tensor in played.items() if tensor is not None}
        return step.loss, step.losses, prediction, hidden, carried, played

    def advance(self, step: Step) -> list[float]:
        """Like `Update.advance`, for all runs."""
        state = step.output.state
        rows = [self._state_of(row, state) if it.carries_state else None for row, it in enumerate(self.updates)]
        return [update.advance(recurrent) for update, recurrent in zip(self.updates, rows, strict=True)]

    def _state_of(self, row: int, stacked: Any) -> Any:
        return state_like(self.any_state, [tensor[row] for tensor in stacked])

    def _done(self, row: int) -> Done:
        """What the last update of one run consisted of."""
        assert self.done is not None
        batches, (losses, (prediction, hidden, _), played), norms_P, lrs = self.done
        output = Output(prediction[row], hidden[row], None)
        own_episodes = None if played is None else played.map(lambda tensor: tensor[row])
        own = Step({name: part[row] for name, part in losses.items()}, output, own_episodes)
        return Done(batches[row], own, norms_P[row], lrs[row])


def _untrained(model: nn.Module) -> dict[str, Tensor]:
    """The frozen parameters and the buffers of a model, by their names in `_Loss`."""
    frozen = [(name, parameter) for name, parameter in model.named_parameters() if not parameter.requires_grad]
    return {f"model.{name}": tensor for name, tensor in (*frozen, *model.named_buffers())}


def stack(batches: Sequence[Batch]) -> Batch:
    """Stack batches along a new first dimension; where only some have a mask or lengths, the others get full ones."""
    if len({batch.mask is None for batch in batches}) > 1:
        batches = [it if it.mask is not None else it._replace(mask=_all_steps(it)) for it in batches]
    if len({batch.lengths is None for batch in batches}) > 1:
        batches = [it if it.lengths is not None else it._replace(lengths=_all_lengths(it)) for it in batches]
    fields = zip(*batches, strict=True)
    return Batch(*(None if field[0] is None else torch.stack(field) for field in fields))  # type: ignore[arg-type]


def _all_steps(batch: Batch) -> Tensor:
    return torch.ones(batch.inputs.shape[:2], dtype=torch.bool, device=batch.inputs.device)


def _all_lengths(batch: Batch) -> Tensor:
    num_rows, num_steps = batch.inputs.shape[:2]
    return torch.full((num_rows,), num_steps, device=batch.inputs.device)


class _Loss(nn.Module):
    """The loss of a model on a batch, as a module in which `torch.func.functional_call` can replace the weights."""

    def __init__(self, model: SequenceModel, task: Task, precision: Precision):
        super().__init__()
        self.model = model
        self.task = task
        self.precision = precision

    def forward(self, batch: Batch, state: State | None, stabilizer: Tensor | float = 0.0) -> Step:
        return loss_of(self.model, self.task, batch, state, stabilizer, self.precision)
