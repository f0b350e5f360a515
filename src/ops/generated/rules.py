"""What each operation of a graph is made of."""

from collections.abc import Callable
from typing import Any

import torch

from src.ops.generated.builder import Builder, Filled, Number, Operand, like, meta_of, parts_of
from src.ops.generated.recipe import LoweringError
from src.ops.generated.values import Value, View, extents, whole

aten = torch.ops.aten
RULES: dict[Any, Callable] = {}


def _rule(*operators: Any) -> Callable[[Callable], Callable]:
    def register(function: Callable) -> Callable:
        RULES.update(dict.fromkeys(operators, function))
        return function

    return register


@_rule(aten.mm)
def _mm(self: Builder, a: Operand, b: Operand) -> Operand:
    return self.multiply(self.view(a), self.view(b))


@_rule(aten.bmm)
def _bmm(self: Builder, a: Operand, b: Operand) -> Operand:
    return self.batch_multiply(self.view(a), self.view(b))


@_rule(aten.addmm)
def _addmm(self: Builder, start: Operand, a: Operand, b: Operand) -> Operand:
    return self.map("add", _mm(self, a, b), start)


@_rule(aten.cat)
def _cat(self: Builder, pieces: list[Operand], dim: int = 0) -> Operand:
    return self.join(list(pieces), dim)


@_rule(aten.stack)
def _stack(self: Builder, pieces: list[Operand], dim: int = 0) -> Operand:
    return self.join([like(piece, meta_of(piece).unsqueeze(dim)) for piece in pieces], dim)


@_rule(aten.slice_scatter)
def _slice_scatter(
    self: Builder,
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
    before, after = meta_of(base).narrow(dim, 0, first), meta_of(base).narrow(dim, last, size - last)
    return self.join([like(base, before), x, like(base, after)], dim)


@_rule(aten.select_scatter)
def _select_scatter(self: Builder, base: Operand, x: Operand, dim: int, index: int) -> Operand:
    index %= base.shape[dim]
    return _slice_scatter(self, base, like(x, meta_of(x).unsqueeze(dim)), dim, index, index + 1)


@_rule(aten.slice_backward)
def _slice_backward(self: Builder, x: Operand, shape: tuple[int, ...], *where: int) -> Operand:
    return _slice_scatter(self, Filled(0, shape), x, *where)


@_rule(aten.select_backward)
def _select_backward(self: Builder, x: Operand, shape: tuple[int, ...], dim: int, index: int) -> Operand:
    return _select_scatter(self, Filled(0, shape), x, dim, index)


@_rule(aten.where)
def _where(self: Builder, condition: Operand, a: Operand, b: Operand) -> Operand:
    return self.map("where", condition, a, b)


@_rule(aten.clamp, aten.hardtanh)
def _clamp(self: Builder, x: Operand, least: Number | None = None, greatest: Number | None = None) -> Operand:
    x = x if least is None else self.map("maximum", x, least)
    return x if greatest is None else self.map("minimum", x, greatest)


@_rule(aten.clamp_min)
def _clamp_min(self: Builder, x: Operand, least: Number) -> Operand:
    return self.map("maximum", x, least)


@_rule(aten.clamp_max)
def _clamp_max(self: Builder, x: Operand, greatest: Number) -> Operand:
    return self.map("minimum", x, greatest)


@_rule(aten.pow)
def _pow(self: Builder, x: Operand, exponent: Any) -> Operand:
    if not isinstance(exponent, Number):
        raise LoweringError("aten.pow with a tensor as exponent")
    if exponent in (1, 2, 3):
        product = x
        for _ in range(int(exponent) - 1):
            product = self.map("mul", x, product)
        return product
    special = {0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}.get(exponent)
    return self.map(special, x) if special else self.map("pow", x, exponent)


@_rule(aten.remainder)
def _remainder(self: Builder, x: Operand, divisor: Operand | Number) -> Operand:
    return self.map("remainder", x, divisor)


@_rule(aten.div)
def _div(self: Builder, x: Operand, divisor: Operand | Number, *, rounding_mode: str | None = None) -> Operand:
    if rounding_mode == "floor":
        x = self.map("sub", x, self.map("remainder", x, divisor))
    quotient = self.map("div", x, divisor)
    return self.map("trunc", quotient) if rounding_mode == "trunc" else quotient


@_rule(aten.logaddexp)
def _log_add_exp(self: Builder, a: Operand, b: Operand) -> Operand:
    distance = self.map("abs", self.map("sub", a, b))
    return self.map("add", self.map("maximum", a, b), self.map("log1p", self.map("exp", self.map("neg", distance))))


@_rule(aten.sum)
def _sum(self: Builder, x: Operand, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Operand:
    return self.reduce("sum", x, dims, keepdim)


@_rule(aten.mean)
def _mean(self: Builder, x: Operand, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Operand:
    total = self.reduce("sum", x, dims, keepdim)
    count = torch.Size(x.shape).numel() / torch.Size(total.shape).numel()
    return self.map("mul", total, 1 / count)


@_rule(aten.amax)
def _amax(self: Builder, x: Operand, dims: Any = None, keepdim: bool = False) -> Operand:
    return self.reduce("max", x, dims, keepdim)


@_rule(aten.amin)
def _amin(self: Builder, x: Operand, dims: Any = None, keepdim: bool = False) -> Operand:
    return self.reduce("min", x, dims, keepdim)


@_rule(aten.native_layer_norm)
def _layer_norm(
    self: Builder, x: Operand, shape: list[int], weight: Operand | None, bias: Operand | None, eps: float
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
def _index(self: Builder, x: Operand, indices: list[View | None]) -> Operand:
    x = self.view(x)
    table = self.table(x, indices)
    return whole(Value("map", "copy", [x], table.shape, extents(table.shape), table.strides, table=table))


@_rule(aten.index_put)
def _index_put(
    self: Builder, base: Operand, indices: list[View | None], x: Operand, accumulate: bool = False
) -> Operand:
    if not (accumulate and isinstance(base, Filled) and base.number == 0):
        raise LoweringError("aten.index_put into something")
    shape = tuple(base.shape)
    value = Value("reduce", "sum", [], shape, (), ())
    table = self.table(whole(value), indices)
    x = self.view(like(x, meta_of(x).expand(table.shape)))
    along, pieces = parts_of(x)
    if pieces and along < next(dim for dim, index in enumerate(indices) if index is not None):
        bases = [Filled(0, (*shape[:along], piece.shape[along], *shape[along + 1 :])) for piece in pieces]
        return self.join([_index_put(self, b, indices, p, True) for b, p in zip(bases, pieces, strict=True)], along)
    value.operands, value.table = [x], table
    value.loops = value.strides = extents(table.shape)
    return whole(value)


@_rule(aten.repeat)
def _repeat(self: Builder, x: Operand, times: list[int]) -> Operand:
    shape = [1] * (len(times) - len(x.shape)) + list(x.shape)
    seen = meta_of(x).reshape([size for extent in shape for size in (1, extent)])
    spread = like(x, seen.expand([size for pair in zip(times, shape, strict=True) for size in pair]))
    final = [time * size for time, size in zip(times, shape, strict=True)]
    return self.view_as(aten.view.default, self.copy(self.view(spread)), final)


@_rule(aten.flip)
def _flip(self: Builder, x: Operand, dims: list[int]) -> Operand:
    for dim in dims if isinstance(x, View) else []:
        pieces = [like(x, meta_of(x).narrow(dim, i, 1)) for i in reversed(range(x.shape[dim]))]
        x = self.join(pieces, dim)
    return x


@_rule(aten._to_copy)
def _to_copy(self: Builder, x: Operand, *, dtype: Any = None, **_: Any) -> Operand:
    if dtype == torch.bool:
        return x if isinstance(x, View) and x.value.boolean else self.map("ne", x, 0)
    number = self.number(x)
    return number if dtype is None or dtype.is_floating_point else self.map("trunc", number)


@_rule(aten.copy)
def _copy_of(self: Builder, base: Operand, x: Operand, non_blocking: bool = False) -> Operand:
    return like(x, meta_of(x).expand(base.shape))


@_rule(aten.full)
def _full(self: Builder, shape: Any, number: Number, **_: Any) -> Filled:
    return Filled(number, shape)


@_rule(aten.full_like)
def _full_like(self: Builder, x: Operand, number: Number, **_: Any) -> Filled:
    return Filled(number, x.shape)


@_rule(aten.zeros, aten.empty, aten.empty_permuted)
def _zeros(self: Builder, shape: Any, *_: Any, **__: Any) -> Filled:
    return Filled(0, shape)


@_rule(aten.new_zeros)
def _new_zeros(self: Builder, x: Operand, shape: Any, **_: Any) -> Filled:
    return Filled(0, shape)


@_rule(aten.zeros_like)
def _zeros_like(self: Builder, x: Operand, **_: Any) -> Filled:
    return Filled(0, x.shape)


@_rule(aten.ones_like)
def _ones_like(self: Builder, x: Operand, **_: Any) -> Filled:
    return Filled(1, x.shape)


@_rule(aten.scalar_tensor)
def _scalar_tensor(self: Builder, number: Number, **_: Any) -> Filled:
    return Filled(number)
