"""Whether a run fits on this machine: estimated from below, and without allocating what does not fit."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig
from torch.overrides import TorchFunctionMode

from src.config.errors import UserError
from src.config.settings import flat
from src.models.sequence import SequenceModel
from src.specs import SPLITS, Batch, Split
from src.tasks.base import Task
from src.utils.machine import memory, num_cores

Made = TypeVar("Made")
SIZE = 4  # bytes of a number, at least
FACTORIES = frozenset(
    {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.randint, torch.randperm}
)


class _Counted(TorchFunctionMode):
    """Adds up the bytes of new tensors, and raises a MemoryError before they exceed a limit."""

    def __init__(self, limit: float):
        super().__init__()
        self.limit = limit
        self.total = 0

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), settings: Any = None) -> Any:
        settings = settings or {}
        if function in FACTORIES:
            shape = settings.get("size") or next((it for it in arguments if isinstance(it, tuple | list)), arguments)
            self.total += SIZE * math.prod(shape)
            if self.total > self.limit:
                raise MemoryError
        return function(*arguments, **settings)


def made(what: str, copies: int, keys: Mapping[str, int], make: Callable[[], Made]) -> Made:
    """Return `make()`, or raise `UserError` before it allocates more than fits into memory `copies` times."""
    counted = _Counted(memory() / copies)
    try:
        with counted:
            return make()
    except Exception:
        _check(what, counted.total * copies, keys)
        raise


def check_sizes(config: DictConfig, task: Task, model: SequenceModel) -> None:
    """Raise `UserError` if a run cannot fit on this machine: its threads, its data, or a batch and its states."""
    threads, batch_size = config.trainer.threads, config.trainer.batch_size
    if threads > num_cores():
        raise UserError(f"trainer.threads={threads}: must be at most {num_cores()}, the number of cores here")
    example = task.seen(check_data(config, task, SPLITS))
    num_bytes = batch_size * (_bytes(example) + SIZE * example.inputs.shape[1] * model.core.output_size)
    keys = integers(config, "model") | _shape(config, task) | {"trainer.batch_size": batch_size}
    _check("a batch and its hidden states", num_bytes, keys)


def check_data(config: DictConfig, task: Task, splits: Sequence[Split]) -> Batch:
    """Raise `UserError` if the examples of some splits do not fit into memory; return one of them."""
    # an evaluation on fresh training data draws as many examples as validation has
    drawn = {split: split if task.sizes[split] else "val" for split in splits}
    size, key = max((task.sizes[split] or 0, f"task.{split}_size") for split in drawn.values())
    keys = _shape(config, task) | {key: size}
    example = made("the data", max(size, 1), keys, task.example)
    _check("the data", size * _bytes(example), keys)
    return example


def _shape(config: DictConfig, task: Task) -> dict[str, int]:
    """The integer settings of a task other than its numbers of examples."""
    sizes = {f"task.{split}_size" for split in task.sizes}
    return {key: value for key, value in integers(config, "task").items() if key not in sizes}


def _bytes(batch: Batch) -> int:
    return sum(tensor.nbytes for tensor in batch if tensor is not None)


def integers(config: DictConfig, *groups: str) -> dict[str, int]:
    """The integer settings of some groups, by full key."""
    settings = flat({group: config[group] for group in groups})
    return {key: value for key, value in settings.items() if type(value) is int}


def _check(what: str, num_bytes: int, keys: Mapping[str, int]) -> None:
    """Raise `UserError`, naming the key with the largest value, if there is less memory than `num_bytes`."""
    if num_bytes > memory():
        key, value = max(keys.items(), key=lambda item: item[1])
        needed, there = (f"{number / 1e9:,.0f} GB" for number in (num_bytes, memory()))
        raise UserError(f"{key}={value}: {what} would take at least {needed} of memory; there are {there} here")
