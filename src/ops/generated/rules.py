"""Rules that lower each operation of a graph to values."""

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


@_rule(aten.clamp, aten.hardtanh)
def _clamp(self: Builder, x: Operand, least: Number | None = None, greatest: Number | None = None) -> Operand:
    x = x if least is None else self.map("maximum", x, least)
    return x if greatest is None else self.map("minimum", x, greatest)


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


@_rule(aten.div)
def _div(self: Builder, x: Operand, divisor: Operand | Number, *, rounding_mode: str | None = None) -> Operand:
    if rounding_mode is None:
        return self.map("div", x, divisor)
    whole = self.map("sub", x, self.map("remainder", x, divisor))
    down = self.map("round", self.map("div", whole, divisor))
    if rounding_mode == "floor":
        return down
    inexact = self.map("ne", whole, x)
    return self.map("add", down, self.map("where", self.map("logical_and", inexact, self.map("lt", down, 0)), 1, 0))


@_rule(aten.logaddexp)
def _log_add_exp(self: Builder, a: Operand, b: Operand) -> Operand:
    distance = self.map("abs", self.map("sub", a, b))
    return self.map("add", self.map("maximum", a, b), self.map("log1p", self.map("exp", self.map("neg", distance))))


@_rule(aten.mean)
def _mean(self: Builder, x: Operand, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Operand:
    total = self.reduce("sum", x, dims, keepdim)
    count = torch.Size(x.shape).numel() / torch.Size(total.shape).numel()
    return self.map("div", total, count)


@_rule(aten.native_layer_norm)
def _layer_norm(
    self: Builder, x: Operand, shape: list[int], weight: Operand | None, bias: Operand | None, eps: float
) -> tuple[Operand, Operand, Operand]:
    dims = list(range(-len(shape), 0))
    mean = _mean(self, x, dims, True)
    centered = self.map("sub", x, mean)
    variance = _mean(self, self.map("mul", centered, centered), dims, True)
    scale = self.map("rsqrt", self.map("add", variance, eps))
    y = self.map("mul", centered, scale)
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
        raise LoweringError("aten.index_put, except as the gradient of an indexed tensor")
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
        return self.condition(x)
    number = self.number(x)
    return number if dtype is None or dtype.is_floating_point else self.map("trunc", number)


def _product(self: Builder, a: Operand, b: Operand) -> Operand:
    return self.multiply(self.view(a), self.view(b))


@_rule(aten.addmm)
def _add_product(
    self: Builder, start: Operand, a: Operand, b: Operand, *, beta: Number = 1, alpha: Number = 1
) -> Operand:
    return self.map("add", self.map("mul", _product(self, a, b), alpha), self.map("mul", start, beta))


def _reduction(operation: str) -> Callable:
    def rule(self: Builder, x: Operand, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Operand:
        return self.reduce(operation, x, dims, keepdim)

    return rule


RULES |= {
    aten.mm: _product,
    aten.bmm: lambda self, a, b: self.batch_multiply(self.view(a), self.view(b)),
    aten.cat: lambda self, pieces, dim=0: self.join(list(pieces), dim),
    aten.stack: lambda self, pieces, dim=0: self.join([like(x, meta_of(x).unsqueeze(dim)) for x in pieces], dim),
    aten.slice_backward: lambda self, x, shape, *where: _slice_scatter(self, Filled(0, shape), x, *where),
    aten.select_backward: lambda self, x, shape, *where: _select_scatter(self, Filled(0, shape), x, *where),
    aten.where: lambda self, condition, a, b: self.map("where", condition, a, b),
    aten.clamp_min: lambda self, x, least: self.map("maximum", x, least),
    aten.clamp_max: lambda self, x, greatest: self.map("minimum", x, greatest),
    aten.sum: _reduction("sum"),
    aten.amax: _reduction("max"),
    aten.amin: _reduction("min"),
    aten.copy: lambda self, base, x, non_blocking=False: like(x, meta_of(x).expand(base.shape)),
    aten.full: lambda self, shape, number, **_: Filled(number, shape),
    aten.full_like: lambda self, x, number, **_: Filled(number, x.shape),
    aten.new_zeros: lambda self, x, shape, **_: Filled(0, shape),
    aten.zeros_like: lambda self, x, **_: Filled(0, x.shape),
    aten.ones_like: lambda self, x, **_: Filled(1, x.shape),
    aten.scalar_tensor: lambda self, number, **_: Filled(number),
    **dict.fromkeys((aten.zeros, aten.empty, aten.empty_permuted), lambda self, shape, *_, **__: Filled(0, shape)),
}
