"""The hand-written kernel of the linear recurrence: four columns of a block of memories at a time stay in the cache.

The equations and the derivation of the backward pass are in `csrc/linear_recurrence.h`. The kernel runs on the CPU, in
float32 and float64. Its results do not depend on the number of threads.

Shapes: B sequences, T time steps, N writes, H heads, K key features, V value features.
"""

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from src.ops.cpu import calls
from src.ops.cpu.build import linear_library
from src.ops.linear_recurrence import DeltaTerms, Terms

_WHOLE = (
    "batch", "time", "heads", "writes", "keys", "values", "decays", "threads", "read_first", "double_precision",
)  # fmt: skip
_TERMS = ("query", "key", "value", "log_decay", "erase", "removal", "strength")
_STATES = ("initial", "start")
_POINTERS = ("outputs", "last", "saved", "d_outputs", "d_last", *(f"d_{name}" for name in (*_TERMS, *_STATES)))


class _Strided(ctypes.Structure):
    """The struct `Strided` of csrc/linear_recurrence.cpp."""

    _fields_ = [("data", ctypes.c_void_p), ("strides", ctypes.c_int64 * 3)]


class _Call(ctypes.Structure):
    """The struct `LinearRecurrenceCall` of csrc/linear_recurrence.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _WHOLE),
        ("scale", ctypes.c_double),
        *((name, _Strided) for name in _TERMS),
        *((name, ctypes.c_void_p) for name in (*_STATES, "resets", *_POINTERS)),
    ]


@calls.not_compiled
def available(tensor: Tensor) -> bool:
    """Whether the kernel can compute with this tensor; compiles the kernel if necessary."""
    return calls.available(tensor) and linear_library() is not None


@cache
def _function(name: str) -> Any:
    function = getattr(linear_library(), f"linear_recurrence_{name}")
    function.argtypes = [ctypes.POINTER(_Call)]
    function.restype = ctypes.c_int64 if name == "saved_size" else ctypes.c_int
    return function


def _call(name: str, settings: dict[str, Any], terms: tuple[Tensor | None, ...], **tensors: Tensor | None) -> int:
    given = {
        key: _Strided(term.data_ptr(), (ctypes.c_int64 * 3)(*term.stride()[:3]))
        for key, term in zip(_TERMS, terms, strict=True)
        if term is not None
    }
    addresses = {key: tensor.data_ptr() for key, tensor in tensors.items() if tensor is not None}
    return calls.enter(_function(name), _Call(**settings, **given, **addresses))


class _LinearRecurrence(Function):
    """The kernel on whole sequences; None stands for an absent term or state."""

    @staticmethod
    def forward(ctx, settings, save, resets, initial, start, *terms):
        resets, initial, start = calls.contiguous(resets, initial, start)
        terms = tuple(term if term is None or term.stride(-1) == 1 else term.contiguous() for term in terms)
        states = {"initial": initial, "start": start, "resets": resets}
        outputs = initial.new_empty(*terms[0].shape[:3], settings["values"])
        last = torch.empty_like(initial)
        saved = calls.room(initial, _call("saved_size", settings, terms)) if save else None
        ended = _call("forward", settings, terms, outputs=outputs, last=last, saved=saved, **states)
        calls.check_exit(ended, "linear recurrence", settings["batch"], settings["time"], None, 0)
        ctx.settings, ctx.shape = settings, outputs.shape
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(saved, resets, initial, start, *terms)
        return outputs, last

    @staticmethod
    def backward(ctx, d_outputs, d_last):
        """The gradients of the arguments of `forward`, in the same order."""
        calls.refuse_second_derivative()
        saved, resets, initial, start, *terms = ctx.saved_tensors
        d_outputs = saved.new_zeros(ctx.shape) if d_outputs is None else d_outputs.contiguous()
        d_last = None if d_last is None else d_last.contiguous()
        d_states = [
            torch.empty_like(state) if needed else None
            for state, needed in zip((initial, start), ctx.needs_input_grad[3:5], strict=True)
        ]
        d_terms = [None if term is None else term.new_empty(term.shape) for term in terms]
        if not ctx.needs_input_grad[8]:  # a fixed decay, as in retention
            d_terms[3] = None
        gradients = zip((*_STATES, *_TERMS), (*d_states, *d_terms), strict=True)
        named = {f"d_{name}": gradient for name, gradient in gradients}
        named |= {"initial": initial, "start": start, "resets": resets}
        ended = _call("backward", ctx.settings, tuple(terms), saved=saved, d_outputs=d_outputs, d_last=d_last, **named)
        calls.check_exit(ended, "linear recurrence", ctx.settings["batch"], ctx.settings["time"], None, 0)
        return None, None, None, *d_states, *d_terms


@calls.not_compiled
def linear_recurrence(
    terms: Terms | DeltaTerms,
    S_BHKV: Tensor,
    resets_BT: Tensor | None = None,
    start_BHKV: Tensor | None = None,
    *,
    read_first: bool = False,
) -> tuple[Tensor, Tensor]:
    """All outputs [B, T, H, V] of a linear recurrence, and S after the last step; see `Recurrence`."""
    (batch, heads, keys, values), time, dtype = S_BHKV.shape, terms.query.shape[1], S_BHKV.dtype
    writes = terms.num_writes
    scale = 1.0
    given: tuple[Tensor | None, ...] = (*terms, None)
    if isinstance(terms, DeltaTerms):
        scale = terms.scale
        given = terms.query, terms.key, terms.value, terms.log_decay, None, None, terms.strength
    decays = 0 if terms.log_decay is None else terms.log_decay.shape[-1]
    if decays not in (0, 1, keys):
        raise ValueError(f"log_decay: {decays} decays per head, expected 1 or {keys}")
    for name, term, size in zip(_TERMS, given, (keys, keys, values, decays, keys, keys, 1), strict=True):
        if term is not None:
            calls.check(name, term, (batch, time if name == "query" else time * writes, heads, size), dtype)
    for state in (S_BHKV, start_BHKV):
        if state is not None:
            calls.check("state", state, (batch, heads, keys, values), dtype)
    if resets_BT is not None:
        calls.check("resets", resets_BT, (batch, time), torch.bool)
    settings = {
        "batch": batch, "time": time, "heads": heads, "writes": writes, "keys": keys, "values": values,
        "decays": decays, "threads": torch.get_num_threads(), "read_first": read_first,
        "double_precision": dtype == torch.float64, "scale": scale,
    }  # fmt: skip
    save = calls.needs_backward((S_BHKV, start_BHKV, *given))
    return _LinearRecurrence.apply(settings, save, resets_BT, S_BHKV, start_BHKV, *given)
