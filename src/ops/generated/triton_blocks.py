"""A loop of a plan as a Triton block.

Each extent is rounded up to a power of two and masked. If the block would be too large, the outermost dimensions are
processed piece by piece.
"""

import math
from collections.abc import Iterator

from src.ops.generated.expressions import TRITON
from src.ops.generated.plan import Loop, Pass
from src.ops.generated.triton_lines import BLOCK, Lines, indented, padded
from src.ops.generated.values import Value, View, contiguous

_STARTS = {"sum": "0.0", "max": 'float("-inf")', "min": 'float("inf")'}
_REDUCED = {"sum": "tl.sum", "max": "tl.max", "min": "tl.min"}
_JOINED = {"sum": "{0} + {1}", "max": "larger({0}, {1})", "min": "smaller({0}, {1})"}


class Block:
    """The lines of one loop.

    Args:
        writer: the writer of the kernel.
        loop: the loop to write.
        work: the pass to which the loop belongs.
    """

    def __init__(self, writer: Lines, loop: Loop, work: Pass):
        self.writer, self.loop, self.work = writer, loop, work
        self.unit = writer.next_unit()
        self.tiles = [padded(extent) for extent in loop.extents]
        for dim in range(len(self.tiles)):
            rest = math.prod(self.tiles[dim + 1 :])
            self.tiles[dim] = min(self.tiles[dim], max(1, BLOCK // rest))
        self.tiled = [tile < extent for tile, extent in zip(self.tiles, loop.extents, strict=True)]
        writer.largest = max(writer.largest, math.prod(self.tiles))
        self.before: list[str] = []
        self.body: list[str] = []
        self.after: list[str] = []

    def index(self, dim: int) -> str:
        """The name of the index along a dimension."""
        return f"i{dim}_{self.unit}"

    def lines(self) -> Iterator[str]:
        """All lines: what comes before the pieces, each piece, and what comes after."""
        for value in self.loop.values:
            self.statement(value)
        if not self.body:
            return
        yield from self.before
        level, depth = 0, len(self.tiles)
        for dim in sorted(range(depth), key=lambda dim: self.tiled[dim]):  # dimensions without pieces come first
            index, around = self.index(dim), ", ".join(":" if d == dim else "None" for d in range(depth))
            arange = f"tl.arange(0, {self.tiles[dim]})" + (f"[{around}]" if depth > 1 else "")
            if self.tiled[dim]:
                yield "    " * level + f"for {index}_first in range(0, {self.loop.extents[dim]}, {self.tiles[dim]}):"
                level += 1
                arange = f"{index}_first + {arange}"
            yield "    " * level + f"{index} = {arange}"
        yield from indented(self.body, level)
        yield from self.after

    def at(self, offset: int, strides: tuple[int, ...]) -> str:
        """The offsets of numbers in memory."""
        terms = [str(offset)] if offset else []
        for dim, stride in enumerate(strides):
            if stride:
                terms.append(self.index(dim) if stride == 1 else f"{stride} * {self.index(dim)}")
        return " + ".join(terms) or "0"

    def mask(self, strides: tuple[int, ...]) -> str:
        """The condition for places along these dimensions to exist; empty if all do."""
        sizes = zip(strides, self.tiles, self.loop.extents, strict=True)
        inside = [f"({self.index(d)} < {size})" for d, (s, tile, size) in enumerate(sizes) if s and size % tile]
        return " & ".join(inside)

    def read(self, value: Value, operand: View | float) -> str:
        """The expression for an operand of a value."""
        writer, work = self.writer, self.work
        if not isinstance(operand, View):
            return writer.number(operand)
        own, along = operand.value, operand.along()
        if own.selects and work._in_register(value, operand):
            assert own.table is not None
            source = own.operands[0]
            assert isinstance(source, View)
            place = self.load(own.table, self.at(operand.offset, along), along)
            return self.load(source.value, place, along)
        if value.table is not None and value.kind == "map":
            loops = contiguous(value.loops)
            place = self.load(value.table, self.at(0, loops), loops)
            return self.load(own, place, loops)
        if own.kind != "constant" and work._in_register(value, operand):
            return writer.register(own)
        return self.load(own, self.at(operand.offset, along), along)

    def load(self, value: Value, place: str, strides: tuple[int, ...]) -> str:
        """The expression that reads numbers from memory."""
        index = next((self.index(dim) for dim, stride in enumerate(strides) if stride), "")
        return self.writer.load(value, place, self.mask(strides), index)

    def store(self, name: str, place: str, number: str, strides: tuple[int, ...]) -> str:
        """The statement that writes numbers to memory."""
        mask = self.mask(strides)
        return f"tl.store({name} + {place}, {number}" + (f", mask={mask})" if mask else ")")

    def statement(self, value: Value) -> None:
        """Add the lines of one value."""
        writer, work = self.writer, self.work
        if value.selects and value not in work.memory:
            return
        read = [self.read(value, operand) for operand in value.operands]
        place = self.at(0, value.strides)
        if value.kind == "map":
            number = writer.register(value)
            self.body.append(f"{number} = {TRITON[value.operation].format(*read)}")
            if value in work.memory:
                stored = f"{number}.to({writer.scalar})" if value.boolean else number
                self.body.append(self.store(writer.name(value), place, stored, value.strides))
        elif value.target:
            operand = value.operands[0]
            if isinstance(operand, View) and work.inside.get(operand.value) == value.target:
                return
            join, offset = value.target
            self.body.append(self.store(writer.name(join), self.at(offset, value.strides), read[0], value.strides))
        elif value.kind == "total":
            at, total = writer.name(value), writer.register(value)
            self.body.append(f"{total} = {self.load(value, place, value.strides)} + {read[0]}")
            self.body += ["tl.debug_barrier()", self.store(at, place, total, value.strides)]
        elif value.table is not None:
            self.scatter(value, " * ".join(read))
        else:
            self.reduction(value, " * ".join(read))

    def reduction(self, value: Value, term: str) -> None:
        """Add the lines of a sum, maximum or minimum over some of the dimensions."""
        writer, number = self.writer, self.writer.register(value)
        start, reduced, joined = _STARTS[value.operation], _REDUCED[value.operation], _JOINED[value.operation]
        summed = [dim for dim, stride in enumerate(value.strides) if stride == 0]
        in_pieces = any(self.tiled[dim] for dim in summed)
        everywhere = tuple(1 for _ in self.tiles)
        part, inside = f"{number}_part", self.mask(everywhere)
        self.body.append(f"{part} = tl.broadcast_to({term}, {self.tiles})")
        if inside:
            self.body.append(f"{part} = tl.where({inside}, {part}, {start})")
        place = self.at(0, value.strides)
        if len(summed) == len(self.tiles):
            self.body.append(f"{part} = {reduced}({part})")
            shape = "()"
        else:
            self.body += [f"{part} = {reduced}({part}, axis={dim}, keep_dims=True)" for dim in summed]
            shape = str([1 if dim in summed else tile for dim, tile in enumerate(self.tiles)])
        stored = self.store(writer.name(value), place, number, value.strides)
        kept_in_pieces = any(tiled and dim not in summed for dim, tiled in enumerate(self.tiled))
        if not in_pieces:
            self.body.append(f"{number} = {part}")
            if value in self.work.memory:
                self.body.append(stored)
        elif not kept_in_pieces:
            self.before.append(f"{number} = tl.full({shape}, {start}, {writer.scalar})")
            self.body.append(f"{number} = {joined.format(number, part)}")
            if value in self.work.memory:
                self.after.append(stored)
        else:
            fill = writer.in_pieces(
                f"{number}_at",
                value.size,
                [f"tl.store({writer.name(value)} + {number}_at, {start}, mask={number}_at < {value.size})"],
            )
            self.before += [*fill, "tl.debug_barrier()"]
            known = self.load(value, place, value.strides)
            self.body += ["tl.debug_barrier()", f"{number} = {joined.format(known, part)}"]
            self.body += ["tl.debug_barrier()", stored]

    def scatter(self, value: Value, term: str) -> None:
        """Add the lines of a sum at the indices of a table.

        The terms are written to memory, then added up index by index, in order.
        """
        writer, number = self.writer, self.writer.register(value)
        assert value.table is not None
        terms = writer.terms.setdefault(value, f"{number}_terms_")
        loops, count, size = contiguous(value.loops), math.prod(value.loops), value.size
        everywhere = tuple(1 for _ in self.tiles)
        self.body.append(self.store(terms, self.at(0, loops), term, everywhere))
        wide = min(padded(size), BLOCK)
        deep = min(padded(count), BLOCK // wide)
        writer.largest = max(writer.largest, wide * deep)
        j, i, to = f"{number}_j", f"{number}_k", f"{number}_to"
        self.after += [
            "tl.debug_barrier()",
            f"for {j}_first in range(0, {size}, {wide}):",
            f"    {j} = {j}_first + tl.arange(0, {wide})",
            f"    {number} = tl.zeros(({wide},), {writer.scalar})",
            f"    for {i}_first in range(0, {count}, {deep}):",
            f"        {i} = {i}_first + tl.arange(0, {deep})",
            f"        {to} = tl.load({writer.name(value.table)} + {i}, mask={i} < {count}, other=-1)",
            f"        {number}_x = tl.load({terms} + {i}, mask={i} < {count}, other=0.0)",
            f"        {number} += tl.sum(tl.where({to}[:, None] == {j}[None, :], {number}_x[:, None], 0.0), axis=0)",
            f"    tl.store({writer.name(value)} + {j}, {number}, mask={j} < {size})",
        ]
