"""The kernels as differentiable operations on tensors.

Inputs are projected vectors [B, T, P], or a table of them [V, P] with ids [B, T], which avoids a vector per position.
The equations and the derivations of the backward passes are in `csrc/`, one header per cell. The kernels run on the
CPU, in float32 and float64, if `available`. Their results do not depend on the number of threads.

Shapes: B sequences, T time steps, V symbols, P projected features, H hidden units.
"""

import ctypes
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from src.ops.cpu.build import library
from src.ops.inputs import Inputs

NONLINEARITIES = {"relu": 0, "tanh": 1, "linear": 2}
_SUFFIXES = {torch.float32: "f32", torch.float64: "f64"}
_TYPES = {"l": ctypes.c_int64, "i": ctypes.c_int, "b": ctypes.c_bool, "d": ctypes.c_double, "p": ctypes.c_void_p}
_RESULTS = {"saved_size": ctypes.c_int64, "forward": ctypes.c_int, "backward": ctypes.c_int}
_WRONG_IDS, _OUT_OF_MEMORY = 1, 2


class _Signature(NamedTuple):
    """The argument types of a cell's C functions."""

    settings: str
    """Types of the arguments that are neither differentiated nor common to all cells."""
    sizes: str
    """Types of the arguments on which the size of the saved tensor depends, besides B and T."""
    tensors: int
    """The number of weights and initial states."""
    last: int = 0
    """The number of states returned for the last step, besides the outputs."""

    def of(self, function: str) -> str:
        """Types of all arguments of `saved_size`, `forward` or `backward`."""
        if function == "saved_size":
            return "ll" + self.sizes
        common = "lli" + self.settings + "p" * self.tensors
        if function == "forward":  # table, ids, V, return_sequence; outputs, last states, saved
            return common + "pplb" + "p" * (1 + self.last + 1)
        return common + "pb" + "p" * (1 + self.last) + "pl" + "p" * (1 + self.tensors)


_SIGNATURES = {
    "rnn": _Signature("li", "lb", tensors=4),
    "fastweights": _Signature("lilbdd", "llbb", tensors=7),
    "lstm": _Signature("l", "l", tensors=3, last=1),
    "gru": _Signature("lb", "lb", tensors=3),
    "alstm": _Signature("llllp", "lll", tensors=3, last=1),
}


def _not_compiled(function: Callable) -> Callable:
    """`torch.compiler.disable`, applied only while compiling: importing torch's compiler takes a second."""

    @wraps(function)
    def call(*arguments: Any, **settings: Any) -> Any:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*arguments, **settings)
        return function(*arguments, **settings)

    return call


@_not_compiled
def _usable() -> bool:
    """Whether the kernels exist, and no transform of torch.func or forward derivative, which they lack, is under way.

    A constant for torch.compile, which can trace neither a library nor a cache.
    """
    transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    return not transformed and library() is not None


def available(inputs: Inputs | Tensor) -> bool:
    """Whether the kernels can compute these inputs; compiles them if necessary."""
    tensor = inputs if isinstance(inputs, Tensor) else inputs.example
    return tensor.is_cpu and tensor.dtype in _SUFFIXES and _usable()


@cache
def _function(cell: str, function: str, dtype: torch.dtype) -> Any:
    """The compiled function of a cell for a dtype."""
    kernels = library()
    assert kernels is not None
    compiled = getattr(kernels, f"{cell}_{function}_{_SUFFIXES[dtype]}")
    compiled.argtypes = [_TYPES[kind] for kind in _SIGNATURES[cell].of(function)]
    compiled.restype = _RESULTS[function]
    return compiled


def _call(cell: str, function: str, dtype: torch.dtype, *arguments: Any) -> int:
    """Call a kernel; tensors are passed by address."""
    addresses = [item.data_ptr() if isinstance(item, Tensor) else item for item in arguments]
    result = _function(cell, function, dtype)(*addresses)
    if function != "saved_size" and result == _OUT_OF_MEMORY:
        batch, time, _, units, *_ = arguments
        sizes = f"{batch} sequences of {time} steps with {units} units"
        raise MemoryError(f"{cell}: {function} pass of {sizes}: not enough memory")
    return result


@cache
def _size(cell: str, dtype: torch.dtype, *sizes: int) -> int:
    """The number of values that a cell saves for the backward pass."""
    return _call(cell, "saved_size", dtype, *sizes)


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


class _Cell(NamedTuple):
    """The name and shapes of a cell, the same for all sequences."""

    name: str
    sizes: tuple
    """Sizes on which that of the saved tensor depends, besides B and T."""
    projected: int
    """Features of an input."""
    features: int
    """Features of an output."""
    states: tuple[tuple[int, ...], ...]
    """Shapes of the initial states of one sequence."""
    last: tuple[tuple[int, ...], ...] = ()
    """Shapes of the states of one sequence returned for the last step, besides the outputs."""


class _Recurrence(Function):
    """One kernel over whole sequences. None stands for a weight or initial state that is absent.

    `sizes` are B, T, the number of threads and the cell's settings.
    """

    @staticmethod
    def forward(ctx, cell, sizes, save, return_sequence, table, ids, *weights_and_states):
        table, ids, *tensors = _contiguous(table, ids, *weights_and_states)
        batch, time, *_ = sizes
        saved = table.new_empty(_size(cell.name, table.dtype, batch, time, *cell.sizes)) if save else None
        outputs = table.new_empty((batch, time, cell.features) if return_sequence else (batch, cell.features))
        last = [table.new_empty(batch, *shape) for shape in cell.last]
        if _call(
            cell.name, "forward", table.dtype, *sizes, *tensors, table, ids, table.shape[0], return_sequence, outputs,
            *last, saved,
        ) == _WRONG_IDS:  # fmt: skip
            least, greatest = ids.aminmax()
            raise IndexError(f"ids from {least} to {greatest}, not all in a table of {len(table)} rows")
        ctx.call = cell, sizes, return_sequence, outputs.shape
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(table, ids, saved, *tensors)
        return outputs, *last

    @staticmethod
    def backward(ctx, d_outputs, *d_last_states):
        """The gradients of the arguments of `forward`, in the same order."""
        if torch.is_grad_enabled():  # a check that costs less than `once_differentiable`
            raise RuntimeError("the kernels have no second derivative; take model.kernel=vectorized")
        cell, sizes, return_sequence, shape = ctx.call
        table, ids, saved, *tensors = ctx.saved_tensors
        if d_outputs is None:
            d_outputs = table.new_zeros(shape)
        d_outputs, *d_last = _contiguous(d_outputs, *d_last_states)
        d_table, *d_tensors = [None if tensor is None else torch.empty_like(tensor) for tensor in (table, *tensors)]
        _call(
            cell.name, "backward", table.dtype, *sizes, *tensors, saved, return_sequence, d_outputs, *d_last, ids,
            table.shape[0], d_table, *d_tensors,
        )  # fmt: skip
        return None, None, None, None, d_table, None, *d_tensors


@_not_compiled
def _run(
    make_cell: Callable[..., _Cell],
    cell_sizes: tuple,
    settings: tuple,
    inputs: Inputs,
    return_sequence: bool,
    weights: tuple[Tensor, *tuple[Tensor | None, ...]],
    states: tuple[Tensor | None, ...],
) -> tuple[Tensor, ...]:
    """The outputs [B, T, features], or the last one [B, features], and the last states that the cell returns."""
    cell = make_cell(*cell_sizes)
    table, ids = inputs
    batch, time = inputs.batch_and_time
    dtype = weights[0].dtype
    _check("inputs", table, (*table.shape[:-1], cell.projected), dtype)
    for state, shape in zip(states, cell.states, strict=True):
        if state is not None:
            _check("state", state, (batch, *shape), dtype)
    # inside `forward` it is not known whether a backward pass will follow
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (table, *weights, *states))
    ids = None if ids is None else ids.long()
    sizes = (batch, time, torch.get_num_threads(), *settings)
    return _Recurrence.apply(cell, sizes, save, return_sequence, table, ids, *weights, *states)


def _check(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raise an error instead of reading past the end of a tensor."""
    if tensor.shape != shape or tensor.dtype != dtype:
        raise ValueError(f"{name} of shape {list(tensor.shape)} in {tensor.dtype}: expected {list(shape)} in {dtype}")


@cache
def _rnn(units: int, normalized: bool) -> _Cell:
    return _Cell("rnn", (units, normalized), projected=units, features=units, states=((units,),))


def rnn(
    inputs: Inputs, initial_BH: Tensor | None, weight_HH: Tensor, gain_H: Tensor | None, bias_H: Tensor | None,
    nonlinearity: str, return_sequence: bool = True,
) -> Tensor:  # fmt: skip
    """h_t = f(LN(W h_{t-1} + p_t)), without LN if `gain_H` is None: all h_t [B, T, H], or the last one [B, H]."""
    units = weight_HH.shape[0]
    settings = (units, NONLINEARITIES[nonlinearity])
    weights = (weight_HH, gain_H, bias_H)
    return _run(_rnn, (units, gain_H is not None), settings, inputs, return_sequence, weights, (initial_BH,))[0]


@cache
def _fastweights(units: int, num_inner_steps: int, normalized: bool, preliminary_normalized: bool) -> _Cell:
    sizes = (units, num_inner_steps, normalized, preliminary_normalized)
    return _Cell("fastweights", sizes, projected=units, features=units, states=((units,), (units, units)))


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
    return_sequence: bool = True,
) -> Tensor:
    """All h(t) [B, T, H] of fast weights in the attention form, or the last one [B, H], from h(0) and A(0).

    The norms are (gain, bias), or (None, None) for none.
    """
    units = weight_HH.shape[0]
    sizes = (units, num_inner_steps, norm[0] is not None, preliminary_norm[0] is not None)
    settings = (units, NONLINEARITIES[nonlinearity], num_inner_steps, sustained, decay, fast_lr)
    weights = (weight_HH, *norm, *preliminary_norm)
    return _run(_fastweights, sizes, settings, inputs, return_sequence, weights, (initial_BH, fast_BHH))[0]


@cache
def _lstm(units: int) -> _Cell:
    state = (units,)
    return _Cell("lstm", (units,), projected=4 * units, features=units, states=(state, state), last=(state,))


def lstm(
    inputs: Inputs, hidden_BH: Tensor | None, cell_BH: Tensor | None, weight_4HH: Tensor, return_sequence: bool = True
) -> tuple[Tensor, Tensor]:
    """All h_t [B, T, H], or the last one [B, H], and the last cell state [B, H]; gates in the order i, f, o, g."""
    units = weight_4HH.shape[1]
    states = (hidden_BH, cell_BH)
    outputs_BTH, last_BH = _run(_lstm, (units,), (units,), inputs, return_sequence, (weight_4HH,), states)
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
    return_sequence: bool = True,
) -> Tensor:
    """All h_t [B, T, H] of a GRU, or the last one [B, H]; gates in the order r, u."""
    settings = (candidate_HH.shape[0], reset_before)
    return _run(_gru, settings, settings, inputs, return_sequence, (gates_2HH, candidate_HH), (initial_BH,))[0]


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
    return_sequence: bool = True,
) -> tuple[Tensor, Tensor]:
    """All h_t [B, T, D] of an associative LSTM, or the last one [B, D], and the copies of its memory at the end.

    D is H per head, and N = H/2. The sums are in the order f, i, o, all r, all q, all u; W feeds the first R of them.
    """
    reached, size = weight_RD.shape
    copies, entries = permutations_SN.shape
    sizes = (entries, copies, size // (2 * entries))
    settings = (*sizes, reached, permutations_SN.contiguous())
    states = (hidden_BD, cell_BSH)
    outputs_BTD, last_BSH = _run(_alstm, sizes, settings, inputs, return_sequence, (weight_RD,), states)
    return outputs_BTD, last_BSH
