"""Translates operations into values: loops, products and joins. Operations that only view a tensor disappear."""

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from src.ops.generated.expressions import BOOLEAN, LOGICAL
from src.ops.generated.recipe import LoweringError, Offsets
from src.ops.generated.values import Value, View, contiguous, extents, whole

aten = torch.ops.aten
Number = bool | int | float


class Filled:
    """A tensor filled with a single number."""

    def __init__(self, number: Number, shape: tuple[int, ...] = ()):
        self.number, self.shape = float(number), tuple(shape)


Operand = View | Filled


def meta_of(operand: Operand) -> Tensor:
    """A meta tensor, which has no memory, with the layout of an operand."""
    return operand.meta() if isinstance(operand, View) else torch.empty((), device="meta").expand(operand.shape)


def like(operand: Operand, tensor: Tensor) -> Operand:
    """The operand in the layout of a meta tensor."""
    return operand.like(tensor) if isinstance(operand, View) else Filled(operand.number, tuple(tensor.shape))


class Builder:
    """Creates values, each of them only once.

    Args:
        constants: the values that a step does not change.
        examples: tensors with the numbers of the constants.
    """

    def __init__(self, constants: list[Value], examples: list[Tensor]):
        self.constants, self._examples = constants, examples
        self._known: dict[Any, Value] = {}
        self.tables: dict[Offsets, Value] = {}
        self.exact = False
        """Whether multiplying by a reciprocal is not accurate enough to replace a division."""

    def view_as(self, target: Any, x: Operand, *args: Any, **kwargs: Any) -> Any:
        """The result, for x, of an operation that only views its input."""
        try:
            seen = target(meta_of(x), *args, **kwargs)
        except RuntimeError:  # a shape that these strides cannot express
            x = self.copy(self.view(x))
            seen = target(meta_of(x), *args, **kwargs)
        return [like(x, tensor) for tensor in seen] if isinstance(seen, (tuple, list)) else like(x, seen)

    def _make(self, kind: str, operation: str, operands: list[Operand], shape: Any, **more: Any) -> Value:
        """A new value, or the existing one if it is the same."""
        read: list[View | float] = [o.number if isinstance(o, Filled) else o for o in operands]
        shape = tuple(shape)
        keys = [o if isinstance(o, float) else (id(o.value), *o[1:]) for o in read]
        key = (kind, operation, tuple(keys), shape, str(more))
        if key not in self._known:
            loops = more.pop("loops", extents(shape))
            strides = more.pop("strides", contiguous(loops))
            self._known[key] = Value(kind, operation, read, shape, loops, strides, **more)
        return self._known[key]

    def map(self, operation: str, *operands: Operand | Number) -> Operand:
        """An elementwise operation."""
        args: list[Operand] = [Filled(a) if isinstance(a, Number) else a for a in operands]
        shape = torch.broadcast_shapes(*(a.shape for a in args))
        if simpler := self._without_signs(operation, args):
            return simpler
        numbers = [a.number if isinstance(a, Filled) else None for a in args]
        if operation in _FOLDED and None not in numbers:
            return Filled(_FOLDED[operation](*numbers), shape)
        if operation in ("mul", "add") and numbers[0] is not None:
            args, numbers = args[::-1], numbers[::-1]
        neutral = {"mul": 1, "div": 1, "add": 0, "sub": 0}.get(operation)
        if neutral is not None and numbers[1] == neutral and args[0].shape == shape:
            return args[0]
        if operation == "div" and numbers[1] and (not self.exact or abs(math.frexp(numbers[1])[0]) == 0.5):
            operation, args[1] = "mul", Filled(1 / numbers[1])
        elif operation == "div" and self.exact:
            operation = "quotient"
        elif operation == "div" and _repeats(args[1], shape):  # one division instead of many
            operation, args[1] = "mul", self.map("reciprocal", args[1])
        if operation == "add" and (joined := self._sum_of_joins(*args)):
            return joined
        if operation in LOGICAL:
            args = [self.condition(a) for a in args]
        elif operation == "where":
            args = [self.condition(args[0]), *map(self.number, args[1:])]
        elif operation not in ("eq", "ne") or not all(map(_is_condition, args)):
            args = [self.number(a) for a in args]
        args = [like(a, meta_of(a).expand(shape)) for a in args]
        views = [a for a in args if isinstance(a, View)]
        repeated = [dim for dim, size in enumerate(shape) if size > 1 and all(v.strides[dim] == 0 for v in views)]
        if views and repeated:  # computed once, then repeated
            once = [1 if dim in repeated else size for dim, size in enumerate(shape)]
            result = self.map(operation, *(_shrunk(a, once) for a in args))
            return like(result, meta_of(result).expand(shape))
        return whole(self._make("map", operation, args, shape, boolean=operation in BOOLEAN))

    def _without_signs(self, operation: str, args: list[Operand]) -> Operand | None:
        """Rewrite an operation on negated numbers, as in the derivative of a difference, for the numbers themselves."""
        positive = [_negated(a) for a in args]
        plain = [p or a for p, a in zip(positive, args, strict=True)]
        if operation == "neg":
            return positive[0]
        if operation in ("mul", "div") and any(positive):
            result = self.map(operation, *plain)
            return result if all(positive) else self.map("neg", result)
        if operation in ("add", "sub") and positive[1]:
            return self.map("sub" if operation == "add" else "add", args[0], plain[1])
        return self.map("sub", args[1], plain[0]) if operation == "add" and positive[0] else None

    def number(self, x: Operand) -> Operand:
        """The operand as a number: 1 or 0 if it is a condition."""
        return self.map("where", x, 1.0, 0.0) if _is_condition(x) else x

    def condition(self, x: Operand) -> Operand:
        """The operand as a condition: whether it differs from 0 if it is a number."""
        return x if _is_condition(x) else self.map("ne", x, 0)

    def reduce(
        self, operation: str, x: Operand, dims: Any, keepdim: bool = False, times: View | None = None
    ) -> Operand:
        """A sum, maximum or minimum over dimensions, of x or of the product of x and `times`."""
        if operation == "sum" and times is None and (positive := _negated(x)):
            return self.map("neg", self.reduce(operation, positive, dims, keepdim))
        x, shape = self.number(x), x.shape
        summed = {dim % len(shape) for dim in (dims or range(len(shape)))} if shape else set()
        kept = [1 if dim in summed else size for dim, size in enumerate(shape)]
        final = kept if keepdim else [size for dim, size in enumerate(shape) if dim not in summed]
        count = int(torch.Size(shape).numel() / max(1, torch.Size(kept).numel()))
        if isinstance(x, Filled):
            return Filled(x.number * (count if operation == "sum" else 1), tuple(final))
        if count == 1 and times is None:
            return self.view_as(aten.reshape.default, x, final)
        along, pieces = parts_of(x) if times is None and operation == "sum" else (0, [])
        if pieces and along not in summed:  # then the parts need no memory
            removed = 0 if keepdim else sum(dim < along for dim in summed)
            return self.join([self.reduce(operation, piece, summed, keepdim) for piece in pieces], along - removed)
        order = [dim for dim, size in enumerate(shape) if size > 1]
        if times is not None:  # the outer loops have the larger strides in memory
            order.sort(key=lambda dim: -max(x.strides[dim], times.strides[dim]))
        own = contiguous(tuple(kept))
        strides = tuple(0 if dim in summed else own[dim] for dim in order)
        loops = tuple(shape[dim] for dim in order)
        operands: list[Operand] = [x] if times is None else [x, times]
        permuted = [
            like(o, meta_of(o).permute(*order, *(d for d in range(len(shape)) if d not in order))) for o in operands
        ]
        return whole(self._make("reduce", operation, permuted, final, loops=loops, strides=strides))

    def join(self, pieces: list[Operand], dim: int = 0) -> Operand:
        """The concatenation of pieces along a dimension."""
        dim %= len(pieces[0].shape)
        whole_pieces: list[Operand] = []
        for piece in (self.number(piece) for piece in pieces if piece.shape[dim] > 0):
            longer = _continued(whole_pieces[-1], piece, dim) if whole_pieces else None
            whole_pieces = [*whole_pieces[:-1], longer] if longer else [*whole_pieces, piece]
        pieces = whole_pieces
        if len(pieces) == 1:
            return pieces[0]
        shape = list(pieces[0].shape)
        shape[dim] = sum(piece.shape[dim] for piece in pieces)
        join = self._make("join", f"along {dim}", pieces, shape, dim=dim)
        at, strides = 0, contiguous(tuple(shape))
        for piece in [] if join.parts else pieces:
            read = piece.number if isinstance(piece, Filled) else piece
            own = tuple(stride for size, stride in zip(piece.shape, strides, strict=True) if size > 1)
            part = Value(
                "part", "copy", [read], piece.shape, extents(piece.shape), own, target=(join, at * strides[dim])
            )
            join.parts.append(part)
            at += piece.shape[dim]
        return whole(join)

    def _sum_of_joins(self, a: Operand, b: Operand) -> Operand | None:
        """cat(x, 0) + cat(0, y) = cat(x, y): the sum of the gradients of two slices."""
        if not (isinstance(a, View) and isinstance(b, View) and a.value.kind == b.value.kind == "join"):
            return None
        if not (a.covers() and b.covers() and a.shape == b.shape and a.value.dim == b.value.dim):
            return None
        dim, pieces = a.value.dim, []
        queues = [[_operand(part) for part in view.value.parts] for view in (a, b)]
        while all(queues):
            length = min(queue[0].shape[dim] for queue in queues)
            heads = []
            for queue in queues:
                first, size = queue.pop(0), 0
                size = first.shape[dim]
                heads.append(like(first, meta_of(first).narrow(dim, 0, length)))
                if size > length:
                    queue.insert(0, like(first, meta_of(first).narrow(dim, length, size - length)))
            kept = [head for head in heads if not (isinstance(head, Filled) and head.number == 0)]
            if len(kept) == 2:
                return None
            pieces.append(kept[0] if kept else heads[0])
        return self.join(pieces, dim)

    def multiply(self, a: View, b: View) -> Operand:
        """[M, K] x [K, N]: a product with a matrix of constants, or of two values of a sequence."""
        constant = [view.value.kind == "constant" for view in (a, b)]
        if a.shape[1] > 1 and constant[1] and not constant[0]:
            if a.strides[1] != 1:
                a = self.copy(a)
            return whole(self._make("product", "", [a, b], (a.shape[0], b.shape[1])))
        if a.shape[1] > 1 and constant[0] and not constant[1]:
            product = self.multiply(b.like(b.meta().t()), a.like(a.meta().t()))
            return like(product, meta_of(product).t())
        product = self.batch_multiply(a.like(a.meta()[None]), b.like(b.meta()[None]), (a, b))
        return like(product, meta_of(product)[0])

    def batch_multiply(self, a: View, b: View, outer: tuple[View, View] | None = None) -> Operand:
        """[Z, M, K] x [Z, K, N]."""
        (z, m, k), n = a.shape, b.shape[2]
        if z == 1 and outer is None:
            product = self.multiply(a.like(a.meta()[0]), b.like(b.meta()[0]))
            return like(product, meta_of(product)[None])
        if k == 1:
            product = self.map("mul", a.like(a.meta().expand(z, m, n)), b.like(b.meta().expand(z, m, n)))
        else:
            left = a.like(a.meta().unsqueeze(2).expand(z, m, n, k))
            right = b.like(b.meta().transpose(1, 2).unsqueeze(1).expand(z, m, n, k))
            product = self.reduce("sum", left, [3], times=right)
        if outer and isinstance(product, View):
            product.value.outer = outer
        return product

    def table(self, x: View, indices: list[View | None]) -> Value:
        """A constant that holds the offsets which indices select from a view."""
        at = []
        for index in indices:
            if index is not None and index.value not in self.constants:
                raise LoweringError("aten.index with indices that depend on the sequence")
            if index is not None and self._examples[self.constants.index(index.value)].dtype == torch.bool:
                raise LoweringError("aten.index with a mask, whose values decide how many numbers it selects")
            at.append(None if index is None else (self.constants.index(index.value), *index[1:]))
        table = Offsets(x.value.size, (x.offset, x.strides, x.shape), tuple(at))
        if table not in self.tables:
            shape, name = tuple(table.of(self._examples).shape), f"t{len(self.tables)}"
            self.tables[table] = Value("constant", "table", [], shape, extents(shape), contiguous(extents(shape)), name)
        return self.tables[table]

    def copy(self, x: View) -> View:
        """A new value with the numbers that a view shows."""
        return whole(self._make("map", "copy", [x], x.shape, boolean=x.value.boolean))

    def view(self, x: Operand) -> View:
        """The operand as a view, of a new value if it is filled with a single number."""
        if isinstance(x, View):
            return x
        return whole(self._make("map", "copy", [Filled(x.number)], x.shape))


def parts_of(view: View) -> tuple[int, list[Operand]]:
    """The dimension along which a view joins several pieces, and the pieces; none if it does not show a whole join."""
    join, dims = view.value, [dim for dim, size in enumerate(view.shape) if size > 1]
    dims.sort(key=lambda dim: -view.strides[dim])
    sizes, strides = [view.shape[dim] for dim in dims], [view.strides[dim] for dim in dims]
    if join.kind != "join" or view.offset or view.size != join.size or strides != list(contiguous(tuple(sizes))):
        return 0, []
    own, lengths = contiguous(join.shape)[join.dim], {part.shape[join.dim] for part in join.parts}
    steps = {own: join.shape[join.dim]} | {own * length: len(join.parts) for length in lengths if len(lengths) == 1}
    at = [i for i in range(len(dims)) if steps.get(strides[i]) == sizes[i]]
    if not at:
        return 0, []
    along, pieces = dims[at[-1]], []
    for piece in map(_operand, join.parts):
        sizes[at[-1]] = piece.shape[join.dim] if strides[at[-1]] == own else 1
        try:
            seen = meta_of(piece).view(sizes)
        except RuntimeError:  # a shape that these strides cannot express
            return 0, []
        seen = seen.permute([dims.index(dim) for dim in sorted(dims)])
        for dim in (dim for dim, size in enumerate(view.shape) if size <= 1):
            seen = seen.unsqueeze(dim)
        pieces.append(like(piece, seen))
    return along, pieces


def _is_condition(operand: Operand) -> bool:
    return isinstance(operand, View) and operand.value.boolean


def _negated(operand: Operand) -> View | None:
    """The operand whose negative this one is; None if it is not a negative."""
    if not isinstance(operand, View) or operand.value.operation != "neg":
        return None
    inner = operand.value.operands[0]
    assert isinstance(inner, View)
    return operand.through(inner)


def _repeats(operand: Operand, shape: torch.Size) -> bool:
    """Whether an operand repeats numbers when it is expanded to a shape."""
    repeated = isinstance(operand, View) and any(
        size > 1 and stride == 0 for size, stride in zip(operand.shape, operand.strides, strict=True)
    )
    return repeated or operand.shape != shape


def _shrunk(operand: Operand, shape: list[int]) -> Operand:
    """An operand without its repetitions along some dimensions."""
    if isinstance(operand, Filled):
        return Filled(operand.number)
    return operand.like(operand.meta().as_strided(shape, operand.strides, operand.offset))


def _continued(first: Operand, second: Operand, dim: int) -> View | None:
    """A single view of two adjacent views of a value; None if they are not adjacent."""
    if not (isinstance(first, View) and isinstance(second, View) and first.value is second.value):
        return None
    if first.strides != second.strides or second.offset != first.offset + first.shape[dim] * first.strides[dim]:
        return None
    shape = list(first.shape)
    shape[dim] += second.shape[dim]
    return first._replace(shape=tuple(shape))


def _operand(part: Value) -> Operand:
    read = part.operands[0]
    return read if isinstance(read, View) else Filled(read, part.shape)


_FOLDED: dict[str, Callable] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "neg": operator.neg,
    "copy": lambda x: x,
}
