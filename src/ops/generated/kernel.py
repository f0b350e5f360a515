"""Generated kernels as differentiable operations on tensors.

Shapes: B sequences, T time steps, V symbols.
"""

import ctypes
import math
from itertools import accumulate
from operator import attrgetter
from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor, nn
from torch.autograd import Function

from src.ops.cpu import build, calls
from src.ops.generated.recipe import Recipe, compute_constants, example, tensors_of
from src.ops.inputs import Inputs
from src.specs import state_tensors

SAVED_AT_MOST = 8 * calls.ALWAYS_NEW if calls.LARGE_PAGES else calls.ALWAYS_NEW
"""Maximum number of bytes that a forward pass saves; above it, the backward pass recomputes steps in segments of 16.

Measured: from about this size, that is faster, since fresh memory is slow; from a quarter of it if a step has few
multiplications.
"""
_SEGMENT = 16  # steps, as in csrc


class Passes(NamedTuple):
    """The functions of a library."""

    forward: Any
    backward: Any
    lanes: int | None
    """Sequences per block; None for as many as a vector has numbers."""


def _passes_of(library: ctypes.CDLL, lanes: int | None = None) -> Passes:
    for function in (library.forward, library.backward):
        function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_void_p], ctypes.c_int
    return Passes(library.forward, library.backward, lanes)


class Kernel:
    """A compiled step of a core."""

    def __init__(self, recipe: Recipe, core: nn.Module):
        self.recipe, self.name = recipe, type(core).__name__
        self.counts = (len(recipe.inputs), len(recipe.constants) + len(recipe.tables), len(recipe.states))
        self.nothing = (None,) * len(recipe.states)
        states, self.structure = optree.tree_flatten(example(core)[1])
        self.state_dtypes = [None if state.is_floating_point() else state.dtype for state in states]
        self.has_integers = any(self.state_dtypes)
        self.tensors = [attrgetter(name) for name in tensors_of(core)]
        self.read = None
        if not recipe.prelude:
            self.read = [self.tensors[int(name.removeprefix("$"))] for name in recipe.constants]
        self.indices = sorted({at[0] for table in recipe.tables for at in table.indices if at is not None})
        """The constants from which tables are built."""
        self.made: tuple[list[tuple[Tensor, int]], list[Tensor]] = ([], [])
        """These constants with their versions, and the tables that were built from them."""
        self.sizes_per_step = recipe.history + recipe.saved, recipe.history, sum(map(math.prod, recipe.states))
        self.load()

    def load(self) -> None:
        """Compile the source, and load the library."""
        recipe = self.recipe
        self.passes = _passes_of(build.step_library(recipe.source, self.name))
        self.passes_of_one: Passes | None = None
        self.sizes = (ctypes.c_int64 * max(1, len(recipe.sizes)))(*recipe.sizes)
        self.numbers = (ctypes.c_double * max(1, len(recipe.numbers)))(*recipe.numbers)
        self.tables = (ctypes.addressof(self.sizes), ctypes.addressof(self.numbers))
        self.gradients = dict(enumerate(recipe.gradients, len(recipe.inputs)))

    def passes_for(self, batch: int, itemsize: int) -> Passes:
        """The passes for a batch of this size; those for one sequence at a time are compiled when first needed."""
        if not calls.one_by_one(batch, itemsize):
            return self.passes
        if self.passes_of_one is None:
            library = build.one_lane_step_library(self.recipe.source, self.name)
            self.passes_of_one = self.passes if library is None else _passes_of(library, lanes=1)
        return self.passes_of_one

    def constants(self, core: nn.Module, dtype: torch.dtype) -> list[Tensor]:
        """The constants that the step reads, from parameters, buffers and variable settings."""
        if self.read is not None:
            found = [read(core) for read in self.read]
        else:
            found = compute_constants(self.recipe, [read(core) for read in self.tensors])
        for constant, shape in zip(found, self.recipe.shapes, strict=True):
            if constant.shape != shape:
                raise ValueError(f"{self.name}: a parameter of shape {list(constant.shape)}: expected {list(shape)}")
        numbers = [c if c.dtype == dtype else c.to(dtype) for c in found]
        return [*numbers, *self.made_of(found)] if self.indices else numbers

    def made_of(self, constants: list[Tensor]) -> list[Tensor]:
        """The tables of offsets, rebuilt only if indices have changed, since that takes 0.1 ms."""
        read = [constants[number] for number in self.indices]
        if any(tensor.is_inference() for tensor in read):  # these do not record whether they have changed
            return [table.of(constants) for table in self.recipe.tables]
        before, tables = self.made
        if [(id(tensor), tensor._version) for tensor in read] != [(id(tensor), version) for tensor, version in before]:
            with torch.inference_mode(False):  # they are kept for calls that save them for a backward pass
                tables = [table.of(constants) for table in self.recipe.tables]
            self.made = [(tensor, tensor._version) for tensor in read], tables
        return tables

    def saved_size(self, batch: int, time: int, itemsize: int, lanes: int | None) -> tuple[int, bool]:
        """The size of the saved tensor, and whether every step is saved; as `saved_per_block` of recurrence.cpp."""
        lanes = lanes or calls.vector_bytes() // itemsize
        per_step, history, state = self.sizes_per_step
        padded = -(-batch // lanes) * lanes
        size = padded * (time * per_step + history)
        multiplies_little = self.recipe.products < 16 * per_step
        if size * itemsize <= SAVED_AT_MOST / (4 if multiplies_little else 1):
            return size, True
        return padded * -(-time // _SEGMENT) * state, False

    def run(
        self,
        core: nn.Module,
        inputs: Inputs,
        initial: tuple[Tensor | None, ...],
        restart: tuple[Tensor | None, ...],
        return_state: bool,
        return_sequence: bool,
    ) -> tuple[Tensor, ...]:
        """Outputs [B, T, H], or the last one [B, H], followed by the states at the end if requested."""
        tables = [inputs.table] if isinstance(inputs.table, Tensor) else state_tensors(inputs.table)
        dtype = tables[0].dtype
        if torch.is_autocast_enabled("cpu"):  # under which some of them may have another dtype
            tables = [table.to(dtype) for table in tables]
        batch, time = inputs.batch_and_time
        self.check(tables, initial, restart, inputs, dtype)
        if self.has_integers:
            initial, restart = self._numbers(initial, dtype), self._numbers(restart, dtype)
        given = (*tables, *self.constants(core, dtype), *initial, *restart)
        save = calls.needs_backward(given)
        ids = None if inputs.ids is None else inputs.ids.long()
        resets = None if inputs.resets is None else inputs.resets.bool()
        asked = return_state or self.has_integers, return_sequence, save  # integers are always checked
        results = _Recurrence.apply(self, (batch, time), asked, ids, resets, *given)
        if not isinstance(results, tuple):
            return (results,)
        if not self.has_integers:
            return results
        last = tuple(map(self._integers, results[1:], self.state_dtypes))
        return (results[0], *last) if return_state else results[:1]

    def _numbers(self, states: tuple[Tensor | None, ...], dtype: torch.dtype) -> tuple[Tensor | None, ...]:
        """States as the kernel holds them: integers as floating-point numbers, which are exact up to a limit."""
        kinds = self.state_dtypes
        return tuple(
            s if s is None or kind is None else self._exact(s.to(dtype)) for s, kind in zip(states, kinds, strict=True)
        )

    def _integers(self, state: Tensor, kind: torch.dtype | None) -> Tensor:
        return state if kind is None else self._exact(state).to(kind)

    def _exact(self, state: Tensor) -> Tensor:
        exact = round(2 / torch.finfo(state.dtype).eps) - 1
        if state.numel() and not state.abs().max() <= exact:  # or nan
            what = f"an integer state beyond {exact:,}, which {state.dtype} cannot represent exactly"
            raise OverflowError(f"{self.name}: {what}; use model.kernel=reference")
        return state

    def check(
        self,
        tables: list[Tensor],
        initial: tuple[Tensor | None, ...],
        restart: tuple[Tensor | None, ...],
        inputs: Inputs,
        dtype: torch.dtype,
    ) -> None:
        """Raise `ValueError` if the tensors are not what the kernel expects."""
        lead = 2 if inputs.ids is None else 1
        for table, shape in zip(tables, self.recipe.inputs, strict=True):
            calls.check("inputs", table, (*tables[0].shape[:lead], *shape), dtype)
        if inputs.resets is not None and inputs.resets.shape != inputs.batch_and_time:
            expected = f"expected {list(inputs.batch_and_time)}"
            raise ValueError(f"resets of shape {list(inputs.resets.shape)}: {expected}")
        for states in (initial, restart):
            for tensor, shape, kind in zip(states, self.recipe.states, self.state_dtypes, strict=True):
                if tensor is not None:
                    calls.check("state", tensor, (inputs.batch_and_time[0], *shape), kind or dtype)

    def parts(self, given: list[Any]) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
        """The tensors of a call: inputs, constants, states at the start, and states after a reset."""
        inputs, constants, states = self.counts
        ends = list(accumulate([inputs, constants, states, states]))
        return given[: ends[0]], given[ends[0] : ends[1]], given[ends[1] : ends[2]], given[ends[2] :]

    def call(self, function: Any, whole: tuple[int, ...], tensors: list[Tensor | None]) -> int:
        """Call a library function with integers and tensors, in the order of `Call` of csrc/step.h."""
        addresses = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
        numbers = (ctypes.c_int64 * 9)(*whole, *self.counts)
        return calls.enter(function, numbers, (ctypes.c_void_p * (2 + len(addresses)))(*self.tables, *addresses))


class _Recurrence(Function):
    """A kernel on whole sequences; None stands for a state that is zero."""

    @staticmethod
    def forward(ctx, kernel, sizes, asked, *given):
        ids, resets, *tensors = calls.contiguous(*given)
        (batch, time), (return_state, return_sequence, save) = sizes, asked
        example, recipe = tensors[0], kernel.recipe
        outputs = example.new_empty((batch, time, recipe.output) if return_sequence else (batch, recipe.output))
        last = [example.new_empty(batch, *shape) for shape in recipe.states] if return_state else kernel.nothing
        passes = kernel.passes_for(batch, itemsize := example.element_size())
        size, every_step = kernel.saved_size(batch, time, itemsize, passes.lanes)
        saved = calls.room(example, size) if save else None
        whole = (batch, time, len(example), torch.get_num_threads(), return_sequence, every_step)
        ended = kernel.call(passes.forward, whole, [ids, resets, outputs, saved, None, *tensors, *last])
        calls.check_exit(ended, kernel.name, batch, time, ids, len(example))
        ctx.kernel, ctx.passes, ctx.whole = kernel, passes, whole
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(ids, resets, saved, *tensors)
        return (outputs, *last) if return_state else outputs

    @staticmethod
    def backward(ctx, d_outputs, *d_last):
        """The gradients of the arguments of `forward`, in the same order."""
        calls.refuse_second_derivative()
        kernel, whole = ctx.kernel, ctx.whole
        ids, resets, saved, *given = ctx.saved_tensors
        gradients = kernel.gradients
        d_given: list[Tensor | None] = []
        for number, (tensor, wanted) in enumerate(zip(given, ctx.needs_input_grad[5:], strict=True)):
            if not wanted or (number in gradients and gradients[number] is None):
                d_given.append(None)
            elif number in gradients:
                d_given.append(saved.new_empty(gradients[number].written))
            else:
                d_given.append(torch.empty_like(tensor))
        d_outputs, *d_ends = calls.contiguous(d_outputs, *(d_last or kernel.nothing))
        tensors = [ids, resets, None, saved, d_outputs, *given, *kernel.nothing, *d_ends, *d_given]
        calls.check_exit(kernel.call(ctx.passes.backward, whole, tensors), kernel.name, whole[0], whole[1], None, 0)
        for number, gradient in gradients.items():
            if (written := d_given[number]) is not None:
                d_given[number] = written.as_strided(gradient.shape, gradient.strides)
        return None, None, None, None, None, *d_given
