"""The kernels as differentiable operations on tensors.

Inputs are projected vectors [B, T, P], or a table of rows [V, P] with tokens [B, T]: then no vector per position is
ever made. The equations and the derivations of the backward passes stand in `csrc/`, one header per cell. Only the CPU
is served, in float32 and float64; use `available` to ask. Results do not depend on the number of threads.

Shapes: B sequences, T time steps, V symbols, P projected features, H hidden units.
"""

import ctypes
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

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
    "fastweights_forward": "llliilbdd" + "p" * 10 + "b" + "p" * 2,
    "fastweights_backward": "llliilbdd" + "p" * 9 + "bppl" + "p" * 8,
    "lstm_kept": "lll",
    "lstm_forward": "llli" + "p" * 5 + "b" + "p" * 3,
    "lstm_backward": "llli" + "p" * 4 + "bpppl" + "p" * 4,
    "gru_kept": "lllb",
    "gru_forward": "lllib" + "p" * 5 + "b" + "p" * 2,
    "gru_backward": "lllib" + "p" * 4 + "bppl" + "p" * 4,
    "alstm_kept": "lllll",
    "alstm_forward": "lllllli" + "p" * 6 + "b" + "p" * 3,
    "alstm_backward": "lllllli" + "p" * 5 + "bpppl" + "p" * 4,
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


def _differentiable(*tensors: Tensor | None) -> bool:
    """Whether there will be a backward pass; `forward` itself cannot tell."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def _empty_like(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else torch.empty_like(tensor) for tensor in tensors]


class _RNN(Function):
    @staticmethod
    def forward(ctx, keep, last_only, rows, tokens, initial, weight, gain, bias, nonlinearity):
        rows, tokens, initial, weight, gain, bias = _contiguous(rows, tokens, initial, weight, gain, bias)
        batch, time = Inputs(rows, tokens).batch_and_time
        units = weight.shape[0]
        kept = None
        if keep:
            kept = rows.new_empty(_call("rnn_kept", rows.dtype, batch, time, units, gain is not None))
        outputs = rows.new_empty(batch, 1 if last_only else time, units)
        ctx.last_only = last_only
        ctx.sizes = (batch, time, units, torch.get_num_threads(), nonlinearity)
        _call(
            "rnn_forward", rows.dtype, *ctx.sizes, weight, gain, bias, initial, rows, tokens, last_only, outputs, kept
        )
        ctx.save_for_backward(rows, tokens, initial, weight, gain, bias, kept)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx, d_outputs):
        rows, tokens, initial, weight, gain, bias, kept = ctx.saved_tensors
        d_rows, d_initial, d_weight, d_gain, d_bias = _empty_like(rows, initial, weight, gain, bias)
        _call(
            "rnn_backward", rows.dtype, *ctx.sizes, weight, gain, bias, initial, kept,
            ctx.last_only, d_outputs.contiguous(), tokens, len(rows), d_rows, d_initial, d_weight, d_gain, d_bias,
        )  # fmt: skip
        return None, None, d_rows, None, d_initial, d_weight, d_gain, d_bias, None


@_left_alone_by_compilers
def rnn(
    inputs: Inputs, initial_BH: Tensor | None, weight_HH: Tensor, gain_H: Tensor | None, bias_H: Tensor | None,
    nonlinearity: str, last_only: bool = False,
) -> Tensor:  # fmt: skip
    """h_t = f(LN(W h_{t-1} + p_t)), without LN if `gain_H` is None: all h_t [B, T, H], or the last one [B, 1, H]."""
    inputs = _checked(inputs, 1, weight_HH, initial_BH)
    tensors = (*inputs, initial_BH, weight_HH, gain_H, bias_H)
    return _RNN.apply(_differentiable(*tensors), last_only, *tensors, NONLINEARITIES[nonlinearity])


class _FastWeights(Function):
    @staticmethod
    def forward(
        ctx, keep, last_only, rows, tokens, initial, fast, weight, gain, bias, first_gain, first_bias, settings
    ):
        rows, tokens, initial, fast, weight, gain, bias, first_gain, first_bias = _contiguous(
            rows, tokens, initial, fast, weight, gain, bias, first_gain, first_bias
        )
        batch, time = Inputs(rows, tokens).batch_and_time
        units = weight.shape[0]
        kept = None
        if keep:
            norms = (gain is not None, first_gain is not None)
            kept = rows.new_empty(_call("fastweights_kept", rows.dtype, batch, time, units, settings[1], *norms))
        outputs = rows.new_empty(batch, 1 if last_only else time, units)
        transposed = None if fast is None else fast.transpose(1, 2).contiguous()
        ctx.last_only = last_only
        ctx.sizes = (batch, time, units, torch.get_num_threads(), *settings)
        _call(
            "fastweights_forward", rows.dtype, *ctx.sizes, weight, gain, bias, first_gain, first_bias, initial, fast,
            transposed, rows, tokens, last_only, outputs, kept,
        )  # fmt: skip
        ctx.save_for_backward(rows, tokens, initial, fast, weight, gain, bias, first_gain, first_bias, kept)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx, d_outputs):
        rows, tokens, initial, fast, weight, gain, bias, first_gain, first_bias, kept = ctx.saved_tensors
        d_rows, d_initial, d_weight, d_gain, d_bias, d_first_gain, d_first_bias = _empty_like(
            rows, initial, weight, gain, bias, first_gain, first_bias
        )
        d_fast = None if fast is None else torch.zeros_like(fast)
        _call(
            "fastweights_backward", rows.dtype, *ctx.sizes, weight, gain, bias, first_gain, first_bias, initial, fast,
            None, kept, ctx.last_only, d_outputs.contiguous(), tokens, len(rows), d_rows, d_initial, d_fast, d_weight,
            d_gain, d_bias, d_first_gain, d_first_bias,
        )  # fmt: skip
        return None, None, d_rows, None, d_initial, d_fast, d_weight, d_gain, d_bias, d_first_gain, d_first_bias, None


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
    settings = (NONLINEARITIES[nonlinearity], num_inner_steps, sustained, decay, fast_lr)
    inputs = _checked(inputs, 1, weight_HH, initial_BH, fast_BHH)
    tensors = (*inputs, initial_BH, fast_BHH, weight_HH, *norm, *preliminary_norm)
    return _FastWeights.apply(_differentiable(*tensors), last_only, *tensors, settings)


class _LSTM(Function):
    @staticmethod
    def forward(ctx, keep, last_only, rows, tokens, hidden, cell, weight):
        rows, tokens, hidden, cell, weight = _contiguous(rows, tokens, hidden, cell, weight)
        batch, time = Inputs(rows, tokens).batch_and_time
        units = weight.shape[1]
        kept = None
        if keep:
            kept = rows.new_empty(_call("lstm_kept", rows.dtype, batch, time, units))
        outputs, last_cell = rows.new_empty(batch, 1 if last_only else time, units), rows.new_empty(batch, units)
        ctx.last_only = last_only
        ctx.sizes = (batch, time, units, torch.get_num_threads())
        ctx.set_materialize_grads(False)
        _call(
            "lstm_forward", rows.dtype, *ctx.sizes, weight, hidden, cell, rows, tokens, last_only, outputs, last_cell,
            kept,
        )  # fmt: skip
        ctx.save_for_backward(rows, tokens, hidden, cell, weight, kept)
        return outputs, last_cell

    @staticmethod
    @once_differentiable
    def backward(ctx, d_outputs, d_last_cell):
        rows, tokens, hidden, cell, weight, kept = ctx.saved_tensors
        batch, time, units = ctx.sizes[:3]
        if d_outputs is None:
            d_outputs = rows.new_zeros(batch, 1 if ctx.last_only else time, units)
        d_outputs = d_outputs.contiguous()
        d_last_cell = None if d_last_cell is None else d_last_cell.contiguous()
        d_rows, d_hidden, d_cell, d_weight = _empty_like(rows, hidden, cell, weight)
        _call(
            "lstm_backward", rows.dtype, *ctx.sizes, weight, hidden, cell, kept, ctx.last_only, d_outputs, d_last_cell,
            tokens, len(rows), d_rows, d_hidden, d_cell, d_weight,
        )  # fmt: skip
        return None, None, d_rows, None, d_hidden, d_cell, d_weight


@_left_alone_by_compilers
def lstm(
    inputs: Inputs, hidden_BH: Tensor | None, cell_BH: Tensor | None, weight_4HH: Tensor, last_only: bool = False
) -> tuple[Tensor, Tensor]:
    """All h_t [B, T, H], or the last one [B, 1, H], and the last cell [B, H]; gates in the order i, f, o, g."""
    inputs = _checked(inputs, 4, weight_4HH, hidden_BH, cell_BH)
    tensors = (*inputs, hidden_BH, cell_BH, weight_4HH)
    return _LSTM.apply(_differentiable(*tensors), last_only, *tensors)


class _GRU(Function):
    @staticmethod
    def forward(ctx, keep, last_only, rows, tokens, initial, gates, candidate, reset_before):
        rows, tokens, initial, gates, candidate = _contiguous(rows, tokens, initial, gates, candidate)
        batch, time = Inputs(rows, tokens).batch_and_time
        units = candidate.shape[0]
        kept = None
        if keep:
            kept = rows.new_empty(_call("gru_kept", rows.dtype, batch, time, units, reset_before))
        outputs = rows.new_empty(batch, 1 if last_only else time, units)
        ctx.last_only = last_only
        ctx.sizes = (batch, time, units, torch.get_num_threads(), reset_before)
        _call("gru_forward", rows.dtype, *ctx.sizes, gates, candidate, initial, rows, tokens, last_only, outputs, kept)
        ctx.save_for_backward(rows, tokens, initial, gates, candidate, kept)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx, d_outputs):
        rows, tokens, initial, gates, candidate, kept = ctx.saved_tensors
        d_rows, d_initial, d_gates, d_candidate = _empty_like(rows, initial, gates, candidate)
        _call(
            "gru_backward", rows.dtype, *ctx.sizes, gates, candidate, initial, kept, ctx.last_only,
            d_outputs.contiguous(), tokens, len(rows), d_rows, d_initial, d_gates, d_candidate,
        )  # fmt: skip
        return None, None, d_rows, None, d_initial, d_gates, d_candidate, None


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
    inputs = _checked(inputs, 3, gates_2HH, initial_BH)
    tensors = (*inputs, initial_BH, gates_2HH, candidate_HH)
    return _GRU.apply(_differentiable(*tensors), last_only, *tensors, reset_before)


class _ALSTM(Function):
    @staticmethod
    def forward(ctx, keep, last_only, rows, tokens, hidden, cell, weight, permutations):
        rows, tokens, hidden, cell, weight = _contiguous(rows, tokens, hidden, cell, weight)
        batch, time = Inputs(rows, tokens).batch_and_time
        reached, size = weight.shape
        copies, entries = permutations.shape
        heads = size // (2 * entries)
        kept = None
        if keep:
            kept = rows.new_empty(_call("alstm_kept", rows.dtype, batch, time, entries, copies, heads))
        outputs = rows.new_empty(batch, 1 if last_only else time, size)
        last_cell = rows.new_empty(batch, copies, 2 * entries)
        ctx.last_only = last_only
        ctx.sizes = (batch, time, entries, copies, heads, reached, torch.get_num_threads())
        ctx.set_materialize_grads(False)
        _call(
            "alstm_forward", rows.dtype, *ctx.sizes, weight, permutations, hidden, cell, rows, tokens, last_only,
            outputs, last_cell, kept,
        )  # fmt: skip
        ctx.save_for_backward(rows, tokens, hidden, cell, weight, permutations, kept)
        return outputs, last_cell

    @staticmethod
    @once_differentiable
    def backward(ctx, d_outputs, d_last_cell):
        rows, tokens, hidden, cell, weight, permutations, kept = ctx.saved_tensors
        batch, time = ctx.sizes[:2]
        if d_outputs is None:
            d_outputs = rows.new_zeros(batch, 1 if ctx.last_only else time, weight.shape[1])
        d_outputs = d_outputs.contiguous()
        d_last_cell = None if d_last_cell is None else d_last_cell.contiguous()
        d_rows, d_hidden, d_cell, d_weight = _empty_like(rows, hidden, cell, weight)
        _call(
            "alstm_backward", rows.dtype, *ctx.sizes, weight, permutations, hidden, cell, kept, ctx.last_only,
            d_outputs, d_last_cell, tokens, len(rows), d_rows, d_hidden, d_cell, d_weight,
        )  # fmt: skip
        return None, None, d_rows, None, d_hidden, d_cell, d_weight, None


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
    size, entries = weight_RD.shape[1], permutations_SN.shape[1]
    cells = None if cell_BSH is None else cell_BSH.flatten(1)
    states = (hidden_BD, size), (cells, 2 * permutations_SN.numel())
    inputs = _fitting(inputs, 3 * entries + 3 * size, weight_RD.dtype, *states)
    tensors = (*inputs, hidden_BD, cell_BSH, weight_RD)
    return _ALSTM.apply(_differentiable(*tensors), last_only, *tensors, permutations_SN.contiguous())
