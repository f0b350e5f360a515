"""The inputs of a recurrence: a vector for every position, or a table of vectors and the ids of its rows."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import optree
from torch import Tensor
from torch.nn import functional


class Inputs(NamedTuple):
    """Projected inputs: vectors [B, T, P], or a table of them [V, P] with the ids [B, T] of its rows.

    The vectors are one tensor, or several named ones (a named tuple of queries, keys, gates, ...), each of shape
    [B, T, ...] or [V, ...].
    """

    table: Any
    ids: Tensor | None = None
    resets: Tensor | None = None
    """Where a sequence starts afresh [B, T] (bool): before these steps, the state is reset to the initial one."""

    @property
    def example(self) -> Tensor:
        """One of the tensors, from which to read the device and dtype."""
        return self.table if isinstance(self.table, Tensor) else optree.tree_leaves(self.table)[0]

    @property
    def batch_and_time(self) -> tuple[int, int]:
        """B and T."""
        shape = self.example.shape if self.ids is None else self.ids.shape
        return shape[0], shape[1]

    @property
    def vectors(self) -> Any:
        """A vector for every position, [B, T, P]."""
        if self.ids is None:
            return self.table
        if isinstance(self.table, Tensor):
            return _take_rows(self.table, self.ids)
        return self._map(partial(_take_rows, ids=self.ids))

    def split(self, num_steps: int) -> list["Inputs"]:
        """The inputs in pieces of `num_steps` steps; the last piece may be shorter."""
        time = self.batch_and_time[1]
        if time <= num_steps:
            return [self]
        pieces = []
        for start in range(0, time, num_steps):
            steps = slice(start, start + num_steps)
            table = self.table if self.ids is not None else self._map(partial(_take_steps, steps=steps))
            others = (None if tensor is None else tensor[:, steps] for tensor in (self.ids, self.resets))
            pieces.append(Inputs(table, *others))
        return pieces

    def _map(self, function: Callable[[Tensor], Tensor]) -> Any:
        return optree.tree_map(function, self.table)


def steps(vectors: Any) -> list[Any]:
    """The vectors step by step: [B, T, P] -> T times [B, P], for each tensor if there are several."""
    if isinstance(vectors, Tensor):
        return list(vectors.unbind(1))
    leaves, structure = optree.tree_flatten(vectors)
    by_step = zip(*(leaf.unbind(1) for leaf in leaves), strict=True)
    return [optree.tree_unflatten(structure, step) for step in by_step]


def _take_rows(table: Tensor, ids: Tensor) -> Tensor:
    if table.ndim == 2:
        return functional.embedding(ids, table)
    return functional.embedding(ids, table.reshape(len(table), -1)).view(*ids.shape, *table.shape[1:])


def _take_steps(table: Tensor, steps: slice) -> Tensor:
    return table[:, steps]
