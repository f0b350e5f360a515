"""Generated Triton kernels as differentiable operations on tensors, for one core or a population of them.

Shapes: P members, B sequences of each, T time steps, V symbols.
"""

import hashlib
import importlib.util
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from src.ops.cpu import calls as shared
from src.ops.generated.kernel import Kernel
from src.ops.generated.recipe import GpuLayout, LoweringError, Packed, Record, recipe_folder
from src.ops.inputs import Inputs
from src.ops.triton import calls
from src.specs import state_tensors
from src.utils.files import write_whole


@cache
def _module(source: str) -> ModuleType:
    """Import a source as a module, by way of a file, from which Triton reads it."""
    name = f"step_{hashlib.sha256(source.encode()).hexdigest()[:24]}"
    path = recipe_folder("gpu") / f"{name}.py"
    if not path.is_file() or path.read_text() != source:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, source.encode())
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TritonKernel(Kernel):
    """The compiled step of a core on a GPU."""

    def load(self) -> None:
        """Import the kernels; Triton compiles them when they are first called."""
        if self.has_integers:  # checking that they are still exact would mean waiting for the GPU
            raise LoweringError("an integer state, which kernels for a GPU do not support")
        module = _module(self.recipe.source)
        self.forward, self.backward = module.forward_kernel, module.backward_kernel
        assert self.recipe.gpu is not None
        self.layout: GpuLayout = self.recipe.gpu

    def run(
        self,
        core: nn.Module,
        inputs: Inputs,
        initial: tuple[Tensor | None, ...],
        restart: tuple[Tensor | None, ...],
        return_state: bool,
        return_sequence: bool,
    ) -> tuple[Tensor, ...]:
        """As `Kernel.run`."""
        dtype = next(core.parameters()).dtype
        tables = [inputs.table] if isinstance(inputs.table, Tensor) else state_tensors(inputs.table)
        batch, time = inputs.batch_and_time
        tables = [table.to(dtype) for table in tables]
        self.check(tables, initial, restart, inputs, dtype)
        if any(tensor is not None for tensor in (*initial, *restart)):
            initial, restart = (self._filled(each, batch, tables[0]) for each in (initial, restart))
        given = [*tables, *self.constants(core, dtype), *initial, *restart]
        lead = [None if tensor is None else tensor[None] for tensor in given]
        ids = None if inputs.ids is None else inputs.ids.long()[None]
        resets = None if inputs.resets is None else inputs.resets.to(torch.uint8)[None]
        asked = (time, return_sequence, shared.needs_backward(given))
        outputs, *after = _Recurrence.apply(self, asked, ids, resets, *lead)
        last = after[: len(self.recipe.states)] if return_state else ()
        return (outputs[0], *(tensor[0] for tensor in last))

    def _filled(self, states: tuple[Tensor | None, ...], batch: int, like: Tensor) -> tuple[Tensor | None, ...]:
        zeros = (like.new_zeros(batch, *shape) for shape in self.recipe.states)
        return tuple(zero if state is None else state for state, zero in zip(states, zeros, strict=True))

    def made_of(self, constants: list[Tensor]) -> list[Tensor]:
        """As `Kernel.made_of`, but built at every call, since constants may be mapped by `torch.func.vmap`."""
        return [table.of(constants) for table in self.recipe.tables]

    def pack(self, constants: list[Tensor], direction: int) -> list[Tensor]:
        """The matrices of the products, [P, K, N]."""

        def packed(one: Packed) -> Tensor:
            constant = constants[one.constant]
            strides = (constant[0].numel(), *one.strides)
            return constant.as_strided((len(constant), *one.shape), strides, one.offset).contiguous()

        return [packed(one) for one in self.layout.matrices[direction]]

    def settings(self, initial: list[Tensor | None], return_sequence: bool, direction: int) -> dict[str, Any]:
        """What the compiler needs to know."""
        settings = {"STARTS": len(initial) > 0 and None not in initial, "RETURN_SEQUENCE": return_sequence}
        layout = {"SCRATCH": self.layout.scratch[direction], "num_warps": self.layout.num_warps}
        return settings | layout | {"enable_fp_fusion": True}


class _Recurrence(Function):
    """A kernel on whole sequences; every tensor has a leading dimension of members, and None stands for an absent one.

    Under `torch.func.vmap`, the mapped dimension is merged into that of the members.
    """

    @staticmethod
    def forward(kernel, asked, ids, resets, *given):
        """The outputs [P, B, T, H] or the last one [P, B, H], the last states, and what the backward pass needs."""
        (time, return_sequence, save), recipe, layout = asked, kernel.recipe, kernel.layout
        ids, resets, *tensors = shared.contiguous(ids, resets, *given)
        tables, constants, initial, restart = kernel.parts(tensors)
        members, batch, symbols = _sizes(ids, tables)
        example, lead = tables[0], (members, batch)
        slots = time if save else 2
        outputs = example.new_empty((*lead, time, recipe.output) if return_sequence else (*lead, recipe.output))
        kept = [slots if number in layout.history else 2 for number in range(len(recipe.states))]
        after = [example.new_empty(*lead, n, *shape) for n, shape in zip(kept, recipe.states, strict=True)]
        saved = example.new_empty(*lead, slots, recipe.saved)
        scratch = example.new_empty(*lead, layout.scratch[0])
        kernel.forward[batch, members](
            ids, resets, outputs, saved, scratch, *constants, *kernel.pack(constants, 0), *tables, *initial, *restart,
            *after, batch, time, symbols, slots, **kernel.settings(initial, return_sequence, 0),
        )  # fmt: skip
        last = [states[:, :, (time - 1) % n].contiguous() for states, n in zip(after, kept, strict=True)]
        return outputs, *last, saved, *after

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Save what the backward pass reads."""
        kernel, asked, ids, resets, *given = inputs
        ctx.kernel, ctx.asked, ctx.output_shape = kernel, asked, output[0].shape
        kept = output[1 + len(kernel.recipe.states) :]
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(ids, resets, *given, *kept)

    @staticmethod
    def backward(ctx, d_outputs, *d_last):
        """The gradients of the arguments of `forward`, in the same order."""
        shared.refuse_second_derivative()
        kernel, (time, return_sequence, _) = ctx.kernel, ctx.asked
        recipe, layout, states = kernel.recipe, kernel.layout, len(kernel.recipe.states)
        ids, resets, *tensors = shared.contiguous(*ctx.saved_tensors)
        given, saved, after = tensors[: -1 - states], tensors[-1 - states], tensors[len(tensors) - states :]
        tables, constants, initial, restart = kernel.parts(given)
        members, batch, symbols = _sizes(ids, tables)
        example, lead = tables[0], (members, batch)
        d_outputs = example.new_zeros(ctx.output_shape) if d_outputs is None else d_outputs.contiguous()
        carry = [example.new_zeros(*lead, 2, *shape) for shape in recipe.states]
        for held, end in zip(carry, d_last, strict=False):
            if end is not None:
                held[:, :, 0] = end
        d_restart = kernel.nothing
        if resets is not None:
            d_restart = [example.new_zeros(*lead, *shape) for shape in recipe.states]
        d_inputs = [example.new_empty(*lead, time, *shape) for shape in recipe.inputs]
        records = [example.new_empty(*lead, time, size) for size in layout.records]
        sums = [example.new_zeros(*lead, size) for _, size in layout.sums]
        scratch = example.new_empty(*lead, layout.scratch[1])
        kernel.backward[batch, members](
            ids, resets, d_outputs, saved, scratch, *constants, *kernel.pack(constants, 1), *tables, *initial, *restart,
            *after, *carry, *d_restart, *d_inputs, *records, *sums, batch, time, symbols, time,
            **kernel.settings(initial, return_sequence, 1),
        )  # fmt: skip
        d_constants: list[Tensor | None] = [None] * len(constants)
        arrays = {"d_inputs": d_inputs, "saved": [saved], "records": records}
        written = {number: _product_of_rows(terms, arrays) for number, terms in layout.terms}
        written |= {number: total.sum(1) for (number, _), total in zip(layout.sums, sums, strict=True)}
        for number, total in written.items():
            gradient = recipe.gradients[number]
            d_constants[number] = total.as_strided((members, *gradient.shape), (total[0].numel(), *gradient.strides))
        d_tables = d_inputs
        if ids is not None:
            d_tables = [
                calls.sum_by_id(ids, d.flatten(3), symbols).view(table.shape)
                for d, table in zip(d_inputs, tables, strict=True)
            ]
        started = None not in initial
        d_initial = [held[:, :, time % 2] if started else None for held in carry]
        ended = [d if started else None for d in d_restart]
        return None, None, None, None, *d_tables, *d_constants, *d_initial, *ended

    @staticmethod
    def vmap(info, in_dims, kernel, asked, *given):
        """Run with the mapped dimension merged into that of the members."""
        size = info.batch_size
        merged = [calls.of_members(t, dim, size) for t, dim in zip(given, in_dims[2:], strict=True)]
        time, return_sequence, _ = asked
        asked = (time, return_sequence, shared.needs_backward(merged))
        results = _Recurrence.apply(kernel, asked, *merged)
        return tuple(result.unflatten(0, (size, -1)) for result in results), (0,) * len(results)


def _sizes(ids: Tensor | None, tables: list[Tensor]) -> tuple[int, int, int]:
    """P, B and V."""
    members, batch = (tables[0] if ids is None else ids).shape[:2]
    return members, batch, tables[0].shape[1]


def _product_of_rows(terms: list[tuple[Record, Record]], arrays: dict[str, list[Tensor]]) -> Tensor:
    """The gradient of a matrix, [P, M, N]: the sum of the products of rows over sequences, steps and terms."""

    def rows(record: Record) -> Tensor:
        array = arrays[record.array][record.number]
        members, places = len(array), array.shape[1] * array.shape[2]
        strides = (places * record.size, record.size, *record.strides)
        return array.as_strided((members, places, *record.shape), strides, record.offset).flatten(1, 2)

    total = [torch.bmm(rows(left).mT, rows(right)) for left, right in terms]
    return torch.stack(total).sum(0) if len(total) > 1 else total[0]
