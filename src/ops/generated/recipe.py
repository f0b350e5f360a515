"""Everything needed to run a generated kernel, as data that can be kept on disk.

Tracing takes seconds, so a recipe that has been checked is kept beside the compiled libraries. Its key covers the sizes
and settings of the core, what its step reads elsewhere, and the content of every source file that the step may reach,
except those of Python and of installed packages: a step may call anything.
"""

import hashlib
import json
import linecache
import logging
import sys
from dataclasses import field
from pathlib import Path
from types import CodeType, ModuleType, NoneType
from typing import Any, cast

import optree
import torch
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from src.ops.cpu import build
from src.ops.generated.reads import Reads
from src.ops.generated.settings import INSTALLED, OF_ALL_CORES, OF_ALL_MODULES, is_variable, tensors_of
from src.utils.files import write_whole

log = logging.getLogger(__name__)
Sizes = tuple[int, ...]


class LoweringError(Exception):
    """A step for which no kernel can be generated; the message names the operation.

    Args:
        line: the line of the step's file in which the operation is used; None if it is unknown.
        lasting: whether another process could not generate a kernel either.
        sets: the names of the attributes that the step changes.
    """

    def __init__(
        self, message: str, line: int | None = None, lasting: bool = True, sets: frozenset[str] = frozenset()
    ) -> None:
        super().__init__(message)
        self.line = line
        self.lasting = lasting
        self.sets = sets


def with_place(core: Any, reason: str, line: int | None) -> str:
    """Why there is no kernel, with the line of the step."""
    if line is None:
        return reason
    file = type(core).step.__code__.co_filename
    return f"{reason} in line {line} of {file}: {linecache.getline(file, line).strip()}"


def _shared(core: nn.Module) -> tuple[int, ...]:
    """Which parameters, buffers and variable settings are one tensor: each gets the number of its first occurrence.

    A kernel reads a tensor by the first of its names.
    """
    numbers: dict[int, int] = {}
    tensors: list[Tensor | None] = []
    for module in core.modules():
        tensors += [
            *module._parameters.values(),
            *module._buffers.values(),
            *filter(is_variable, vars(module).values()),
        ]
    return tuple(numbers.setdefault(id(tensor), len(numbers)) for tensor in tensors)


def example(core: Any) -> tuple[Any, Any]:
    """What `project` and `initial_state` return for one sequence."""
    with torch.no_grad():
        parameter = next(core.parameters())
        return core.project(parameter.new_zeros(1, core.input_size)), core.initial_state(1)


@dataclass
class Gradient:
    """The gradient of a constant: the shape that the kernel writes, and how the constant is laid out in it."""

    written: Sizes
    strides: Sizes
    shape: Sizes


@dataclass
class Instruction:
    """One operation of the prelude; a string "$name" among its arguments stands for an earlier result."""

    name: str
    operator: str
    arguments: list[Any]
    keywords: dict[str, Any]


@dataclass(frozen=True)
class Offsets:
    """A table of offsets, which torch computes from constant indices: where an indexed view finds its numbers."""

    size: int
    """The size of the value that is viewed."""
    layout: tuple[int, Sizes, Sizes]
    """Offset, strides and shape of the view that is indexed."""
    indices: tuple[tuple[int, int, Sizes, Sizes] | None, ...]
    """For each dimension, the number of the constant, its offset, strides and shape; None for the whole dimension."""

    def of(self, constants: list[Tensor]) -> Tensor:
        """The table, from the values of the constants."""
        offset, strides, shape = self.layout
        positions = torch.arange(max(1, self.size), device=constants[0].device).as_strided(shape, strides, offset)
        at: list[Any] = [slice(None)] * len(self.indices)
        for dim, index in enumerate(self.indices):
            if index is not None:
                number, start, index_strides, index_shape = index
                given = constants[number].contiguous()
                at[dim] = given.as_strided(index_shape, index_strides, given.storage_offset() + start)
        return positions[tuple(at)].contiguous()


@dataclass(frozen=True)
class Packed:
    """A matrix [K, N] of a product on a GPU: its place in a constant."""

    constant: int
    offset: int
    strides: Sizes
    shape: Sizes


@dataclass(frozen=True)
class Record:
    """The K rows of a step that are a factor of the gradient of a matrix, and where they are stored."""

    array: str
    """"d_inputs", "saved" or "records"."""
    number: int
    size: int
    """How many numbers the array has per step."""
    offset: int
    shape: Sizes
    strides: Sizes


@dataclass(frozen=True)
class GpuLayout:
    """What the kernels for a GPU are called with."""

    matrices: tuple[list[Packed], list[Packed]]
    """The matrices of the forward pass, then of the backward pass; `scratch` has the same order."""
    scratch: tuple[int, int]
    """How many numbers of scratch memory a step needs."""
    history: list[int]
    """Indices of the states that are kept at every step."""
    records: list[int]
    """Sizes of the values whose rows are kept."""
    terms: list[tuple[int, list[tuple[Record, Record]]]]
    """For each constant that is a matrix, its number, and pairs of factors whose products add up to its gradient."""
    sums: list[tuple[int, int]]
    """For each constant whose gradient is a plain sum, its number and its size."""
    num_warps: int


@dataclass
class Recipe:
    """A kernel before it is compiled."""

    refused: str | None = None
    """Why there is no kernel; the step's file is not named, since it may be moved while the recipe is kept."""
    line: int | None = None
    """The line in that file."""
    source: str = ""
    sizes: list[int] = field(default_factory=list)
    numbers: list[float] = field(default_factory=list)
    inputs: list[Sizes] = field(default_factory=list)
    """Shapes of the inputs of one sequence; `states` has those of its states, and `output` the size of its output."""
    states: list[Sizes] = field(default_factory=list)
    output: int = 0
    starts_at_zero: bool = True
    """Whether the initial state is always zero rather than, for example, a parameter."""
    history: int = 0
    """How many numbers of the states are saved at every step; `saved` counts the other numbers."""
    saved: int = 0
    products: int = 0
    """Multiplications by weights in a step."""
    shapes: list[Sizes] = field(default_factory=list)
    """Shapes of the constants."""
    constants: list[str] = field(default_factory=list)
    """Names of parameters, buffers, variable settings and results of the prelude."""
    prelude: list[Instruction] = field(default_factory=list)
    tables: list[Offsets] = field(default_factory=list)
    gradients: list[Gradient | None] = field(default_factory=list)
    """The gradients of the constants; None for those without one."""
    gpu: GpuLayout | None = None
    """None for a kernel on the CPU."""


RECIPE: Any = TypeAdapter(Recipe)


def compute_constants(recipe: Recipe, tensors: list[Tensor]) -> list[Tensor]:
    """Compute the constants of a core from its `tensors_of`."""
    results: dict[str, Any] = {str(number): tensor for number, tensor in enumerate(tensors)}
    device = tensors[0].device

    def resolved(argument: Any) -> Any:
        return results[argument[1:]] if isinstance(argument, str) and argument.startswith("$") else argument

    for each in recipe.prelude:
        written: Any = (each.arguments, each.keywords)
        arguments, keywords = cast(Any, optree.tree_map(resolved, written, none_is_leaf=True))
        if each.operator == "tensor":
            results[each.name] = torch.tensor(arguments[0], dtype=getattr(torch, arguments[1]), device=device)
        elif each.operator == "item":
            results[each.name] = arguments[0][arguments[1]]
        else:
            _, packet, overload = each.operator.split(".")
            function = getattr(getattr(torch.ops.aten, packet), overload)
            if any(argument.name == "device" for argument in function._schema.arguments):
                keywords = keywords | {"device": device}
            results[each.name] = function(*arguments, **keywords)
    return [results[name.removeprefix("$")] for name in recipe.constants]


def stored(core: nn.Module, dtype: torch.dtype, on: str) -> Recipe | None:
    """The recipe for a "cpu" or "gpu" that is kept on disk; None if there is none or it is damaged."""
    key = _key(core, dtype, on)
    if key is None:
        return None
    try:
        digest, content = (recipe_folder(on) / f"{key}.json").read_text().split("\n", 1)
        if digest == hashlib.sha256(content.encode()).hexdigest():
            return RECIPE.validate_json(content)
    except (OSError, ValueError, ValidationError):
        pass
    return None


def store(core: nn.Module, dtype: torch.dtype, on: str, recipe: Recipe) -> None:
    """Keep a recipe on disk, if its core has nothing but plain settings."""
    key = _key(core, dtype, on)
    if key is None:
        return
    try:
        content = json.dumps(RECIPE.dump_python(recipe))
        path = recipe_folder(on) / f"{key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, f"{hashlib.sha256(content.encode()).hexdigest()}\n{content}".encode())
    except (OSError, ValueError, TypeError) as error:
        log.debug("the recipe of %s is not kept: %s", type(core).__name__, error)


def recipe_folder(on: str) -> Path:
    """Where recipes are kept; those for a GPU do not need a C++ compiler."""
    return build.cache_root() / "fastweights_triton" if on == "gpu" else build.cache_folder() / "recipes"


def _key(core: nn.Module, dtype: torch.dtype, on: str) -> str | None:
    """A hash of everything that a recipe depends on; None if part of that has no written form."""
    parts = [torch.__version__, str(dtype), on]
    try:
        parts.append(_sources(core))
        for name, module in core.named_modules():
            if "<" in type(module).__qualname__:  # a class defined in a function, whose variables it may use
                raise ValueError(type(module))
            parts.append(f"{name}: {type(module).__module__}.{type(module).__qualname__}")
            no_settings = OF_ALL_CORES if module is core else OF_ALL_MODULES
            for key, value in sorted(vars(module).items()):
                if key not in no_settings:
                    parts.append(f"{key}={value.requires_grad if is_variable(value) else _settings(value)}")
        parts += [f"{name} {tuple(t.shape)} {t.dtype}" for name, t in tensors_of(core).items()]
        parts.append(repr(_shared(core)))
        reads = Reads(core)
        parts += [f"{name}={_settings(value)}" for name, value in reads.named()]
        parts += map(_written, reads.code)  # a file may have been edited since it was imported
    except ValueError:
        return None
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def _written(code: CodeType) -> str:
    """Compiled code in the same form in every process."""

    def constant(value: Any) -> str:
        if isinstance(value, CodeType):
            return _written(value)
        return repr(sorted(value, key=repr) if isinstance(value, frozenset) else value)

    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    return repr((code.co_code, names, list(map(constant, code.co_consts))))


def _settings(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_settings, value))}]"
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.device)):
        return repr(value)
    if isinstance(value, dict):
        return _settings([(key, value[key]) for key in value])
    is_bound = not isinstance(getattr(value, "__self__", None), (ModuleType, NoneType))
    if callable(value) and hasattr(value, "__qualname__") and "<" not in value.__qualname__ and not is_bound:
        return f"{value.__module__}.{value.__qualname__}"
    raise ValueError(value)


def _sources(core: nn.Module) -> str:
    """A hash of the sources of this package and of everything a step may call, except Python and installed packages.

    These are the modules of the core's classes, the modules that those import or import from, and so on.
    """
    left = {type(module).__module__ for module in core.modules()}
    files = {str(path): path.read_bytes() for path in Path(__file__).parent.glob("*.py")}
    while left:
        module = sys.modules[left.pop()]
        file = getattr(module, "__file__", None)
        if file is None and module.__name__ not in sys.builtin_module_names:
            raise ValueError(f"{module.__name__} has no file")
        if file is None or file in files or file.startswith(INSTALLED):
            continue
        files[file] = Path(file).read_bytes()
        for value in vars(module).values():
            name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(name, str) and name in sys.modules:
                left.add(name)
    return hashlib.sha256(b"".join(files[file] for file in sorted(files))).hexdigest()
