"""What a step computes: values, for each sequence, and views of them.

A value is a block of numbers per sequence, with one SIMD vector per number in the kernel. It is computed by a nest of
loops over dimensions larger than 1, or by a product with a matrix. A view presents a value in another shape, by an
offset and strides; torch's own meta tensors do the arithmetic.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a contiguous tensor."""
    return tuple(math.prod(shape[dim + 1 :]) for dim in range(len(shape)))


@dataclass(eq=False)
class Value:
    """A block of numbers, for one sequence at one step."""

    kind: str
    """"input", "state", "gradient" (of an output), "constant", "map" (elementwise), "reduce", "product" with a matrix,
    "join" (a concatenation), "part" of a join, or "total", a sum over sequences and steps."""
    operation: str
    """The name of the expression of a map or of the operator of a reduction; for other kinds, only a label."""
    operands: list["View | float"]
    shape: tuple[int, ...]
    loops: tuple[int, ...]
    """Extents of the loops that compute it, outermost first."""
    strides: tuple[int, ...]
    """Its own strides along the loops; 0 where a loop is summed over."""
    name: str = ""
    boolean: bool = False
    parts: list["Value"] = field(default_factory=list)
    """For a join: its parts."""
    target: "tuple[Value, int] | None" = None
    """For a part: the join, and where in it the part begins."""
    dim: int = 0
    """For a join: the dimension along which it concatenates."""
    start: "View | None" = None
    """For a product: what it is added to."""
    outer: "tuple[View, View] | None" = None
    """The factors [M, K] and [K, N] if the value is their product, as the gradient of a matrix is."""
    table: "Value | None" = None
    """A constant that holds indices: for a map, where it reads; for a reduction, where it adds."""

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def given(self) -> bool:
        """Whether it is given from outside rather than computed."""
        return self.kind in ("input", "state", "gradient", "constant")

    @property
    def selects(self) -> bool:
        """Whether it only selects numbers of another value by a table, which its readers can do themselves."""
        return self.kind == "map" and self.table is not None

    @property
    def scalar(self) -> bool:
        """Whether it is a single number, which needs no memory within a step."""
        return self.kind in ("map", "reduce") and not any(self.strides) and self.table is None

    @property
    def sources(self) -> "list[Value]":
        """The values from which it is computed."""
        read = [*self.operands, *([self.start] if self.start else [])]
        found = [*self.parts, *(operand.value for operand in read if isinstance(operand, View))]
        return found if self.table is None else [*found, self.table]


class View(NamedTuple):
    """A value as seen in another shape."""

    value: Value
    offset: int
    strides: tuple[int, ...]
    shape: tuple[int, ...]

    def meta(self) -> Tensor:
        """A meta tensor, which has no memory, with the layout of this view."""
        return torch.empty(max(1, self.value.size), device="meta").as_strided(self.shape, self.strides, self.offset)

    def like(self, tensor: Tensor) -> "View":
        """A view of the same value with the layout of a meta tensor."""
        return View(self.value, int(tensor.storage_offset()), tuple(tensor.stride()), tuple(tensor.shape))

    def along(self) -> tuple[int, ...]:
        """The strides along the dimensions larger than 1."""
        return tuple(stride for size, stride in zip(self.shape, self.strides, strict=True) if size > 1)

    def covers(self) -> bool:
        """Whether it is the whole value in its own order and shape, apart from dimensions of size 1."""
        return (self.offset, extents(self.shape), self.along()) == (0, *_own(self.value.shape))

    def in_order(self) -> bool:
        """Whether it is the whole value in its own order, possibly in another shape."""
        return self.offset == 0 and self.along() == contiguous(extents(self.shape)) and self.size == self.value.size

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    def through(self, inner: "View") -> "View | None":
        """This view of a copy of `inner`, as a view of the value behind `inner`; None if no strides can express it."""
        offset, left, steps = inner.offset, self.offset, {0: 0}
        for size, own, stride in zip(inner.shape, contiguous(inner.shape), inner.strides, strict=True):
            if size > 1:
                first, left = divmod(left, own)
                last = first + sum(n - 1 for n, step in zip(self.shape, self.strides, strict=True) if step == own)
                if last >= size:
                    return None
                offset += first * stride
                steps[own] = stride
        own_strides = [step if size > 1 else 0 for size, step in zip(self.shape, self.strides, strict=True)]
        if not steps.keys() >= set(own_strides):
            return None
        return View(inner.value, offset, tuple(steps[step] for step in own_strides), self.shape)

    def permutes(self) -> bool:
        """Whether it shows every number of the value exactly once."""
        own = sorted(zip(_own(self.value.shape)[1], extents(self.value.shape), strict=True))
        return self.offset == 0 and sorted(zip(self.along(), extents(self.shape), strict=True)) == own


def extents(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes larger than 1."""
    return tuple(size for size in shape if size > 1)


def _own(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return extents(shape), contiguous(extents(shape))


def whole(value: Value) -> View:
    """A view of the whole value in its own shape."""
    return View(value, 0, contiguous(value.shape), value.shape)


def reached(roots: list[Value], given: set[Value] | frozenset[Value] = frozenset()) -> list[Value]:
    """The roots and everything they are computed from, in order of computation, stopping at `given` values."""
    order: dict[Value, None] = {}

    def visit(value: Value) -> None:
        if value not in order:
            for source in [] if value in given else value.sources:
                visit(source)
            order[value] = None

    for root in roots:
        visit(root)
    return list(order)
