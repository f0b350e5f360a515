"""From the graph of a step to values: views disappear, every operation becomes a loop, a product or a join."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from src.ops.generated.expressions import BINARY, BOOLEAN, UNARY
from src.ops.generated.recipe import LoweringError, Offsets
from src.ops.generated.trace import UNCHANGED, VIEWS, Trace
from src.ops.generated.values import Value, View, contiguous, extents, whole

aten = torch.ops.aten
Number = bool | int | float


class Filled:
    """A tensor of one number."""

    def __init__(self, number: Number, shape: tuple[int, ...] = ()):
        self.number, self.shape = float(number), tuple(shape)


Operand = View | Filled


def _meta(operand: Operand) -> Tensor:
    return operand.meta() if isinstance(operand, View) else torch.empty((), device="meta").expand(operand.shape)


def _like(operand: Operand, tensor: Tensor) -> Operand:
    return operand.like(tensor) if isinstance(operand, View) else Filled(operand.number, tuple(tensor.shape))


_RULES: dict[Any, Callable] = {}


def _rule(*operators: Any) -> Callable[[Callable], Callable]:
    def register(function: Callable) -> Callable:
        _RULES.update(dict.fromkeys(operators, function))
        return function

    return register


class Lowered:
    """The values of a traced step.

    `output`, `next_states`, `d_inputs`, `d_states` and `d_constants` (None where there is no gradient) are views or
    tensors of one number.
    """

    def __init__(self, trace: Trace):
        self._known: dict[Any, Value] = {}
        self._examples = trace.constants
        self.tables: dict[Offsets, Value] = {}
        num_in, num_states, num_constants = len(trace.inputs), len(trace.states), len(trace.constants)
        nodes = list(trace.joint.graph.nodes)
        placeholders = [node for node in nodes if node.op == "placeholder"]
        tensors = [*trace.inputs, *trace.states, *trace.constants]
        names = [f"p{i}" for i in range(num_in)] + [f"s{i}" for i in range(num_states)]
        names += [*trace.constant_names, "dy", *(f"ds{i}" for i in range(num_states))]
        kinds = ["input"] * num_in + ["state"] * num_states + ["constant"] * num_constants
        kinds += ["gradient"] * (1 + num_states)
        given: list[Value] = []
        for node, kind in zip(placeholders, kinds, strict=True):
            shape = tuple(tensors[len(given)].shape if len(given) < len(tensors) else node.meta["val"].shape)
            condition = len(given) < len(tensors) and tensors[len(given)].dtype == torch.bool
            loops = extents(shape)
            given.append(Value(kind, "", [], shape, loops, contiguous(loops), boolean=condition))
        self.inputs, self.states = given[:num_in], given[num_in : num_in + num_states]
        self.constants = given[num_in + num_states :][:num_constants]
        self.d_output, *self.d_next = given[num_in + num_states + num_constants :]

        results: dict[fx.Node, Any] = {n: whole(value) for n, value in zip(placeholders, given, strict=True)}
        for node in nodes:
            if node.op == "call_function":
                args, kwargs = fx.map_arg((node.args, node.kwargs), results.__getitem__)
                results[node] = self._lower(node.target, *args, **kwargs)
            elif node.op == "get_attr":
                results[node] = _of_attribute(getattr(trace.joint, str(node.target)))
        outputs = [results[node] for node in nodes[-1].args[0]]
        free = trace.differentiable
        self.output, outputs = outputs[0], outputs[1:]
        self.next_states, outputs = outputs[:num_states], outputs[num_states:]
        self.d_inputs, outputs = outputs[:num_in], outputs[num_in:]
        self.d_states, outputs = outputs[:num_states], outputs[num_states:]
        self.d_constants: list[Operand | None] = [None] * num_constants
        for i, gradient in zip(free, outputs, strict=False):
            self.d_constants[i] = gradient
        for view, name in zip(outputs[len(free) :], trace.names, strict=True):
            _name(view, name)
        for value, name in zip(given, names, strict=True):
            _name(whole(value), name)
        for node, result in results.items():
            _name(result, node.name)

    def _lower(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        if target is operator.getitem:
            return args[0][args[1]]
        packet, name = target.overloadpacket, target.overloadpacket.__name__
        if packet in VIEWS:
            return self._view(target, *args, **kwargs)
        if packet in UNCHANGED:
            return args[0]
        if name in ("add", "sub") and kwargs.get("alpha", 1) != 1:
            return self.map(name, args[0], self.map("mul", args[1], kwargs["alpha"]))
        if packet in _RULES:
            return _RULES[packet](self, *args, **kwargs)
        if name in UNARY:
            return self.map(name, args[0])
        if name in BINARY and name != "pow":
            return self.map(name, *args[:2])
        raise LoweringError(str(target))

    def _view(self, target: Any, x: Operand, *args: Any, **kwargs: Any) -> Any:
        try:
            seen = target(_meta(x), *args, **kwargs)
        except RuntimeError:  # a shape that these strides cannot have
            x = self._copy(self.view(x))
            seen = target(_meta(x), *args, **kwargs)
        return [_like(x, tensor) for tensor in seen] if isinstance(seen, (tuple, list)) else _like(x, seen)

    def _make(self, kind: str, operation: str, operands: list[Operand], shape: Any, **more: Any) -> Value:
        """A new value, or the same one as before."""
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
        numbers = [a.number if isinstance(a, Filled) else None for a in args]
        if operation in _FOLDED and None not in numbers:
            return Filled(_FOLDED[operation](*numbers), shape)
        if operation in ("mul", "add") and numbers[0] is not None:
            args, numbers = args[::-1], numbers[::-1]
        neutral = {"mul": 1, "div": 1, "add": 0, "sub": 0}.get(operation)
        if neutral is not None and numbers[1] == neutral and args[0].shape == shape:
            return args[0]
        if operation == "div" and numbers[1] is not None:
            operation, args[1] = "mul", Filled(1 / numbers[1])
        if operation == "div" and _repeats(args[1], shape):  # one division for many
            operation, args[1] = "mul", self.map("reciprocal", args[1])
        if operation == "add" and (joined := self._sum_of_joins(*args)):
            return joined
        if operation not in BOOLEAN and operation != "where":
            args = [self._number(a) for a in args]
        args = [_like(a, _meta(a).expand(shape)) for a in args]
        views = [a for a in args if isinstance(a, View)]
        repeated = [dim for dim, size in enumerate(shape) if size > 1 and all(v.strides[dim] == 0 for v in views)]
        if views and repeated:  # computed once, then repeated
            once = [1 if dim in repeated else size for dim, size in enumerate(shape)]
            result = self.map(operation, *(_shrunk(a, once) for a in args))
            return _like(result, _meta(result).expand(shape))
        return whole(self._make("map", operation, args, shape, boolean=operation in BOOLEAN))

    def _number(self, x: Operand) -> Operand:
        """A number in place of a condition."""
        is_condition = isinstance(x, View) and x.value.boolean
        return self.map("where", x, 1.0, 0.0) if is_condition else x

    def reduce(
        self, operation: str, x: Operand, dims: Any, keepdim: bool = False, times: View | None = None
    ) -> Operand:
        """A sum, maximum or minimum over dimensions, of x or of the product of x and `times`."""
        x, shape = self._number(x), x.shape
        summed = {dim % len(shape) for dim in (dims or range(len(shape)))} if shape else set()
        kept = [1 if dim in summed else size for dim, size in enumerate(shape)]
        final = kept if keepdim else [size for dim, size in enumerate(shape) if dim not in summed]
        count = int(torch.Size(shape).numel() / max(1, torch.Size(kept).numel()))
        if isinstance(x, Filled):
            return Filled(x.number * (count if operation == "sum" else 1), tuple(final))
        if count == 1 and times is None:
            return self._view(aten.reshape.default, x, final)
        order = [dim for dim, size in enumerate(shape) if size > 1]
        if times is not None:  # what lies apart in memory is the outer loop
            order.sort(key=lambda dim: -max(x.strides[dim], times.strides[dim]))
        own = contiguous(tuple(kept))
        strides = tuple(0 if dim in summed else own[dim] for dim in order)
        loops = tuple(shape[dim] for dim in order)
        operands: list[Operand] = [x] if times is None else [x, times]
        permuted = [
            _like(o, _meta(o).permute(*order, *(d for d in range(len(shape)) if d not in order))) for o in operands
        ]
        return whole(self._make("reduce", operation, permuted, final, loops=loops, strides=strides))

    def join(self, pieces: list[Operand], dim: int = 0) -> Operand:
        """The concatenation of pieces."""
        dim %= len(pieces[0].shape)
        pieces = [piece for piece in pieces if piece.shape[dim] > 0]
        if len(pieces) == 1:
            return pieces[0]
        shape = list(pieces[0].shape)
        shape[dim] = sum(piece.shape[dim] for piece in pieces)
        pieces = [self._number(piece) for piece in pieces]
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
                heads.append(_like(first, _meta(first).narrow(dim, 0, length)))
                if size > length:
                    queue.insert(0, _like(first, _meta(first).narrow(dim, length, size - length)))
            kept = [head for head in heads if not (isinstance(head, Filled) and head.number == 0)]
            if len(kept) == 2:
                return None
            pieces.append(kept[0] if kept else heads[0])
        return self.join(pieces, dim)

    def multiply(self, a: View, b: View) -> Operand:
        """[M, K] x [K, N]: a product with a matrix of constants, or of two values of the sequence."""
        constant = [view.value.kind == "constant" for view in (a, b)]
        if a.shape[1] > 1 and constant[1] and not constant[0]:
            if a.strides[1] != 1:
                a = self._copy(a)
            return whole(self._make("product", "", [a, b], (a.shape[0], b.shape[1])))
        if a.shape[1] > 1 and constant[0] and not constant[1]:
            product = self.multiply(b.like(b.meta().t()), a.like(a.meta().t()))
            return _like(product, _meta(product).t())
        product = self.batch_multiply(a.like(a.meta()[None]), b.like(b.meta()[None]), (a, b))
        return _like(product, _meta(product)[0])

    def batch_multiply(self, a: View, b: View, outer: tuple[View, View] | None = None) -> Operand:
        """[Z, M, K] x [Z, K, N]."""
        (z, m, k), n = a.shape, b.shape[2]
        if z == 1 and outer is None:
            product = self.multiply(a.like(a.meta()[0]), b.like(b.meta()[0]))
            return _like(product, _meta(product)[None])
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
        """A constant with the offsets that the indices select from a view."""
        at = []
        for index in indices:
            if index is not None and index.value not in self.constants:
                raise LoweringError("aten.index with indices that depend on the sequence")
            at.append(None if index is None else (self.constants.index(index.value), *index[1:]))
        table = Offsets(x.value.size, (x.offset, x.strides, x.shape), tuple(at))
        if table not in self.tables:
            shape, name = tuple(table.of(self._examples).shape), f"t{len(self.tables)}"
            self.tables[table] = Value("constant", "table", [], shape, extents(shape), contiguous(extents(shape)), name)
        return self.tables[table]

    def _copy(self, x: View) -> View:
        return whole(self._make("map", "copy", [x], x.shape, boolean=x.value.boolean))

    def view(self, x: Operand) -> View:
        """A view, of a new value if the operand is one number."""
        if isinstance(x, View):
            return x
        return whole(self._make("map", "copy", [Filled(x.number)], x.shape))


def _repeats(operand: Operand, shape: torch.Size) -> bool:
    """Whether a number of the operand stands for several in a shape."""
    repeated = isinstance(operand, View) and any(
        size > 1 and stride == 0 for size, stride in zip(operand.shape, operand.strides, strict=True)
    )
    return repeated or operand.shape != shape


def _shrunk(operand: Operand, shape: list[int]) -> Operand:
    """An operand without the repetitions along some dimensions."""
    if isinstance(operand, Filled):
        return Filled(operand.number)
    return operand.like(operand.meta().as_strided(shape, operand.strides, operand.offset))


def _name(result: Any, name: str) -> None:
    if isinstance(result, View) and result.in_order() and not result.value.name:
        result.value.name = name


def _operand(part: Value) -> Operand:
    read = part.operands[0]
    return read if isinstance(read, View) else Filled(read, part.shape)


def _of_attribute(tensor: Tensor) -> Filled:
    if tensor.numel() != 1:
        raise LoweringError("a tensor that the derivative makes of numbers")
    return Filled(tensor.item(), tuple(tensor.shape))


_FOLDED: dict[str, Callable] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "neg": operator.neg,
    "copy": lambda x: x,
}


@_rule(aten.mm)
def _mm(self: Lowered, a: Operand, b: Operand) -> Operand:
    return self.multiply(self.view(a), self.view(b))


@_rule(aten.bmm)
def _bmm(self: Lowered, a: Operand, b: Operand) -> Operand:
    return self.batch_multiply(self.view(a), self.view(b))


@_rule(aten.addmm)
def _addmm(self: Lowered, start: Operand, a: Operand, b: Operand) -> Operand:
    return self.map("add", _mm(self, a, b), start)


@_rule(aten.cat)
def _cat(self: Lowered, pieces: list[Operand], dim: int = 0) -> Operand:
    return self.join(list(pieces), dim)


@_rule(aten.stack)
def _stack(self: Lowered, pieces: list[Operand], dim: int = 0) -> Operand:
    return self.join([_like(piece, _meta(piece).unsqueeze(dim)) for piece in pieces], dim)


@_rule(aten.slice_scatter)
def _slice_scatter(
    self: Lowered,
    base: Operand,
    x: Operand,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Operand:
    if step != 1:
        raise LoweringError("aten.slice_scatter with a step")
    size = base.shape[dim]
    first, last, _ = slice(start, end).indices(size)
    before, after = _meta(base).narrow(dim, 0, first), _meta(base).narrow(dim, last, size - last)
    return self.join([_like(base, before), x, _like(base, after)], dim)


@_rule(aten.select_scatter)
def _select_scatter(self: Lowered, base: Operand, x: Operand, dim: int, index: int) -> Operand:
    index %= base.shape[dim]
    return _slice_scatter(self, base, _like(x, _meta(x).unsqueeze(dim)), dim, index, index + 1)


@_rule(aten.slice_backward)
def _slice_backward(self: Lowered, x: Operand, shape: tuple[int, ...], *where: int) -> Operand:
    return _slice_scatter(self, Filled(0, shape), x, *where)


@_rule(aten.select_backward)
def _select_backward(self: Lowered, x: Operand, shape: tuple[int, ...], dim: int, index: int) -> Operand:
    return _select_scatter(self, Filled(0, shape), x, dim, index)


@_rule(aten.where)
def _where(self: Lowered, condition: Operand, a: Operand, b: Operand) -> Operand:
    return self.map("where", condition, a, b)


@_rule(aten.clamp, aten.hardtanh)
def _clamp(self: Lowered, x: Operand, least: Number | None = None, greatest: Number | None = None) -> Operand:
    x = x if least is None else self.map("maximum", x, least)
    return x if greatest is None else self.map("minimum", x, greatest)


@_rule(aten.clamp_min)
def _clamp_min(self: Lowered, x: Operand, least: Number) -> Operand:
    return self.map("maximum", x, least)


@_rule(aten.clamp_max)
def _clamp_max(self: Lowered, x: Operand, greatest: Number) -> Operand:
    return self.map("minimum", x, greatest)


@_rule(aten.pow)
def _pow(self: Lowered, x: Operand, exponent: Any) -> Operand:
    if not isinstance(exponent, Number):
        raise LoweringError("aten.pow with a tensor as exponent")
    if exponent in (1, 2, 3):
        product = x
        for _ in range(int(exponent) - 1):
            product = self.map("mul", x, product)
        return product
    special = {0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}.get(exponent)
    return self.map(special, x) if special else self.map("pow", x, exponent)


@_rule(aten.sum)
def _sum(self: Lowered, x: Operand, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Operand:
    return self.reduce("sum", x, dims, keepdim)


@_rule(aten.mean)
def _mean(self: Lowered, x: Operand, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Operand:
    total = self.reduce("sum", x, dims, keepdim)
    count = torch.Size(x.shape).numel() / torch.Size(total.shape).numel()
    return self.map("mul", total, 1 / count)


@_rule(aten.amax)
def _amax(self: Lowered, x: Operand, dims: Any = None, keepdim: bool = False) -> Operand:
    return self.reduce("max", x, dims, keepdim)


@_rule(aten.amin)
def _amin(self: Lowered, x: Operand, dims: Any = None, keepdim: bool = False) -> Operand:
    return self.reduce("min", x, dims, keepdim)


@_rule(aten.native_layer_norm)
def _layer_norm(
    self: Lowered, x: Operand, shape: list[int], weight: Operand | None, bias: Operand | None, eps: float
) -> tuple[Operand, Operand, Operand]:
    dims = list(range(-len(shape), 0))
    mean = _mean(self, x, dims, True)
    centred = self.map("sub", x, mean)
    variance = _mean(self, self.map("mul", centred, centred), dims, True)
    scale = self.map("rsqrt", self.map("add", variance, eps))
    y = self.map("mul", centred, scale)
    y = y if weight is None else self.map("mul", y, weight)
    return (y if bias is None else self.map("add", y, bias)), mean, scale


@_rule(aten.index)
def _index(self: Lowered, x: Operand, indices: list[View | None]) -> Operand:
    x = self.view(x)
    table = self.table(x, indices)
    return whole(Value("map", "copy", [x], table.shape, extents(table.shape), table.strides, table=table))


@_rule(aten.index_put)
def _index_put(
    self: Lowered, base: Operand, indices: list[View | None], x: Operand, accumulate: bool = False
) -> Operand:
    if not (accumulate and isinstance(base, Filled) and base.number == 0):
        raise LoweringError("aten.index_put into something")
    shape = tuple(base.shape)
    value = Value("reduce", "sum", [], shape, (), ())
    table = self.table(whole(value), indices)
    x = self.view(_like(x, _meta(x).expand(table.shape)))
    value.operands, value.table = [x], table
    value.loops = value.strides = extents(table.shape)
    return whole(value)


@_rule(aten.flip)
def _flip(self: Lowered, x: Operand, dims: list[int]) -> Operand:
    for dim in dims if isinstance(x, View) else []:
        pieces = [_like(x, _meta(x).narrow(dim, i, 1)) for i in reversed(range(x.shape[dim]))]
        x = self.join(pieces, dim)
    return x


@_rule(aten._to_copy)
def _to_copy(self: Lowered, x: Operand, *, dtype: Any = None, **_: Any) -> Operand:
    return x if dtype == torch.bool else self._number(x)


@_rule(aten.copy)
def _copy_of(self: Lowered, base: Operand, x: Operand, non_blocking: bool = False) -> Operand:
    return _like(x, _meta(x).expand(base.shape))


@_rule(aten.full)
def _full(self: Lowered, shape: Any, number: Number, **_: Any) -> Filled:
    return Filled(number, shape)


@_rule(aten.full_like)
def _full_like(self: Lowered, x: Operand, number: Number, **_: Any) -> Filled:
    return Filled(number, x.shape)


@_rule(aten.zeros, aten.empty, aten.empty_permuted)
def _zeros(self: Lowered, shape: Any, *_: Any, **__: Any) -> Filled:
    return Filled(0, shape)


@_rule(aten.new_zeros)
def _new_zeros(self: Lowered, x: Operand, shape: Any, **_: Any) -> Filled:
    return Filled(0, shape)


@_rule(aten.zeros_like)
def _zeros_like(self: Lowered, x: Operand, **_: Any) -> Filled:
    return Filled(0, x.shape)


@_rule(aten.ones_like)
def _ones_like(self: Lowered, x: Operand, **_: Any) -> Filled:
    return Filled(1, x.shape)


@_rule(aten.scalar_tensor)
def _scalar_tensor(self: Lowered, number: Number, **_: Any) -> Filled:
    return Filled(number)
