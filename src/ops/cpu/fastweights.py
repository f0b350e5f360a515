"""The hand-written kernel of fast weights: attention over past states, a better algorithm than their step.

The equations and the derivation of the backward pass are in `csrc/fastweights.h`. The kernel runs on the CPU, in
float32 and float64. Its results do not depend on the number of threads.

Shapes: B sequences, T time steps, V symbols, H hidden units.
"""

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from src.ops.cpu import calls
from src.ops.cpu.build import library, one_lane_library
from src.ops.inputs import Inputs

NONLINEARITIES = {"relu": 0, "tanh": 1, "linear": 2}
_WHOLE = (
    "batch", "time", "symbols", "threads", "return_sequence", "double_precision", "units", "nonlinearity",
    "inner_steps", "sustained", "only_last_normalized",
)  # fmt: skip
_GIVEN = ("table", "weight", "gain", "bias", "first_gain", "first_bias", "read_weights", "initial", "fast")
_POINTERS = ("ids", *_GIVEN, "outputs", "saved", "d_outputs", *(f"d_{name}" for name in _GIVEN))


class _Call(ctypes.Structure):
    """The struct `FastWeightsCall` of csrc/fastweights.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _WHOLE),
        *((name, ctypes.c_double) for name in ("decay", "fast_lr")),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    ]


@cache
def _function(name: str, one_by_one: bool) -> Any:
    function = getattr((one_by_one and one_lane_library()) or library(), f"fastweights_{name}")
    function.argtypes = [ctypes.POINTER(_Call)]
    function.restype = ctypes.c_int64 if name == "saved_size" else ctypes.c_int
    return function


def _call(name: str, settings: dict[str, Any], **tensors: Tensor | None) -> int:
    addresses = {key: tensor.data_ptr() for key, tensor in tensors.items() if tensor is not None}
    one_by_one = calls.one_by_one(settings["batch"], 8 if settings["double_precision"] else 4)
    return calls.enter(_function(name, one_by_one), _Call(**settings, **addresses))


class _FastWeights(Function):
    """The kernel on whole sequences; None stands for an absent weight or initial state."""

    @staticmethod
    def forward(ctx, settings, save, ids, *given):
        ids, *tensors = calls.contiguous(ids, *given)
        table, named = tensors[0], dict(zip(_GIVEN, tensors, strict=True))
        shape = (settings["batch"], settings["time"], settings["units"])
        saved = calls.room(table, _call("saved_size", settings, **named)) if save else None
        outputs = table.new_empty(shape if settings["return_sequence"] else shape[::2])
        ended = _call("forward", settings, ids=ids, outputs=outputs, saved=saved, **named)
        calls.check_exit(ended, "fast weights", *shape[:2], ids, len(table))
        ctx.settings, ctx.shape = settings, outputs.shape
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(ids, saved, *tensors)
        return outputs

    @staticmethod
    def backward(ctx, d_outputs):
        """The gradients of the arguments of `forward`, in the same order."""
        calls.refuse_second_derivative()
        settings, (ids, saved, *given) = ctx.settings, ctx.saved_tensors
        d_outputs = saved.new_zeros(ctx.shape) if d_outputs is None else d_outputs.contiguous()
        needed = dict(zip(_GIVEN, ctx.needs_input_grad[3:], strict=True))
        d_given = [
            None if tensor is None or (name in ("initial", "fast") and not needed[name]) else torch.empty_like(tensor)
            for name, tensor in zip(_GIVEN, given, strict=True)
        ]
        named = {f"d_{name}": gradient for name, gradient in zip(_GIVEN, d_given, strict=True)}
        named |= dict(zip(_GIVEN, given, strict=True))
        ended = _call("backward", settings, ids=ids, saved=saved, d_outputs=d_outputs, **named)
        calls.check_exit(ended, "fast weights", settings["batch"], settings["time"], None, 0)
        return None, None, None, *d_given


def chunk_length(hidden_size: int) -> int:
    """How many steps of a long sequence one call computes: attention within them, the matrix A for earlier ones."""
    return max(64, hidden_size)


@calls.not_compiled
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
    read_weights: Tensor | None = None,
    only_last_normalized: bool = False,
    return_sequence: bool = True,
) -> Tensor:
    """All h(t) [B, T, H] of fast weights in the attention form, or the last one [B, H], from h(0) and A(0).

    The norms are (gain, bias), or (None, None) for no norm. There is a read weight for every inner step but the last.
    """
    table, ids = inputs.table, inputs.ids
    (batch, time), units, dtype = inputs.batch_and_time, len(weight_HH), weight_HH.dtype
    calls.check("inputs", table, (*table.shape[:-1], units), dtype)
    expected = [("state", initial_BH, (batch, units)), ("state", fast_BHH, (batch, units, units))]
    expected += [("layer norm", tensor, (units,)) for tensor in (*norm, *preliminary_norm)]
    expected += [("read weights", read_weights, (max(0, num_inner_steps - 1),))]
    for name, tensor, shape in expected:
        if tensor is not None:
            calls.check(name, tensor, shape, dtype)
    settings = {
        "batch": batch, "time": time, "symbols": len(table), "threads": torch.get_num_threads(),
        "return_sequence": return_sequence, "double_precision": dtype == torch.float64, "units": units,
        "nonlinearity": NONLINEARITIES[nonlinearity], "inner_steps": num_inner_steps, "sustained": sustained,
        "only_last_normalized": only_last_normalized, "decay": decay, "fast_lr": fast_lr,
    }  # fmt: skip
    given = (table, weight_HH, *norm, *preliminary_norm, read_weights, initial_BH, fast_BHH)
    return _FastWeights.apply(settings, calls.needs_backward(given), None if ids is None else ids.long(), *given)
