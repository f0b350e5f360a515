"""What the kernel of a core depends on besides code: the settings of its modules, and what its step reads elsewhere."""

import copy
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cache, partial
from pathlib import PurePath
from types import (
    BuiltinFunctionType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    NoneType,
    SimpleNamespace,
    WrapperDescriptorType,
)
from typing import Any
from weakref import ref

import numpy as np
import torch
from torch import Tensor, nn

functorch: Any = torch._C._functorch
OF_ALL_MODULES = frozenset(vars(nn.Module())) - {"training"} | {"_apply"}
"""Attributes of a module that are not settings, including `_apply`, which training replaces."""
OF_ALL_CORES = OF_ALL_MODULES | {"kernel"}
"""The same for the core itself, whose choice among its forms is not a setting of its step."""
INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
PLAIN = frozenset((bool, int, float, str, NoneType))
_FUNCTIONS = frozenset((BuiltinFunctionType, FunctionType))
_SETS = (set, frozenset)
_LISTS = (list, tuple, *_SETS)
UNCHANGING = (
    BuiltinFunctionType, FunctionType, MethodDescriptorType, WrapperDescriptorType, ModuleType, type, int, float,
    complex, str, bytes, range, slice, Enum, PurePath, re.Pattern, np.generic, np.dtype, torch.dtype, torch.device,
    torch.layout, torch.memory_format, torch._ops.OpOverload, torch._ops.OpOverloadPacket,
)  # fmt: skip
"""Types of objects that are assumed not to change, so that it is enough to compare their identity."""
COMPARED = 4096
"""Tensors and arrays of up to this many numbers are compared at every call."""


def is_variable(value: Any) -> bool:
    """Whether a setting is a single floating-point number in a tensor."""
    return isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point()


def variable_settings(core: nn.Module) -> dict[str, Tensor]:
    """Settings that are numbers in tensors, such as a decay in which the runs of a population differ, by name.

    A kernel reads them when it is called; any other setting is compiled into it.
    """
    return {name: value for name, value in named_settings(core) if is_variable(value)}


def tensors_of(core: nn.Module) -> dict[str, Tensor]:
    """The parameters, buffers and variable settings of a core by name, in the order in which the prelude takes them."""
    return {**dict(core.named_parameters()), **dict(core.named_buffers()), **variable_settings(core)}


def named_settings(core: nn.Module) -> Iterator[tuple[str, Any]]:
    """The attributes of the modules of a core that are settings, by name."""
    for name, module in core.named_modules():
        for key, value in vars(module).items():
            if key not in OF_ALL_MODULES:
                yield f"{name}.{key}".removeprefix("."), value


def key_of(core: nn.Module, without: frozenset[str] = frozenset()) -> tuple:
    """A key for the modules of a core and their settings, except those in `without`.

    A parameter, buffer or variable setting is represented by a number that stands for its identity, since a kernel
    reads a tensor with several names by the first. The key is built at every call, and is flat because nested tuples
    would take time.
    """
    kind: Any = type(core)
    key: list[Any] = [getattr(kind.step, "__code__", kind.step)]  # which reloading its file replaces
    numbers: dict[int, int] = {}
    left_out = OF_ALL_CORES
    for path, module in core.named_modules():
        if without:
            left_out = left_out.union(
                name for part, _, name in (setting.rpartition(".") for setting in without) if part == path
            )
        key += (id(module), type(module))
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    key += (name, tensor.shape, tensor.dtype, numbers.setdefault(id(tensor), len(numbers)))
        for name, value in vars(module).items():
            if name not in left_out:
                key += (name, value if type(value) in PLAIN else setting_of(value, numbers, True))
        if path and is_hooked(module):
            key.append(is_hooked)
        left_out = OF_ALL_MODULES
    return tuple(key)


def is_hooked(module: nn.Module) -> bool:
    """Whether a module has hooks before or after its forward or backward pass."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def has_hooked_parts(core: nn.Module) -> bool:
    """Whether a part of a core has hooks; those of the core itself do not matter: it is not called step by step."""
    return any(is_hooked(part) for part in core.modules() if part is not core)


def setting_of(value: Any, numbers: dict[int, int], may_vary: bool = False) -> Any:
    """A value as part of a key: its content where that is known, otherwise its identity."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind in _FUNCTIONS:
        return value if getattr(value, "__closure__", None) is None else _Itself(value)
    if isinstance(value, Tensor):
        if may_vary and is_variable(value):
            return value.dtype, value.requires_grad, numbers.setdefault(id(value), len(numbers))
        return _Itself(value), value.requires_grad, _numbers_in(value)
    if isinstance(value, np.ndarray):
        return _Itself(value), value.shape, value.dtype, value.tobytes() if value.size <= COMPARED else None
    if (inside := inside_of(value)) is None:
        return _Itself(value)
    if id(value) in numbers:  # it contains itself
        return kind, numbers[id(value)]
    numbers[id(value)] = len(numbers)
    parts = [part if type(part) in PLAIN else setting_of(part, numbers) for part in inside]
    return kind, frozenset(parts) if isinstance(value, _SETS) else tuple(parts)


def _numbers_in(tensor: Tensor) -> Any:
    """Something that changes with the numbers of a tensor; for a large one, it misses writes through `data`."""
    if tensor.device.type == "cpu" and tensor.layout == torch.strided and tensor.numel() <= COMPARED:
        return tensor.dtype, tensor.shape, tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes()
    return None if tensor.is_inference() else tensor._version


def inside_of(value: Any) -> Any:
    """The values that another one contains; None if it is not known to contain any."""
    if isinstance(value, dict):
        return *value, *value.values()
    if isinstance(value, _LISTS):
        return value
    if isinstance(value, MethodType):
        return value.__func__, value.__self__
    if isinstance(value, partial):
        return value.func, value.args, value.keywords
    kind: Any = type(value)
    return (kind, vars(value)) if _is_open(kind) else None


@cache
def _is_open(kind: type) -> bool:
    """Whether objects of a class keep everything in attributes: true if it and its bases are written in Python."""
    if kind is SimpleNamespace:
        return True
    if issubclass(kind, nn.Module | type | Enum) or not kind.__dictoffset__:
        return False
    return all(
        vars(each).get("__slots__", None if is_installed(each.__module__) else ()) == () for each in kind.__mro__[:-1]
    )


@cache
def is_installed(name: str) -> bool:
    """Whether a module is part of Python or of an installed package."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if file is None:
        return module is None or name in sys.builtin_module_names
    return file.startswith(INSTALLED)


def leaves_of(value: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """The innermost values that a value contains, except plain numbers, strings and None."""
    seen = set() if seen is None else seen
    if type(value) in PLAIN or id(value) in seen:
        return
    inside = inside_of(value)
    if inside is None:
        yield value
        return
    seen.add(id(value))
    for part in inside:
        yield from leaves_of(part, seen)


def copied(core: nn.Module, device: torch.device) -> nn.Module:
    """A copy of a core with its own weights and settings on a device; of a mapped tensor, it takes the first member."""
    parameters, memo = dict(core.named_parameters()), {}
    for name, tensor in tensors_of(core).items():
        one = tensor
        if functorch.is_batchedtensor(tensor):
            one = functorch.get_unwrapped(tensor).select(functorch.maybe_get_bdim(tensor), 0)
        own = one.detach().to(device, copy=True)
        memo[id(tensor)] = nn.Parameter(own) if name in parameters else own
    for _, value in named_settings(core):
        for leaf in leaves_of(value):
            if isinstance(leaf, Tensor) and not leaf.is_leaf:  # which `deepcopy` refuses
                memo.setdefault(id(leaf), leaf.detach().clone())
    return copy.deepcopy(core, memo)


class _Itself:
    """An object that equals no other, not even one that is at its address once it is gone."""

    def __init__(self, value: Any):
        self.number = id(value)
        try:
            self.value: Callable[[], Any] = ref(value)
        except TypeError:  # an object without weak references is kept alive
            self.value = lambda: value

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.value() is not None and self.value() is other.value()
