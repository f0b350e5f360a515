"""What a step reads besides the settings of its modules: variables of its files, closures and classes."""

import dis
from collections.abc import Iterator
from functools import cache, partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from src.ops.generated.settings import PLAIN, UNCHANGING, inside_of, is_installed, leaves_of, named_settings, setting_of

_MISSING = object()
_PACKAGE = __name__.rpartition(".")[0]


class Reads:
    """The places named in the code of a step, of its parts, of the functions that these name, and so on.

    Only data counts: functions and classes defined in a file are part of its source. In Python and installed packages,
    nothing is expected to change.
    """

    def __init__(self, core: nn.Module):
        self.places: dict[tuple[int, str], tuple[Any, str]] = {}
        """Classes, modules, functions and cells of closures with their names, by identity and by the attribute read."""
        self.code: list[CodeType] = []
        """The compiled code of these functions, which differs from their files if these were edited since."""
        self._attributes: set[str] = set()
        self._owners: list[Any] = []
        """Classes and modules; any attribute that the code names may be read from them."""
        self._seen: dict[int, Any] = {}
        self._modules = set(map(id, core.modules()))
        own, *parts = cast(Any, map(type, core.modules()))
        for value in (own, own.step, own.initial_state, *parts, *(kind.forward for kind in parts)):
            self._follow(value)
        for _, value in named_settings(core):
            for leaf in leaves_of(value):
                self._follow(leaf)
        tried: set[tuple[int, str]] = set()
        while new := {(number, name) for number in range(len(self._owners)) for name in self._attributes} - tried:
            tried |= new
            for number, name in sorted(new):  # in the same order in every process
                self._find(self._owners[number], name)
        self._seen.clear()  # it may keep the core alive

    def values(self) -> tuple:
        """What the places hold now, as part of a key."""
        return tuple([setting_of(_read(owner, name), {}) for (_, name), (owner, _) in self.places.items()])

    def named(self) -> Iterator[tuple[str, Any]]:
        """What the places hold now, by name."""
        for (_, name), (owner, where) in self.places.items():
            yield f"{where}.{name}", _read(owner, name)

    def leave_out(self, names: frozenset[str]) -> None:
        """Drop the places that `named` calls by these names."""
        self.places = {at: place for at, place in self.places.items() if f"{place[1]}.{at[1]}" not in names}

    def _find(self, owner: Any, name: str) -> None:
        """Note what is read from a module or class, or follow it."""
        if isinstance(owner, dict):
            value, where = owner.get(name, _MISSING), owner.get("__name__")
        else:
            kind = next((kind for kind in owner.__mro__ if name in vars(kind)), object)
            value = _MISSING if _is_fixed(kind.__module__) else vars(kind)[name]
            where = f"{owner.__module__}.{owner.__qualname__}"
        if value is not _MISSING and not name.startswith("__"):
            self._note(owner, name, value, str(where))

    def _note(self, owner: Any, name: str, value: Any, where: str) -> None:
        is_code = isinstance(value, type | ModuleType) or (isinstance(value, FunctionType) and value.__name__ == name)
        is_data = type(value) in PLAIN or inside_of(value) is not None
        if not is_code and (is_data or isinstance(value, (Tensor, np.ndarray, nn.Module, *UNCHANGING))):
            self.places[id(owner), name] = owner, where
        for leaf in leaves_of(value):
            self._follow(leaf)

    def _follow(self, value: Any) -> None:
        """Look at the code of a function, or note a class or module."""
        if isinstance(value, staticmethod | classmethod | MethodType):
            value = value.__func__
        elif isinstance(value, property):
            value = value.fget
        elif isinstance(value, partial):
            value = value.func
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, type) and not _is_fixed(value.__module__):
            self._owners.append(value)
            if not issubclass(value, nn.Module):
                for name, function in vars(value).items():
                    if name.startswith("__"):  # what is called without being named
                        self._follow(function)
        elif isinstance(value, ModuleType) and not _is_fixed(value.__name__):
            self._owners.append(vars(value))
        elif isinstance(value, FunctionType):
            if (wrapped := getattr(value, "__wrapped__", None)) is not None:
                self._follow(wrapped)
            module = value.__globals__.get("__name__")
            if module is None or not _is_fixed(module):  # one made by `exec` may belong to no module
                self._look_at(value)

    def _look_at(self, function: FunctionType) -> None:
        self.code.append(function.__code__)
        variables, attributes = _names_in(function.__code__)
        self._attributes |= attributes
        for name in sorted(variables):
            self._find(function.__globals__, name)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            value = _read(cell, "cell_contents")
            if self._modules.isdisjoint(map(id, leaves_of(value))):  # a value that holds the core would keep it alive
                self._note(cell, "cell_contents", value, f"{function.__qualname__}.{name}")
        for name in ("__defaults__", "__kwdefaults__"):
            value = getattr(function, name)
            if value and not function.__closure__:  # a closure may hold the core
                self._note(function, name, value, function.__qualname__)


def _is_fixed(module: str) -> bool:
    """Whether the contents of a module never change."""
    return is_installed(module) or module.startswith(_PACKAGE)


def _read(owner: Any, name: str) -> Any:
    return owner.get(name) if type(owner) is dict else getattr(owner, name, None)


@cache
def _names_in(code: CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """The global variables that some code names, and the other names in it, which are attributes."""
    variables = {each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "STORE_GLOBAL")}
    attributes = set(code.co_names) - variables
    for part in code.co_consts:
        if isinstance(part, CodeType):
            more_variables, more_attributes = _names_in(part)
            variables |= more_variables
            attributes |= more_attributes
    return frozenset(variables), frozenset(attributes)
