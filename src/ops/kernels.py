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

_RESULTS = {"kept": ctypes.c_int64, "forward": ctypes.c_bool, "backward": None}
NONLINEARITIES = {"relu": 0, "tanh": 1, "linear": 2}
_SUFFIXES = {torch.float32: "f32", torch.float64: "f64"}
_ARGUMENTS = {
    "l": ctypes.c_int64,
    "i": ctypes.c_int,
    "b": ctypes.c_bool,
    "d": ctypes.c_double,
    "p": ctypes.c_void_p,
}
_SIGNATURES = {
    "rnn_kept": "lllb",
    "rnn_forward": "lllii" + "p" * 6 + "lb" + "p" * 2,
    "rnn_backward": "lllii" + "p" * 5 + "bppl" + "p" * 5,
    "fastweights_kept": "llllbb",
    "fastweights_forward": "llliilbdd" + "p" * 9 + "lb" + "p" * 2,
    "fastweights_backward": "llliilbdd" + "p" * 8 + "bppl" + "p" * 8,
    "lstm_kept": "lll",
    "lstm_forward": "llli" + "p" * 5 + "lb" + "p" * 3,
    "lstm_backward": "llli" + "p" * 4 + "bpppl" + "p" * 4,
    "gru_kept": "lllb",
    "gru_forward": "lllib" + "p" * 5 + "lb" + "p" * 2,
    "gru_backward": "lllib" + "p" * 4 + "bppl" + "p" * 4,
    "alstm_kept": "lllll",
    "alstm_forward": "llllllip" + "p" * 5 + "lb" + "p" * 3,
    "alstm_backward": "llllllip" + "p" * 4 + "bpppl" + "p" * 4,
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
def _function(name: str, dtype: torch.dtype) -> Any:
    """A compiled function for this type of number."""
    kernels = library()
    assert kernels is not None
    function = getattr(kernels, f"{name}_{_SUFFIXES[dtype]}")
    function.argtypes = [_ARGUMENTS[kind] for kind in _SIGNATURES[name]]
    function.restype = _RESULTS[name.rsplit("_", 1)[1]]
    return function


def _call(name: str, dtype: torch.dtype, *arguments: Any) -> int:
    """Call a kernel; tensors are passed by address."""
    return _function(name, dtype)(*[item.data_ptr() if isinstance(item, Tensor) else item for item in arguments])


@cache
def _size(name: str, dtype: torch.dtype, *sizes: int) -> int:
    """Numbers that a cell keeps for the backward pass."""
    return _call(f"{name}_kept", dtype, *sizes)


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


class _Cell(NamedTuple):
    """How the kernels of a cell are called: `forward(B, T, *settings, *tensors, rows, tokens, V, ...)`, and so on."""

    name: str
    settings: tuple
    """Sizes beside B and T, threads, and whatever else is not differentiated."""
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
    """One kernel over whole sequences. Of weights and initial states, None stands for one that is absent."""

    @staticmethod
    def forward(ctx, cell, keep, last_only, rows, tokens, *weights_and_states):
        rows, tokens, *tensors = _contiguous(rows, tokens, *weights_and_states)
        batch, time = Inputs(rows, tokens).batch_and_time
        kept = rows.new_empty(_size(cell.name, rows.dtype, batch, time, *cell.kept)) if keep else None
        shape = (batch, cell.features) if last_only else (batch, time, cell.features)
        outputs = rows.new_empty(shape)
        last = [rows.new_empty(batch, *shape) for shape in cell.last]
        ctx.cell, ctx.sizes, ctx.last_only, ctx.shape = cell, (batch, time, *cell.settings), last_only, shape
        ctx.set_materialize_grads(False)
        if not _call(
            f"{cell.name}_forward", rows.dtype, *ctx.sizes, *tensors, rows, tokens, rows.shape[0], last_only, outputs,
            *last, kept,
        ):  # fmt: skip
            least, greatest = tokens.aminmax()
            raise IndexError(f"tokens from {least} to {greatest} in a table of {len(rows)}")
        ctx.save_for_backward(rows, tokens, kept, *tensors)
        return outputs, *last

    @staticmethod
    def backward(ctx, *d_results):
        # a second derivative can only be asked for where this pass is recorded; the guard against it takes its time
        return (once_differentiable(_backward) if torch.is_grad_enabled() else _backward)(ctx, *d_results)


def _backward(ctx, d_outputs, *d_last_states):
    """The gradients of what `_Recurrence.forward` took, in the same order."""
    rows, tokens, kept, *tensors = ctx.saved_tensors
    if d_outputs is None:
        d_outputs = rows.new_zeros(ctx.shape)
    d_outputs, *d_last = _contiguous(d_outputs, *d_last_states)
    d_rows, *d_tensors = [None if tensor is None else torch.empty_like(tensor) for tensor in (rows, *tensors)]
    _call(
        f"{ctx.cell.name}_backward", rows.dtype, *ctx.sizes, *tensors, kept, ctx.last_only, d_outputs, *d_last,
        tokens, rows.shape[0], d_rows, *d_tensors,
    )  # fmt: skip
    return None, None, None, d_rows, None, *d_tensors


@_left_alone_by_compilers
def _run(
    cell: _Cell,
    inputs: Inputs,
    last_only: bool,
    weights: tuple[Tensor, *tuple[Tensor | None, ...]],
    states: tuple[Tensor | None, ...],
) -> tuple[Tensor, ...]:
    """The outputs [B, T, features], or the last one [B, features], and what `cell.last` asks for."""
    rows, tokens = inputs
    batch, _ = inputs.batch_and_time
    dtype = weights[0].dtype
    _check("inputs", rows, (*rows.shape[:-1], cell.projected), dtype)
    for state, shape in zip(states, cell.states, strict=True):
        if state is not None:
            _check("state", state, (batch, *shape), dtype)
    # inside of `forward` nothing tells whether there will be a backward pass
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (rows, *weights, *states))
    tokens = None if tokens is None else tokens.long()
    return _Recurrence.apply(cell, keep, last_only, rows, tokens, *weights, *states)


def _check(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """An error in place of a read beyond the end of a tensor."""
    if tensor.shape != shape or tensor.dtype != dtype:
        raise ValueError(f"{name} of shape {list(tensor.shape)} in {tensor.dtype}: expected {list(shape)} in {dtype}")


def rnn(
    inputs: Inputs, initial_BH: Tensor | None, weight_HH: Tensor, gain_H: Tensor | None, bias_H: Tensor | None,
    nonlinearity: str, last_only: bool = False,
) -> Tensor:  # fmt: skip
    """h_t = f(LN(W h_{t-1} + p_t)), without LN if `gain_H` is None: all h_t [B, T, H], or the last one [B, H]."""
    units = weight_HH.shape[0]
    settings = (units, torch.get_num_threads(), NONLINEARITIES[nonlinearity])
    cell = _Cell("rnn", settings, (units, gain_H is not None), projected=units, features=units, states=((units,),))
    return _run(cell, inputs, last_only, (weight_HH, gain_H, bias_H), (initial_BH,))[0]


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
    of_memory = (num_inner_steps, sustained, decay, fast_lr)
    settings = (units, torch.get_num_threads(), NONLINEARITIES[nonlinearity], *of_memory)
    kept = (units, num_inner_steps, norm[0] is not None, preliminary_norm[0] is not None)
    cell = _Cell("fastweights", settings, kept, projected=units, features=units, states=((units,), (units, units)))
    weights = (weight_HH, *norm, *preliminary_norm)
    return _run(cell, inputs, last_only, weights, (initial_BH, fast_BHH))[0]


def lstm(
    inputs: Inputs, hidden_BH: Tensor | None, cell_BH: Tensor | None, weight_4HH: Tensor, last_only: bool = False
) -> tuple[Tensor, Tensor]:
    """All h_t [B, T, H], or the last one [B, H], and the last cell [B, H]; gates in the order i, f, o, g."""
    units = weight_4HH.shape[1]
    settings, state = (units, torch.get_num_threads()), (units,)
    cell = _Cell("lstm", settings, (units,), projected=4 * units, features=units, states=(state, state), last=(state,))
    outputs_BTH, last_BH = _run(cell, inputs, last_only, (weight_4HH,), (hidden_BH, cell_BH))
    return outputs_BTH, last_BH


def gru(
    inputs: Inputs,
    initial_BH: Tensor | None,
    gates_2HH: Tensor,
    candidate_HH: Tensor,
    reset_before: bool,
    last_only: bool = False,
) -> Tensor:
    """All h_t [B, T, H] of a GRU, or the last one [B, H]; gates in the order r, u."""
    units = candidate_HH.shape[0]
    settings = (units, torch.get_num_threads(), reset_before)
    cell = _Cell("gru", settings, (units, reset_before), projected=3 * units, features=units, states=((units,),))
    return _run(cell, inputs, last_only, (gates_2HH, candidate_HH), (initial_BH,))[0]


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
    settings = (*sizes, reached, torch.get_num_threads(), permutations_SN.contiguous())
    memory = (copies, 2 * entries)
    projected = 3 * entries + 3 * size
    cell = _Cell("alstm", settings, sizes, projected, features=size, states=((size,), memory), last=(memory,))
    outputs_BTD, last_BSH = _run(cell, inputs, last_only, (weight_RD,), (hidden_BD, cell_BSH))
    return outputs_BTD, last_BSH
