"""Operations that are decomposed while a step is traced, into parts with simpler derivatives or with lowering rules."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from src.ops.generated.recipe import LoweringError

aten = torch.ops.aten

MOST_OF_TOPK = 16
"""Maximum number of entries that `topk` may select; each is a maximum over what is left."""


def _roll(x: Tensor, shifts: list[int], dims: list[int]) -> Tensor:
    for shift, dim in zip(shifts, dims, strict=True):
        cut = -shift % x.shape[dim]
        x = torch.cat([x.narrow(dim, cut, x.shape[dim] - cut), x.narrow(dim, 0, cut)], dim)
    return x


def _scaled(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else x * factor


def _root(x: Tensor) -> Tensor:
    """The square root, with a derivative of 0 at 0, as for norms and standard deviations."""
    zero = x == 0
    return torch.where(zero, 0, torch.where(zero, 1, x).sqrt())


def _norm(x: Tensor, ord: float = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    if ord != 2:
        raise LoweringError(f"linalg_vector_norm of order {ord}; only order 2 is supported")
    return _root((x * x).sum(dim, keepdim))


def _variance(
    x: Tensor, dim: list[int] | None = None, *, correction: float | None = 1, keepdim: bool = False
) -> Tensor:
    dims = dim or list(range(x.ndim))
    centered = x - x.mean(dims, keepdim=True)
    count = math.prod(x.shape[d] for d in dims)
    return (centered * centered).sum(dims, keepdim=keepdim) / (count - (1 if correction is None else correction))


def _cumulative_sum(x: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Sums of 2, 4, 8, ... neighbors, each the sum of half as many plus the same further back."""
    x, reach, size = x if dtype is None else x.to(dtype), 1, x.shape[dim] if x.ndim else 1
    while reach < size:
        before = x.narrow(dim, 0, size - reach)
        x = x + torch.cat([torch.zeros_like(x.narrow(dim, 0, reach)), before], dim)
        reach *= 2
    return x


def _is_at(index: Tensor, size: int) -> Tensor:
    """Whether each index is 0, 1, ..., size - 1, along a new last dimension."""
    return index.unsqueeze(-1) == torch.arange(size, device=index.device)


def _known(index: Tensor, size: int, found: Tensor) -> Tensor:
    """What was found at an index; nan for an index out of range, since a kernel cannot raise an error."""
    return torch.where((index >= 0) & (index < size), found, math.nan).to(found.dtype)


def _gather(x: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    if x.ndim == 0:
        return x.expand(index.shape)
    return _known(index, x.shape[dim], _selected(x, dim, index))


def _selected(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """Compare every index with all positions, since sequences side by side in a vector read different positions."""
    shorter = [slice(None if d == dim % x.ndim else size) for d, size in enumerate(index.shape)]
    x, index = x[tuple(shorter)].movedim(dim, -1), index.movedim(dim, -1)
    found = torch.where(_is_at(index, x.shape[-1]), x.unsqueeze(-2), 0)
    return found.sum(-1).movedim(-1, dim)


def _embedding(weight: Tensor, index: Tensor, *_: Any, **__: Any) -> Tensor:
    found = _is_at(index, len(weight)).to(weight.dtype) @ weight
    return _known(index.unsqueeze(-1), len(weight), found)


def _floor_divide(a: Tensor, b: Any) -> Tensor:
    """The dividend is made a multiple of the divisor; for fractions only nearly, so the quotient is rounded."""
    quotient = ((a - torch.remainder(a, b)) / b).round()
    return quotient.to(torch.result_type(a, b))


def _first_of(x: Tensor, best: Callable, dim: int | None, keepdim: bool, taken: Tensor | None = None) -> Tensor:
    """The position of the first number that is the best one and not taken; nan counts as better than any number."""
    if dim is None or x.ndim == 0:
        position = _first_of(x.flatten(), best, 0, False)
        return position.view([1] * x.ndim) if keepdim else position
    x = x.movedim(dim, -1)
    if x.is_floating_point():
        x = torch.where(x != x, math.inf if best is torch.amax else -math.inf, x)
    positions = torch.arange(x.shape[-1], device=x.device)
    is_best = x == best(x, -1, True)
    is_best = is_best if taken is None else is_best & ~taken
    first = torch.where(is_best, positions, x.shape[-1]).amin(-1, keepdim=True).movedim(-1, dim)
    return first if keepdim else first.squeeze(dim)


def _argmax(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    return _first_of(x, torch.amax, dim, keepdim)


def _argmin(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    return _first_of(x, torch.amin, dim, keepdim)


def _extreme(best: Callable) -> Callable:
    """`max` or `min` along a dimension, with positions."""

    def decomposition(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
        position = _first_of(x, best, dim, True)
        value = _selected(x, dim, position) if x.ndim else x
        return (value, position) if keepdim or x.ndim == 0 else (value.squeeze(dim), position.squeeze(dim))

    return decomposition


def _topk(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Tensor, Tensor]:
    """The best one, then the best one of what is left, and so on."""
    if k > MOST_OF_TOPK:
        raise LoweringError(f"aten.topk of {k}; at most {MOST_OF_TOPK} is supported")
    best, worst = (torch.amax, -math.inf) if largest else (torch.amin, math.inf)
    last, found = x.movedim(dim, -1), []
    left, taken = last.detach(), None
    for _ in range(k):
        found.append(_first_of(left, best, -1, True, taken))
        now = _is_at(found[-1], last.shape[-1]).squeeze(-2)
        taken = now if taken is None else taken | now
        left = torch.where(now, worst, left)
    index = torch.cat(found, -1)
    return _selected(last, -1, index).movedim(-1, dim), index.movedim(-1, dim)


class OneHot(TorchFunctionMode):
    """`one_hot` without looking at the values of its argument, which would stop torch from tracing."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is functional.one_hot:
            return self._one_hot(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    @staticmethod
    def _one_hot(index: Tensor, num_classes: int = -1) -> Tensor:
        if num_classes < 0:
            raise LoweringError("one_hot without num_classes")
        return _known(index.unsqueeze(-1), num_classes, _is_at(index, num_classes).long())


BEFORE_DERIVATIVES: dict[Any, Callable] = {
    aten.lerp.Tensor: lambda a, b, weight: a + weight * (b - a),
    aten.lerp.Scalar: lambda a, b, weight: a + weight * (b - a),
    aten.addcmul.default: lambda a, b, c, value=1: a + _scaled(b * c, value),
    aten.baddbmm.default: lambda a, b, c, beta=1, alpha=1: _scaled(a, beta) + _scaled(torch.bmm(b, c), alpha),
    aten.linalg_vector_norm.default: _norm,
    aten.roll.default: _roll,
    aten.var.correction: _variance,
    aten.std.correction: lambda *args, **kwargs: _root(_variance(*args, **kwargs)),
    aten.copy.default: lambda a, b, non_blocking=False: b.expand(a.shape) * 1,
    aten.cumsum.default: _cumulative_sum,
    aten.gather.default: _gather,
    aten.embedding.default: _embedding,
    aten.argmax.default: _argmax,
    aten.argmin.default: _argmin,
    aten.max.dim: _extreme(torch.amax),
    aten.min.dim: _extreme(torch.amin),
    aten.topk.default: _topk,
    aten.floor_divide.default: _floor_divide,
}
"""Operations that are decomposed before they are differentiated, since their parts have simpler derivatives."""

_TAKEN_APART = [
    aten._softmax, aten._softmax_backward_data, aten._log_softmax, aten._log_softmax_backward_data, aten.logsumexp,
    aten.gelu, aten.gelu_backward, aten.elu, aten.elu_backward, aten.leaky_relu, aten.leaky_relu_backward, aten.silu,
    aten.silu_backward, aten.softplus, aten.softplus_backward, aten.hardtanh, aten.hardtanh_backward, aten.mish,
    aten.hardsigmoid, aten.hardswish, aten.log_sigmoid_forward, aten.log_sigmoid_backward, aten.glu, aten.glu_backward,
]  # fmt: skip
_KEPT = [aten.select_scatter, aten.slice_scatter, aten.select_backward, aten.slice_backward]  # lowered by rules


@cache
def all_decompositions() -> dict:
    """The decompositions for a graph that includes its derivative."""
    table = {**core_aten_decompositions(), **get_decompositions(_TAKEN_APART)}
    table |= dict.fromkeys((aten.rsub.Tensor, aten.rsub.Scalar), lambda a, b, alpha=1: torch.sub(b, a, alpha=alpha))
    return {operator: rule for operator, rule in table.items() if operator.overloadpacket not in _KEPT}
