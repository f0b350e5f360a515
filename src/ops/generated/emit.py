"""From a plan to C++: the source of a `Step` for `src/ops/cpu/csrc/step.h`, which has everything around it.

The source contains no sizes: integers other than 0 and 1, and all but the simplest other numbers, are passed in two
tables when the kernel is called. Steps of the same structure have the same source, and so share one library.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from src.ops.generated.expressions import EXPRESSIONS, REDUCTIONS
from src.ops.generated.names import Names
from src.ops.generated.plan import FEW, Loop, Pass, Plan, Product
from src.ops.generated.values import Value, View, contiguous

_PLAIN = {
    0.0: "0",
    1.0: "1",
    -1.0: "-1",
    2.0: "2",
    -2.0: "-2",
    0.5: "0.5",
    math.inf: "infinity",
    -math.inf: "-infinity",
}


class Source(NamedTuple):
    """A kernel: its source, and the numbers that it is called with."""

    text: str
    sizes: list[int]
    numbers: list[float]


def emit(plan: Plan, scalar: str) -> Source:
    """The source of a plan for "float" or "double"."""
    return _Writer(plan, scalar).source()


class _Writer(Names):
    def __init__(self, plan: Plan, scalar: str):
        super().__init__()
        self.plan, self.scalar = plan, scalar
        self.sizes: dict[int, str] = {}
        self.numbers: dict[float, str] = {}
        self.matrices: dict[tuple[View, bool], str] = {}
        self.lefts: dict[View, int] = {}
        self.rights: dict[View, int] = {}

    def size(self, number: int) -> str:
        """An integer, as written in the source."""
        return str(number) if number in (0, 1) else self.sizes.setdefault(number, f"n{len(self.sizes)}")

    def total(self, values: list[Value]) -> str:
        """The sum of the sizes of values."""
        return " + ".join(self.size(value.size) for value in values) or "0"

    def number(self, number: float) -> str:
        """Any other number, as written in the source, on every lane."""
        plain = _PLAIN.get(number) or self.numbers.setdefault(number, f"x{len(self.numbers)}")
        return f"all<S>({plain})"

    def source(self) -> Source:
        """The whole source."""
        forward = list(self._forward())
        backward = list(self._backward())
        layout = list(self._layout())
        constants = [self.name(value) for value in self.plan.constants]
        tables = [self.name(value) for value in self.plan.tables.values()]
        lines = [
            '#include "step.h"', "", "using namespace fused;", "", "namespace {", "",
            f"typedef {self.scalar} S;", "typedef Vector<S> V;",
            "constexpr S infinity = std::numeric_limits<S>::infinity();", "", "struct Generated : Step<S> {",
        ]  # fmt: skip
        fields = [f"  const int64_t {', '.join(self.sizes.values())};"] if self.sizes else []
        fields += [f"  const S {', '.join(self.numbers.values())};"] if self.numbers else []
        fields += [f"  const S *{', *'.join(constants)};"] if constants else []
        fields += [f"  const int64_t *{', *'.join(tables)};"] if tables else []
        fields += [f"  Matrix<S> {', '.join(self.matrices.values())};"] if self.matrices else []
        given = [f"{name}(call.sizes[{i}])" for i, name in enumerate(self.sizes.values())]
        given += [f"{name}(S(call.numbers[{i}]))" for i, name in enumerate(self.numbers.values())]
        given += [f"{name}(as<S>(call.constants[{i}]))" for i, name in enumerate(constants)]
        given += [f"{name}(as<int64_t>(call.constants[{i}]))" for i, name in enumerate(tables, len(constants))]
        lines += [*fields, ""]
        lines += [
            "  Generated([[maybe_unused]] const Call& call, [[maybe_unused]] bool forward,",
            "            [[maybe_unused]] bool backward)",
        ]
        lines += [f"      : {', '.join(given)} {{" if given else "      {", *self._packed(), "  }", ""]
        lines += ["  Layout layout() const override {", *_indented(layout, 2), "  }", ""]
        lines += ["  const V* forward(Places<S>& at) const override {", *_indented(forward, 2), "  }", ""]
        lines += [
            "  void backward(Places<S>& at) const override {",
            *_indented(backward, 2),
            "  }",
            "};",
            "",
            "}  // namespace",
            "",
        ]
        lines += [
            'extern "C" {',
            "Exit forward(const int64_t* whole, void* const* at) { return forward_pass<S, Generated>(whole, at); }",
            "Exit backward(const int64_t* whole, void* const* at) { return backward_pass<S, Generated>(whole, at); }",
            "}", "",
        ]  # fmt: skip
        return Source("\n".join(lines), list(self.sizes), list(self.numbers))

    def _packed(self) -> Iterator[str]:
        """Packs the matrices as the products of each pass read them: y = M x, so that the matrix of x @ W is Wᵀ."""
        for (view, backward), name in self.matrices.items():
            rows, columns = self.size(view.shape[1]), self.size(view.shape[0])
            strides = f"{self.size(view.strides[1])}, {self.size(view.strides[0])}"
            data = f"{self.name(view.value)} + {self.size(view.offset)}"
            direction = "backward" if backward else "forward"
            yield f"    if ({direction}) {name} = Matrix<S>({data}, {rows}, {columns}, {strides});"

    def _layout(self) -> Iterator[str]:
        plan = self.plan

        def listed(values: list[Value]) -> str:
            return ", ".join(self.size(value.size) for value in values)

        yield "Layout layout;"
        yield f"layout.inputs = {{{listed(plan.inputs)}}};"
        yield f"layout.states = {{{listed(plan.states)}}};"
        yield f"layout.history = {{{', '.join(map(str, plan.history))}}};"
        yield f"layout.output = {self.size(plan.output.size)};"
        yield f"layout.saved = {self.total(plan.per_step)};"
        yield f"layout.forward_scratch = {self.total(self._scratch(plan.forward, self._placed_forward()))};"
        yield f"layout.backward_scratch = {self.total(self._scratch(plan.backward, self._placed_backward()))};"
        reads = any(value in plan.backward.memory for value in plan.inputs)
        yield f"layout.reads_inputs = {'true' if reads else 'false'};"
        for side, rows in (("lefts", self.lefts), ("rights", self.rights)):
            yield f"layout.{side} = {{{', '.join(self._rows(view, side == 'lefts') for view in rows)}}};"
        matrices, terms = [], []
        for number, weight in enumerate(plan.weights):
            matrices.append(f"{{{weight.constant}, {self.size(weight.shape[0])}, {self.size(weight.shape[1])}}}")
            terms += [f"{{{number}, {self.lefts[left]}, {self.rights[right]}}}" for left, right in weight.terms]
        yield f"layout.gradients = {{{', '.join(matrices)}}};"
        yield f"layout.terms = {{{', '.join(terms)}}};"
        sums = [f"{{{total.constant}, {self.size(total.value.size)}}}" for total in plan.totals]
        yield f"layout.sums = {{{', '.join(sums)}}};"
        yield "return layout;"

    def _rows(self, view: View, left: bool) -> str:
        number, offset = self._in_d_inputs(view) if left else (-1, 0)
        sizes = ", ".join(map(self.size, (view.shape[0], view.shape[1], view.strides[0] if view.shape[0] > 1 else 0)))
        of_state = "true" if view.value in self.plan.states else "false"
        return f"{{{sizes}, {number}, {self.size(offset)}, {of_state}}}"

    def _in_d_inputs(self, view: View) -> tuple[int, int]:
        """Which gradient of an input contains a single row of numbers, and where; (-1, 0) if none does."""
        plan = self.plan
        holder, start = plan.backward.inside.get(view.value, (view.value, 0))
        if view.shape[0] > 1 or holder not in plan.d_inputs:
            return -1, 0
        return plan.d_inputs.index(holder), start + view.offset

    def _placed(self) -> dict[Value, str]:
        """Values whose place is given from outside, in both passes."""
        plan = self.plan
        placed = {value: f"at.inputs[{i}]" for i, value in enumerate(plan.inputs)}
        placed |= {value: f"at.before[{i}]" for i, value in enumerate(plan.states)}
        before = "at.saved"
        for value in plan.per_step:
            placed[value] = before
            before = f"{self.name(value)} + {self.size(value.size)}"
        return placed

    def _placed_forward(self) -> dict[Value, str]:
        """The same, with those of the forward pass."""
        plan = self.plan
        placed = self._placed() | {value: f"at.after[{i}]" for i, value in enumerate(plan.next_states)}
        placed.setdefault(plan.output, "at.output")
        return placed

    def _placed_backward(self) -> dict[Value, str]:
        """The same, with those of the backward pass."""
        plan, placed = self.plan, self._placed()
        placed |= {value: f"at.after[{i}]" for i, value in enumerate(plan.next_states) if value in plan.saved}
        placed |= {plan.d_output: "at.d_output"}
        placed |= {value: f"at.d_after[{i}]" for i, value in enumerate(plan.d_next)}
        placed |= {value: f"at.d_inputs[{i}]" for i, value in enumerate(plan.d_inputs)}
        placed |= {value: f"at.d_before[{i}]" for i, value in enumerate(plan.d_states)}
        return placed

    def _scratch(self, work: Pass, placed: dict[Value, str]) -> list[Value]:
        """Values that need scratch memory within a step."""
        held = (*placed, *work.inside)
        return [v for v in work.memory if v not in held and v.kind != "constant"]

    def _places(self, work: Pass, placed: dict[Value, str]) -> Iterator[str]:
        """Declarations of the memory of a pass."""
        given = [v for v in placed if v.given or v in work.given]
        for value, place in placed.items():
            if value in work.memory or value in self.plan.per_step or value in self.plan.next_states:
                constant = "const " if value in given else ""
                yield f"[[maybe_unused]] {constant}V* __restrict {self.name(value)} = {place};"
        before = "at.scratch"
        for value in self._scratch(work, placed):
            yield f"V* __restrict {self.name(value)} = {before};"
            before = f"{self.name(value)} + {self.size(value.size)}"
        for value, (join, offset) in work.inside.items():
            yield f"V* {self.name(value)} = {self.name(join)} + {self.size(offset)};"

    def _forward(self) -> Iterator[str]:
        plan = self.plan
        yield from self._places(plan.forward, self._placed_forward())
        yield from self._work(plan.forward)
        yield f"return {self.name(plan.output)};"

    def _backward(self) -> Iterator[str]:
        plan = self.plan
        yield from self._places(plan.backward, self._placed_backward())
        for number, total in enumerate(plan.totals):
            yield f"V* __restrict {self.name(total.value)} = at.sums[{number}];"
        yield from self._work(plan.backward)
        for weight in plan.weights:
            for views, rows, side in ((weight.terms, self.lefts, 0), (weight.terms, self.rights, 1)):
                for view in (term[side] for term in views):
                    rows.setdefault(view, len(rows))
        for rows, name in ((self.lefts, "lefts"), (self.rights, "rights")):
            for view, number in rows.items():
                if name == "rights" or self._in_d_inputs(view)[0] < 0:
                    yield f"at.{name}[{number}] = {self.name(view.value)} + {self.size(view.offset)};"

    def _work(self, work: Pass) -> Iterator[str]:
        for each in work.work:
            if isinstance(each, Product):
                yield from self._product(each.value, work is self.plan.backward)
            else:
                yield from self._loop(each, work)

    def _product(self, value: Value, backward: bool) -> Iterator[str]:
        x, matrix = value.operands
        assert isinstance(x, View)
        assert isinstance(matrix, View)
        name = self.matrices.setdefault((matrix, backward), f"w{len(self.matrices)}")
        rows = x.shape[0]
        to, start = self.name(value), "nullptr"
        source = f"{self.name(x.value)} + {self.size(x.offset)}"
        if value.start:
            start = f"{self.name(value.start.value)} + {self.size(value.start.offset)}"
        conditions = []
        if x.value in self.plan.states and not backward:
            conditions.append("at.started")
        if backward and value in self.plan.only_for_start:
            conditions.append("at.d_before_wanted")
        if rows > 1:
            step = self.size(value.shape[1])
            moved = f" + r * {self.size(value.start.strides[0])}" if value.start else ""
            call = (
                f"for (int64_t r = 0; r < {self.size(rows)}; ++r) "
                f"{name}.multiply({source} + r * {self.size(x.strides[0])}, {start}{moved}, {to} + r * {step});"
            )
        else:
            call = f"{name}.multiply({source}, {start}, {to});"
        if not conditions:
            yield call
            return
        yield f"if ({' && '.join(conditions)})"
        yield f"  {call}"
        yield "else"
        size = self.size(value.size)
        if value.start:
            yield f"  std::copy({start}, {start} + {size}, {to});"
        else:
            yield f"  std::fill({to}, {to} + {size}, V{{}});"

    def _at(self, offset: int, strides: tuple[int, ...]) -> str:
        """The index of a number, inside loops."""
        terms = [self.size(offset)] if offset else []
        for dim, stride in enumerate(strides):
            if stride:
                terms.append(f"i{dim}" if stride == 1 else f"{self.size(stride)} * i{dim}")
        return " + ".join(terms) or "0"

    def _read(self, value: Value, operand: View | float, work: Pass) -> str:
        if not isinstance(operand, View):
            return self.number(operand)
        if operand.value.selects and work._in_register(value, operand):
            return self._selected(operand, work)
        read, name = operand.value, self.name(operand.value)
        place = self._at(operand.offset, operand.along())
        if value.table is not None and value.kind == "map":
            place = f"{self.name(value.table)}[{self._at(0, contiguous(value.loops))}]"
        if read.kind == "constant":
            number = f"all<S>({name}[{place}])"
            return f"({number} != S(0))" if read.boolean else number
        if work._in_register(value, operand):
            return self.register(read)
        return f"({name}[{place}] != S(0))" if read.boolean else f"{name}[{place}]"

    def _selected(self, operand: View, work: Pass) -> str:
        """A number that a value selects by its table, read directly from its source."""
        assert operand.value.table is not None
        source, table = operand.value.operands[0], self.name(operand.value.table)
        assert isinstance(source, View)
        place = f"{table}[{self._at(operand.offset, operand.along())}]"
        number = f"{self.name(source.value)}[{place}]"
        if source.value.kind == "constant":
            number = f"all<S>({number})"
        return f"({number} != S(0))" if source.value.boolean else number

    def _loop(self, loop: Loop, work: Pass) -> Iterator[str]:
        nest = _Nest.of(loop)
        for value in loop.values:
            self._statement(value, work, nest)
        if not nest.body:
            return
        yield from nest.before
        depth = len(nest.dims)
        for level, dim in enumerate(nest.dims):
            yield from (_indent(level) + line for line in nest.declared[level])
            count = self.size(loop.extents[dim])
            head = f"for (int64_t i{dim} = 0; i{dim} < {count}; ++i{dim}) {{"
            if level == depth - 1 and nest.in_parts:
                head = f"in_parts({count}, [&](int64_t i{dim}, int k) {{"
            yield _indent(level) + head
        yield from (_indent(depth) + line for line in nest.body)
        for level in reversed(range(depth)):
            yield _indent(level) + ("});" if level == depth - 1 and nest.in_parts else "}")
            yield from (_indent(level) + line for line in nest.then[level])

    def _statement(self, value: Value, work: Pass, nest: "_Nest") -> None:
        """Add the statements of one value to a loop."""
        read = [self._read(value, operand, work) for operand in value.operands]
        place = self._at(0, value.strides)
        if value.selects and value not in work.memory:
            return
        if value.kind == "map":
            name = self.name(value)
            number = self.register(value)
            nest.body.append(f"auto {number} = {EXPRESSIONS[value.operation].format(*read)};")
            if value in work.memory:
                stored = f"{number} ? all<S>(1) : V{{}}" if value.boolean else number
                nest.body.append(f"{name}[{place}] = {stored};")
        elif value.target:
            operand = value.operands[0]
            if isinstance(operand, View) and work.inside.get(operand.value) == value.target:
                return
            join, offset = value.target
            nest.body.append(f"{self.name(join)}[{self._at(offset, value.strides)}] = {read[0]};")
        elif value.kind == "total":
            nest.body.append(f"{self.name(value)}[{place}] += {read[0]};")
        else:
            self._reduction(value, " * ".join(read), work, nest)

    def _reduction(self, value: Value, term: str, work: Pass, nest: "_Nest") -> None:
        name, place, number = self.name(value), self._at(0, value.strides), self.register(value)
        start, add, join = REDUCTIONS[value.operation]
        level = nest.level_of(value)
        if level is None:  # accumulated in memory
            if value.table is not None:
                place = f"{self.name(value.table)}[{self._at(0, contiguous(value.loops))}]"
            nest.before.append(f"std::fill({name}, {name} + {self.size(value.size)}, {start});")
            nest.body.append(add.format(f"{name}[{place}]", term))
            return
        if nest.in_parts:
            parts = f"{number}_parts"
            nest.declared[level].append(f"V {parts}[4] = {{{', '.join([start] * 4)}}};")
            nest.body.append(add.format(f"{parts}[k]", term))
            halves = [join.format(f"{parts}[{i}]", f"{parts}[{i + 1}]") for i in (0, 2)]
            nest.then[level].append(f"V {number} = {join.format(*halves)};")
        else:
            nest.declared[level].append(f"V {number} = {start};")
            nest.body.append(add.format(number, term))
        if not value.scalar or value in work.memory:
            nest.then[level].append(f"{name}[{place}] = {number};")


class _Nest:
    """Nested loops while they are being written.

    Args:
        dims: the dimensions of the loops, outermost first: those that are summed over come last, so that a sum stays
            in a register.
        in_parts: whether sums have four parts, since each addition has to wait for the one before it.
    """

    def __init__(self, dims: list[int], in_parts: bool):
        self.dims, self.in_parts = dims, in_parts
        self.before: list[str] = []
        self.declared: list[list[str]] = [[] for _ in dims]
        """The lines before the loop of each level; `then` has those after it."""
        self.then: list[list[str]] = [[] for _ in dims]
        self.body: list[str] = []

    @classmethod
    def of(cls, loop: Loop) -> "_Nest":
        """The nest for a loop of a plan."""
        summed = [_summed(value) for value in loop.values if value.kind == "reduce" and value.table is None]
        last = set.intersection(*summed) if summed else set()
        dims = sorted(range(len(loop.extents)), key=lambda dim: dim in last)
        return cls(dims, bool(last) and loop.extents[dims[-1]] > FEW)

    def level_of(self, value: Value) -> int | None:
        """The level of the outermost loop that a reduction sums over; None if it has to be accumulated in memory."""
        summed = _summed(value)
        level = len(self.dims) - len(summed)
        return level if value.table is None and summed and set(self.dims[level:]) == summed else None


def _summed(value: Value) -> set[int]:
    """The loops that a reduction sums over."""
    return {dim for dim, stride in enumerate(value.strides) if stride == 0}


def _indent(level: int) -> str:
    return "  " * level


def _indented(lines: list[str], level: int) -> list[str]:
    return [_indent(level) + line for line in lines]
