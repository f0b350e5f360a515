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
_TYPES = {torch.float32: "f32", torch.float64: "f64"}
_SUFFIXES = _TYPES | {torch.int64: "i64"}
_ARGUMENTS = {
    "l": ctypes.c_int64,
    "i": ctypes.c_int,
    "b": ctypes.c_bool,
    "d": ctypes.c_double,
    "p": ctypes.c_void_p,
}
_SIGNATURES = {
    "tokens_outside": "pll",
    "rnn_kept": "lllb",
    "rnn_forward": "lllii" + "p" * 6 + "b" + "p" * 2,
    "rnn_backward": "lllii" + "p" * 5 + "bppl" + "p" * 5,
    "fastweights_kept": "llllbb",
    "fastweights_forward": "llliilbdd" + "p" * 9 + "b" + "p" * 2,
    "fastweights_backward": "llliilbdd" + "p" * 8 + "bppl" + "p" * 8,
    "lstm_kept": "lll",
    "lstm_forward": "llli" + "p" * 5 + "b" + "p" * 3,
    "lstm_backward": "llli" + "p" * 4 + "bpppl" + "p" * 4,
    "gru_kept": "lllb",
    "gru_forward": "lllib" + "p" * 5 + "b" + "p" * 2,
    "gru_backward": "lllib" + "p" * 4 + "bppl" + "p" * 4,
    "alstm_kept": "lllll",
    "alstm_forward": "llllllip" + "p" * 5 + "b" + "p" * 3,
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
    return tensor.device.type == "cpu" and tensor.dtype in _TYPES and _compiled()


@cache
def _function(name: str, dtype: torch.dtype) -> Any:
    """A compiled function for this type of number."""
    kernels = library()
    assert kernels is not None
    function = getattr(kernels, f"{name}_{_SUFFIXES[dtype]}")
    function.argtypes = [_ARGUMENTS[kind] for kind in _SIGNATURES[name]]
    function.restype = ctypes.c_int64 if name.endswith(("_kept", "_outside")) else None
    return function


def _call(name: str, dtype: torch.dtype, *arguments: Any) -> int:
    """Call a kernel; tensors are passed by address."""
    return _function(name, dtype)(*[item.data_ptr() if isinstance(item, Tensor) else item for item in arguments])


def _checked(inputs: Inputs, groups: int, weight: Tensor, *states: Tensor | None) -> Inputs:
    """`_fitting` for a cell whose states have as many features as its matrix has columns, and its inputs a multiple."""
    units = weight.shape[-1]
    return _fitting(inputs, groups * units, weight.dtype, *((state, units) for state in states))


def _fitting(
    inputs: Inputs, features: int, dtype: torch.dtype, *states_and_features: tuple[Tensor | None, int]
) -> Inputs:
    """The inputs with tokens as the kernels read them; an error in place of a read beyond the end of a tensor."""
    rows, tokens = inputs
    batch, _ = inputs.batch_and_time
    for name, tensor, last in [("inputs", rows, features), *(("state", *pair) for pair in states_and_features)]:
        if tensor is None:
            continue
        if tensor.dtype != dtype or tensor.shape[-1] != last or (name == "state" and len(tensor) != batch):
            raise ValueError(
                f"{name} of shape {list(tensor.shape)} in {tensor.dtype}: expected {last} features in {dtype}"
                f" for {batch} sequences"
            )
    if tokens is not None:
        tokens = tokens.long().contiguous()
        if _call("tokens_outside", tokens.dtype, tokens, tokens.numel(), rows.shape[0]):
            least, greatest = tokens.aminmax()
            raise IndexError(f"tokens from {least} to {greatest} in a table of {len(rows)}")
    return Inputs(rows, tokens)


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


class _Cell(NamedTuple):
    """How the kernels of a cell are called: `forward(B, T, *settings, *tensors, rows, tokens, ...)`, and so on."""

    name: str
    settings: tuple
    """Sizes beside B and T, threads, and whatever else is not differentiated."""
    kept: tuple
    """What the size of the room for the backward pass depends on, beside B and T."""
    features: int
    """Of an output."""
    last: tuple[tuple[int, ...], ...] = ()
    """Of one sequence: shapes of the states, beside the outputs, that are wanted of the last step alone."""


class _Recurrence(Function):
    """One kernel over whole sequences. Of weights and initial states, None stands for one that is absent."""

    @staticmethod
    def forward(ctx, cell, keep, last_only, rows, tokens, *weights_and_states):
        rows, tokens, *tensors = _contiguous(rows, tokens, *weights_and_states)
        batch, time = Inputs(rows, tokens).batch_and_time
        kept = rows.new_empty(_call(f"{cell.name}_kept", rows.dtype, batch, time, *cell.kept)) if keep else None
        outputs = rows.new_empty(batch, 1 if last_only else time, cell.features)
        last = [rows.new_empty(batch, *shape) for shape in cell.last]
        ctx.cell, ctx.sizes, ctx.last_only = cell, (batch, time, *cell.settings), last_only
        ctx.set_materialize_grads(False)
        _call(f"{cell.name}_forward", rows.dtype, *ctx.sizes, *tensors, rows, tokens, last_only, outputs, *last, kept)
        ctx.save_for_backward(rows, tokens, kept, *tensors)
        return outputs, *last

    @staticmethod
    @once_differentiable
    def backward(ctx, d_outputs, *d_last_states):
        rows, tokens, kept, *tensors = ctx.saved_tensors
        batch, time = ctx.sizes[:2]
        if d_outputs is None:
            d_outputs = rows.new_zeros(batch, 1 if ctx.last_only else time, ctx.cell.features)
        d_outputs, *d_last = _contiguous(d_outputs, *d_last_states)
        d_rows, *d_tensors = [None if tensor is None else torch.empty_like(tensor) for tensor in (rows, *tensors)]
        _call(
            f"{ctx.cell.name}_backward", rows.dtype, *ctx.sizes, *tensors, kept, ctx.last_only, d_outputs, *d_last,
            tokens, len(rows), d_rows, *d_tensors,
        )  # fmt: skip
        return None, None, None, d_rows, None, *d_tensors


def _run(cell: _Cell, inputs: Inputs, last_only: bool, *tensors: Tensor | None) -> tuple[Tensor, ...]:
    """The outputs [B, T, features], or the last one [B, 1, features], and what `cell.last` asks for."""
    # inside of `forward` nothing tells whether there will be a backward pass
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (inputs.rows, *tensors))
    return _Recurrence.apply(cell, keep, last_only, *inputs, *tensors)


@_left_alone_by_compilers
def rnn(
    inputs: Inputs, initial_BH: Tensor | None, weight_HH: Tensor, gain_H: Tensor | None, bias_H: Tensor | None,
    nonlinearity: str, last_only: bool = False,
) -> Tensor:  # fmt: skip
    """h_t = f(LN(W h_{t-1} + p_t)), without LN if `gain_H` is None: all h_t [B, T, H], or the last one [B, 1, H]."""
    units = weight_HH.shape[0]
    settings = (units, torch.get_num_threads(), NONLINEARITIES[nonlinearity])
    cell = _Cell("rnn", settings, (units, gain_H is not None), units)
    inputs = _checked(inputs, 1, weight_HH, initial_BH)
    return _run(cell, inputs, last_only, weight_HH, gain_H, bias_H, initial_BH)[0]


@_left_alone_by_compilers
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
    """All h(t) [B, T, H] of fast weights in the attention form, or the last one [B, 1, H], from h(0) and A(0).

    The norms are (gain, bias), or (None, None) for none.
    """
    units = weight_HH.shape[0]
    of_memory = (num_inner_steps, sustained, decay, fast_lr)
    settings = (units, torch.get_num_threads(), NONLINEARITIES[nonlinearity], *of_memory)
    kept = (units, num_inner_steps, norm[0] is not None, preliminary_norm[0] is not None)
    inputs = _checked(inputs, 1, weight_HH, initial_BH, fast_BHH)
    tensors = (weight_HH, *norm, *preliminary_norm, initial_BH, fast_BHH)
    return _run(_Cell("fastweights", settings, kept, units), inputs, last_only, *tensors)[0]


@_left_alone_by_compilers
def lstm(
    inputs: Inputs, hidden_BH: Tensor | None, cell_BH: Tensor | None, weight_4HH: Tensor, last_only: bool = False
) -> tuple[Tensor, Tensor]:
    """All h_t [B, T, H], or the last one [B, 1, H], and the last cell [B, H]; gates in the order i, f, o, g."""
    units = weight_4HH.shape[1]
    cell = _Cell("lstm", (units, torch.get_num_threads()), (units,), units, last=((units,),))
    inputs = _checked(inputs, 4, weight_4HH, hidden_BH, cell_BH)
    outputs_BTH, last_BH = _run(cell, inputs, last_only, weight_4HH, hidden_BH, cell_BH)
    return outputs_BTH, last_BH


@_left_alone_by_compilers
def gru(
    inputs: Inputs,
    initial_BH: Tensor | None,
    gates_2HH: Tensor,
    candidate_HH: Tensor,
    reset_before: bool,
    last_only: bool = False,
) -> Tensor:
    """All h_t [B, T, H] of a GRU, or the last one [B, 1, H]; gates in the order r, u."""
    units = candidate_HH.shape[0]
    cell = _Cell("gru", (units, torch.get_num_threads(), reset_before), (units, reset_before), units)
    inputs = _checked(inputs, 3, gates_2HH, initial_BH)
    return _run(cell, inputs, last_only, gates_2HH, candidate_HH, initial_BH)[0]


@_left_alone_by_compilers
def alstm(
    inputs: Inputs,
    hidden_BD: Tensor | None,
    cell_BSH: Tensor | None,
    weight_RD: Tensor,
    permutations_SN: Tensor,
    last_only: bool = False,
) -> tuple[Tensor, Tensor]:
    """All h_t [B, T, D] of an associative LSTM, or the last one [B, 1, D], and the last copies of its memory.

    D is H for every head, and N = H/2. The sums are in the order f, i, o, all r, all q, all u; W reaches the first R.
    """
    reached, size = weight_RD.shape
    copies, entries = permutations_SN.shape
    sizes = (entries, copies, size // (2 * entries))
    settings = (*sizes, reached, torch.get_num_threads(), permutations_SN.contiguous())
    cell = _Cell("alstm", settings, sizes, size, last=((copies, 2 * entries),))
    cells = None if cell_BSH is None else cell_BSH.flatten(1)
    states = (hidden_BD, size), (cells, 2 * permutations_SN.numel())
    inputs = _fitting(inputs, 3 * entries + 3 * size, weight_RD.dtype, *states)
    outputs_BTD, last_BSH = _run(cell, inputs, last_only, weight_RD, hidden_BD, cell_BSH)
    return outputs_BTD, last_BSH
