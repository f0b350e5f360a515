"""The kernels as differentiable operations on tensors.

Inputs are projected vectors [B, T, P], or a table of rows [V, P] with tokens [B, T]: then no vector per position is
ever made. The equations and the derivations of the backward passes stand in `csrc/`, one header per cell. Only the CPU
is served, in float32 and float64; use `available` to ask. Results do not depend on the number of threads.

Shapes: B sequences, T time steps, V symbols, P projected features, H hidden units.
"""

import ctypes
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from src.ops.build import library
from src.ops.inputs import Inputs

NONLINEARITIES = {"relu": 0, "tanh": 1, "linear": 2}
_SUFFIXES = {torch.float32: "f32", torch.float64: "f64"}
_TYPES = {"l": ctypes.c_int64, "i": ctypes.c_int, "b": ctypes.c_bool, "d": ctypes.c_double, "p": ctypes.c_void_p}
_RESULTS = {"kept": ctypes.c_int64, "forward": ctypes.c_bool, "backward": None}


class _Signature(NamedTuple):
    """Of a cell's functions in C."""

    settings: str
    """Types of what is neither differentiated nor common to all cells."""
    kept: str
    """Types of what the room for the backward pass depends on, beside B and T."""
    tensors: int
    """Weights and initial states."""
    last: int = 0
    """States, beside the outputs, that are wanted of the last step alone."""

    def of(self, function: str) -> str:
        """Types of all arguments of `kept`, `forward` or `backward`."""
        if function == "kept":
            return "ll" + self.kept
        common = "lli" + self.settings + "p" * self.tensors
        if function == "forward":  # rows, tokens, V, last only; outputs, last states, kept
            return common + "pplb" + "p" * (1 + self.last + 1)
        return common + "pb" + "p" * (1 + self.last) + "pl" + "p" * (1 + self.tensors)


_SIGNATURES = {
    "rnn": _Signature("li", "lb", tensors=4),
    "fastweights": _Signature("lilbdd", "llbb", tensors=7),
    "lstm": _Signature("l", "l", tensors=3, last=1),
    "gru": _Signature("lb", "lb", tensors=3),
    "alstm": _Signature("llllp", "lll", tensors=3, last=1),
}


def _left_alone_by_compilers(function: Callable) -> Callable:
    """`torch.compiler.disable`, which imports torch's compiler, a second, put off until that is at work."""

    @wraps(function)
    def call(*arguments: Any, **settings: Any) -> Any:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*arguments, **settings)
        return function(*arguments, **settings)

    return call


@_left_alone_by_compilers
def _compiled() -> bool:
    """Whether there are kernels; to torch.compile a constant, since it can neither trace a library nor a cache."""
    return library() is not None


def available(tensor: Tensor) -> bool:
    """Whether the kernels can work on this tensor here; compiles them if need be."""
    return tensor.is_cpu and tensor.dtype in _SUFFIXES and _compiled()


@cache
def _function(cell: str, function: str, dtype: torch.dtype) -> Any:
    """A compiled function for this type of number."""
    kernels = library()
    assert kernels is not None
    compiled = getattr(kernels, f"{cell}_{function}_{_SUFFIXES[dtype]}")
    compiled.argtypes = [_TYPES[kind] for kind in _SIGNATURES[cell].of(function)]
    compiled.restype = _RESULTS[function]
    return compiled


def _call(cell: str, function: str, dtype: torch.dtype, *arguments: Any) -> int:
    """Call a kernel; tensors are passed by address."""
    addresses = [item.data_ptr() if isinstance(item, Tensor) else item for item in arguments]
    return _function(cell, function, dtype)(*addresses)


@cache
def _size(cell: str, dtype: torch.dtype, *sizes: int) -> int:
    """Numbers that a cell keeps for the backward pass."""
    return _call(cell, "kept", dtype, *sizes)


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


class _Cell(NamedTuple):
    """What is the same for all sequences that a cell runs over."""

    name: str
    kept: tuple
    """What the size of the room for the backward pass depends on, beside B and T."""
    projected: int
    """Features of an input."""
    features: int
    """Of an output."""
    states: tuple[tuple[int, ...], ...]
    """Of one sequence: shapes of the initial states."""
    last: tuple[tuple[int, ...], ...] = ()
    """Of one sequence: shapes of the states, beside the outputs, that are wanted of the last step alone."""


class _Recurrence(Function):
    """One kernel over whole sequences. Of weights and initial states, None stands for one that is absent.

    `sizes` are B, T, the number of threads and the cell's settings.
    """

    @staticmethod
    def forward(ctx, cell, sizes, keep, last_only, rows, tokens, *weights_and_states):
        rows, tokens, *tensors = _contiguous(rows, tokens, *weights_and_states)
        batch, time, *_ = sizes
        kept = rows.new_empty(_size(cell.name, rows.dtype, batch, time, *cell.kept)) if keep else None
        outputs = rows.new_empty((batch, cell.features) if last_only else (batch, time, cell.features))
        last = [rows.new_empty(batch, *shape) for shape in cell.last]
        if not _call(
            cell.name, "forward", rows.dtype, *sizes, *tensors, rows, tokens, rows.shape[0], last_only, outputs, *last,
            kept,
        ):  # fmt: skip
            least, greatest = tokens.aminmax()
            raise IndexError(f"tokens from {least} to {greatest} in a table of {len(rows)}")
        ctx.call = cell, sizes, last_only, outputs.shape
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(rows, tokens, kept, *tensors)
        return outputs, *last

    @staticmethod
    def backward(ctx, *d_results):
        # a second derivative can only be asked for where this pass is recorded; the guard against it takes its time
        return (once_differentiable(_backward) if torch.is_grad_enabled() else _backward)(ctx, *d_results)


def _backward(ctx, d_outputs, *d_last_states):
    """The gradients of what `_Recurrence.forward` took, in the same order."""
    cell, sizes, last_only, shape = ctx.call
    rows, tokens, kept, *tensors = ctx.saved_tensors
    if d_outputs is None:
        d_outputs = rows.new_zeros(shape)
    d_outputs, *d_last = _contiguous(d_outputs, *d_last_states)
    d_rows, *d_tensors = [None if tensor is None else torch.empty_like(tensor) for tensor in (rows, *tensors)]
    _call(
        cell.name, "backward", rows.dtype, *sizes, *tensors, kept, last_only, d_outputs, *d_last, tokens,
        rows.shape[0], d_rows, *d_tensors,
    )  # fmt: skip
    return None, None, None, None, d_rows, None, *d_tensors


@_left_alone_by_compilers
def _run(
    make_cell: Callable[..., _Cell],
    kept: tuple,
    settings: tuple,
    inputs: Inputs,
    last_only: bool,
    weights: tuple[Tensor, *tuple[Tensor | None, ...]],
    states: tuple[Tensor | None, ...],
) -> tuple[Tensor, ...]:
    """The outputs [B, T, features], or the last one [B, features], and what `last` of the cell asks for.

    A cell is made of what decides on its room for the backward pass, beside B and T.
    """
    cell = make_cell(*kept)
    rows, tokens = inputs
    batch, time = inputs.batch_and_time
    dtype = weights[0].dtype
    _check("inputs", rows, (*rows.shape[:-1], cell.projected), dtype)
    for state, shape in zip(states, cell.states, strict=True):
        if state is not None:
            _check("state", state, (batch, *shape), dtype)
    # inside of `forward` nothing tells whether there will be a backward pass
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (rows, *weights, *states))
    tokens = None if tokens is None else tokens.long()
    sizes = (batch, time, torch.get_num_threads(), *settings)
    return _Recurrence.apply(cell, sizes, keep, last_only, rows, tokens, *weights, *states)


def _check(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """An error in place of a read beyond the end of a tensor."""
    if tensor.shape != shape or tensor.dtype != dtype:
        raise ValueError(f"{name} of shape {list(tensor.shape)} in {tensor.dtype}: expected {list(shape)} in {dtype}")


@cache
def _rnn(units: int, normalized: bool) -> _Cell:
    return _Cell("rnn", (units, normalized), projected=units, features=units, states=((units,),))


def rnn(
    inputs: Inputs, initial_BH: Tensor | None, weight_HH: Tensor, gain_H: Tensor | None, bias_H: Tensor | None,
    nonlinearity: str, last_only: bool = False,
) -> Tensor:  # fmt: skip
    """h_t = f(LN(W h_{t-1} + p_t)), without LN if `gain_H` is None: all h_t [B, T, H], or the last one [B, H]."""
    units = weight_HH.shape[0]
    settings = (units, NONLINEARITIES[nonlinearity])
    weights = (weight_HH, gain_H, bias_H)
    return _run(_rnn, (units, gain_H is not None), settings, inputs, last_only, weights, (initial_BH,))[0]


@cache
def _fastweights(units: int, num_inner_steps: int, normalized: bool, preliminary_normalized: bool) -> _Cell:
    kept = (units, num_inner_steps, normalized, preliminary_normalized)
    return _Cell("fastweights", kept, projected=units, features=units, states=((units,), (units, units)))


def fastweights(
    inputs: Inputs,
    initial_BH: Tensor | None,
    fast_BHH: Tensor | None,
    weight_HH: Tensor,
    norm: tuple[Tensor | None, Tensor | None],
    preliminary_norm: tuple[Tensor | None, Tensor | None],
    *,
    nonlinearity: str,
    num_inner_steps: int,
    sustained: bool,
    decay: float,
    fast_lr: float,
    last_only: bool = False,
) -> Tensor:
    """All h(t) [B, T, H] of fast weights in the attention form, or the last one [B, H], from h(0) and A(0).

    The norms are (gain, bias), or (None, None) for none.
    """
    units = weight_HH.shape[0]
    kept = (units, num_inner_steps, norm[0] is not None, preliminary_norm[0] is not None)
    settings = (units, NONLINEARITIES[nonlinearity], num_inner_steps, sustained, decay, fast_lr)
    weights = (weight_HH, *norm, *preliminary_norm)
    return _run(_fastweights, kept, settings, inputs, last_only, weights, (initial_BH, fast_BHH))[0]


@cache
def _lstm(units: int) -> _Cell:
    state = (units,)
    return _Cell("lstm", (units,), projected=4 * units, features=units, states=(state, state), last=(state,))


def lstm(
    inputs: Inputs, hidden_BH: Tensor | None, cell_BH: Tensor | None, weight_4HH: Tensor, last_only: bool = False
) -> tuple[Tensor, Tensor]:
    """All h_t [B, T, H], or the last one [B, H], and the last cell [B, H]; gates in the order i, f, o, g."""
    units = weight_4HH.shape[1]
    states = (hidden_BH, cell_BH)
    outputs_BTH, last_BH = _run(_lstm, (units,), (units,), inputs, last_only, (weight_4HH,), states)
    return outputs_BTH, last_BH


@cache
def _gru(units: int, reset_before: bool) -> _Cell:
    return _Cell("gru", (units, reset_before), projected=3 * units, features=units, states=((units,),))


def gru(
    inputs: Inputs,
    initial_BH: Tensor | None,
    gates_2HH: Tensor,
    candidate_HH: Tensor,
    reset_before: bool,
    last_only: bool = False,
) -> Tensor:
    """All h_t [B, T, H] of a GRU, or the last one [B, H]; gates in the order r, u."""
    settings = (candidate_HH.shape[0], reset_before)
    return _run(_gru, settings, settings, inputs, last_only, (gates_2HH, candidate_HH), (initial_BH,))[0]


@cache
def _alstm(entries: int, copies: int, heads: int) -> _Cell:
    size, memory = 2 * entries * heads, (copies, 2 * entries)
    projected = 3 * entries + 3 * size
    return _Cell("alstm", (entries, copies, heads), projected, size, states=((size,), memory), last=(memory,))


def alstm(
    inputs: Inputs,
    hidden_BD: Tensor | None,
    cell_BSH: Tensor | None,
    weight_RD: Tensor,
    permutations_SN: Tensor,
    last_only: bool = False,
) -> tuple[Tensor, Tensor]:
    """All h_t [B, T, D] of an associative LSTM, or the last one [B, D], and the last copies of its memory.

    D is H for every head, and N = H/2. The sums are in the order f, i, o, all r, all q, all u; W reaches the first R.
    """
    reached, size = weight_RD.shape
    copies, entries = permutations_SN.shape
    sizes = (entries, copies, size // (2 * entries))
    settings = (*sizes, reached, permutations_SN.contiguous())
    states = (hidden_BD, cell_BSH)
    outputs_BTD, last_BSH = _run(_alstm, sizes, settings, inputs, last_only, (weight_RD,), states)
    return outputs_BTD, last_BSH
