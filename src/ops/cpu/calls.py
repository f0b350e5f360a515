"""Helpers shared by all calls to compiled kernels."""

import ctypes
import mmap
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from src.ops.cpu.build import library
from src.ops.inputs import Inputs

DTYPES = (torch.float32, torch.float64)
_WRONG_IDS, _OUT_OF_MEMORY = 1, 2  # as in `Exit` of csrc/step.h
ALWAYS_NEW = 32 * 2**20
"""Bytes from which an allocation always gets fresh memory from the system, which is slow to write the first time."""
_LARGE_PAGE = 2 * 2**20


def _large_pages() -> bool:
    """Whether the system provides memory in pages of 2 MB on request."""
    try:
        setting = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return False
    return hasattr(mmap, "MADV_HUGEPAGE") and "[never]" not in setting


LARGE_PAGES = _large_pages()


def not_compiled(function: Callable) -> Callable:
    """`torch.compiler.disable`, applied only while compiling: importing torch's compiler takes a second."""

    @wraps(function)
    def call(*arguments: Any, **settings: Any) -> Any:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*arguments, **settings)
        return function(*arguments, **settings)

    return call


@not_compiled
def _usable() -> bool:
    """Whether the kernels exist and no torch.func transform or forward-mode derivative is active; they support neither.

    Hidden from torch.compile, which can trace neither a library nor a cache.
    """
    transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    return not transformed and library() is not None


def available(inputs: Inputs | Tensor) -> bool:
    """Whether compiled kernels can compute these inputs; compiles the hand-written ones if necessary."""
    tensor = inputs if isinstance(inputs, Tensor) else inputs.example
    return tensor.is_cpu and tensor.dtype in DTYPES and _usable()


def room(like: Tensor, size: int) -> Tensor:
    """Memory for `size` numbers, in large pages if it is fresh: the first write to these takes half as long."""
    tensor = like.new_empty(size)
    num_bytes = size * like.element_size()
    if LARGE_PAGES and num_bytes >= ALWAYS_NEW:
        start, end = tensor.data_ptr() + _LARGE_PAGE - 1, tensor.data_ptr() + num_bytes
        start, end = start - start % _LARGE_PAGE, end - end % _LARGE_PAGE
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_HUGEPAGE)
    return tensor


def needs_backward(given: Iterable[Tensor | None]) -> bool:
    """Whether a backward pass may follow, which cannot be determined inside `forward`."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in given)


def vector_bytes() -> int:
    """Bytes of a SIMD vector of this processor, for which the kernels were compiled."""
    found = library()
    assert found is not None
    return found.vector_bytes()


def one_by_one(batch: int, itemsize: int) -> bool:
    """Whether a batch is small enough to be computed one sequence at a time rather than in vector lanes.

    A small batch fills at most a quarter of the lanes. Measured with 100 units: from there on, lanes are about as fast.
    """
    return 4 * batch * itemsize <= vector_bytes()


def enter(function: Any, *arguments: Any) -> int:
    """Call a library function."""
    return function(*arguments)


def check_exit(ended: int, what: str, batch: int, time: int, ids: Tensor | None, symbols: int) -> None:
    """Raise the error that a kernel reported, if any.

    Raises:
        IndexError: an id does not belong to any row of the table.
        MemoryError: the kernel could not allocate memory.
    """
    if ended == _WRONG_IDS and ids is not None:
        least, greatest = ids.aminmax()
        raise IndexError(f"ids from {least} to {greatest}: must be from 0 to {symbols - 1}, the rows of the table")
    if ended == _OUT_OF_MEMORY:
        raise MemoryError(f"{what}: not enough memory for {batch} sequences of {time} steps")


def contiguous(*tensors: Tensor | None) -> list[Any]:
    """The tensors in contiguous memory, as a kernel reads them."""
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def check(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raise `ValueError` for another shape or dtype, instead of reading past the end of a tensor."""
    if tensor.shape != shape or tensor.dtype != dtype:
        raise ValueError(f"{name} of shape {list(tensor.shape)} in {tensor.dtype}: expected {list(shape)} in {dtype}")


def refuse_second_derivative() -> None:
    """Raise `RuntimeError` if a backward pass is itself being differentiated; cheaper than `once_differentiable`."""
    if torch.is_grad_enabled():
        raise RuntimeError("the kernels have no second derivative; use model.kernel=vectorized")
