"""Building blocks for the lines of a generated Triton kernel: names, numbers, memory reads, and products.

Shapes: K rows and N columns of a matrix.
"""

import math
from collections.abc import Iterator

from src.ops.generated.names import Names
from src.ops.generated.plan import Plan
from src.ops.generated.values import Value, View

BLOCK = 8192
"""Maximum size, in numbers, of a block that a program processes at once."""
IN_REGISTERS = 16384
"""Maximum size, in numbers, of the matrices that a program holds in registers."""


def padded(number: int) -> int:
    """The number rounded up to a power of two."""
    return 1 << (number - 1).bit_length()


def indented(lines: list[str], level: int) -> list[str]:
    """The lines, indented by a number of levels."""
    return ["    " * level + line for line in lines]


def literal(number: float) -> str:
    """A number as a literal in Triton."""
    return repr(number) if math.isfinite(number) else f'float("{number}")'


class Lines(Names):
    """Writes parts of the two kernels of a plan, one kernel after the other.

    Args:
        plan: the plan of the kernels.
        scalar: "float32" or "float64".
    """

    def __init__(self, plan: Plan, scalar: str):
        super().__init__()
        self.plan, self.scalar = plan, f"tl.{scalar}"
        self.numbers: dict[float, str] = {}
        """The names of the numbers in this kernel, each of which is created once."""
        self.matrices: dict[tuple[View, bool], str] = {}
        """The names of the matrices in products, each with whether it belongs to the backward pass."""
        self.terms: dict[Value, str] = {}
        """The names of memory for terms that are added up at the indices of a table."""
        self.units = 0
        self.largest = 1
        """Numbers in the largest block."""
        self.backward = False
        self.conditions: dict[Value, str] = {}
        """Values that may be absent at a step, and the name of the condition for their presence."""

    def number(self, number: float) -> str:
        """A number in the precision of the kernel."""
        return self.numbers.setdefault(number, f"x{len(self.numbers)}")

    def next_unit(self) -> int:
        """A number for the names of indices: Triton requires different names for different shapes."""
        self.units += 1
        return self.units

    def load(self, value: Value, place: str, mask: str, index: str) -> str:
        """The expression that loads numbers; `index` is one of the indices in `place`, empty for a single number."""
        conditions = [f"({mask})"] if mask else []
        condition = self.conditions.get(value)
        if condition:  # Triton's interpreter cannot combine the mask of a block with that of a single number
            conditions.append(f"({index} < {condition}_below)" if index else condition)
        masked = f", mask={' & '.join(conditions)}, other=0" if conditions else ""
        loaded = f"tl.load({self.name(value)} + {place}{masked})"
        if condition == "known":  # an id outside the table
            loaded = f"tl.where(known, {loaded}, float('nan'))"
        return f"({loaded} != 0)" if value.boolean else loaded

    def in_pieces(self, at: str, size: int, lines: list[str]) -> list[str]:
        """The lines, with an index `at` that runs through all places, piece by piece if needed."""
        if padded(size) <= BLOCK:
            return [f"{at} = tl.arange(0, {padded(size)})", *lines]
        head = [f"for {at}_first in range(0, {size}, {BLOCK}):", f"    {at} = {at}_first + tl.arange(0, {BLOCK})"]
        return [*head, *indented(lines, 1)]

    def copied(self, value: Value, to: str) -> list[str]:
        """Lines that copy a value to another place."""
        at = f"i{self.next_unit()}"
        inside = f"{at} < {value.size}"
        line = f"tl.store({to} + {at}, {self.load(value, at, inside, at)}, mask={inside})"
        return [*self.in_pieces(at, value.size, [line]), "tl.debug_barrier()"]

    def is_held(self, view: View) -> bool:
        """Whether a matrix is among those that stay in registers: the first ones for which there is room."""
        room = IN_REGISTERS
        for other, of_backward in self.matrices:
            size = math.prod(map(padded, other.shape))
            if of_backward == self.backward and size <= room:
                room -= size
                if other == view:
                    return True
        return False

    def held(self, view: View, name: str) -> list[str]:
        """Lines that load a matrix before the first step."""
        (rows, columns), (k, n) = view.shape, map(padded, view.shape)
        inside = f"({name}k < {rows}) & ({name}n < {columns})"
        return [
            f"{name}k = tl.arange(0, {k})[:, None]",
            f"{name}n = tl.arange(0, {n})[None, :]",
            f"{name}held = tl.load({name} + {name}k * {columns} + {name}n, mask={inside}, other=0.0)",
        ]

    def product(self, value: Value) -> Iterator[str]:
        """A product of rows with a matrix, in registers or read piece by piece."""
        x, matrix = value.operands
        assert isinstance(x, View)
        assert isinstance(matrix, View)
        w = self.matrices.setdefault((matrix, self.backward), f"w{len(self.matrices)}_")
        unit, (rows, columns), many = self.next_unit(), matrix.shape, x.shape[0] > 1
        k, n, v, total, r = (f"{name}{unit}" for name in ("k", "n", "v", "sum", "r"))
        moved = f" + {r} * {x.strides[0]}" if many else ""
        given = f"{v} = {self.load(x.value, f'{x.offset}{moved} + {k}', f'{k} < {rows}', k)}"
        after = []
        if value.start is not None:
            after = [f"{total} += {self._start(value.start, n, columns, r)}"]
        to = self.name(value) + (f" + {r} * {columns}" if many else "")
        after.append(f"tl.store({to} + {n}, {total}, mask={n} < {columns})")
        if self.is_held(matrix):
            lines = [f"{k} = tl.arange(0, {padded(rows)})", f"{n} = tl.arange(0, {padded(columns)})", given]
            lines += [f"{total} = tl.sum({w}held * {v}[:, None], axis=0)", *after]
        else:
            wide = min(padded(columns), max(1, BLOCK // min(padded(rows), 128)))
            deep = min(padded(rows), BLOCK // wide)
            self.largest = max(self.largest, wide * deep)
            place = f"{k}[:, None] * {columns} + {n}[None, :]"
            inside = f"({k}[:, None] < {rows}) & ({n}[None, :] < {columns})"
            lines = [
                f"for {n}_first in range(0, {columns}, {wide}):",
                f"    {n} = {n}_first + tl.arange(0, {wide})",
                f"    {total} = tl.zeros(({wide},), {self.scalar})",
                f"    for {k}_first in range(0, {rows}, {deep}):",
                f"        {k} = {k}_first + tl.arange(0, {deep})",
                f"        {given}",
                f"        {w}part{unit} = tl.load({w} + {place}, mask={inside}, other=0.0)",
                f"        {total} += tl.sum({w}part{unit} * {v}[:, None], axis=0)",
                *indented(after, 1),
            ]
        yield from [f"for {r} in range({x.shape[0]}):", *indented(lines, 1)] if many else lines

    def _start(self, start: View, n: str, columns: int, r: str) -> str:
        """The expression for what a product is added to."""
        varies = start.shape[-1] > 1 and start.strides[-1] == 1
        place = f"{start.offset}" + (f" + {n}" if varies else "")
        if start.shape[0] > 1 and start.strides[0]:
            place += f" + {r} * {start.strides[0]}"
        return self.load(start.value, place, f"{n} < {columns}" if varies else "", n if varies else "")
