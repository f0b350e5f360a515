"""What a kernel does: the loops and products of each pass, and what the forward pass saves for the backward pass."""

import math
from dataclasses import dataclass, field

import networkx  # type: ignore[import-untyped]

from src.ops.generated.builder import Operand
from src.ops.generated.expressions import COSTLY
from src.ops.generated.lower import Lowered
from src.ops.generated.values import Value, View, contiguous, extents, reached, whole

FEW = 4
"""Up to this many terms, a sum is no more work than an elementwise operation."""


@dataclass
class WeightGradient:
    """The gradient of a matrix: the sum over sequences, steps and terms of products of rows, [M, K] x [K, N]."""

    constant: int
    result: View
    """The gradient, in the shape of the constant, as a view of the matrix [M, N]."""
    terms: list[tuple[View, View]]
    """Pairs of rows [K, M] and [K, N]; each row consists of consecutive numbers of a value."""

    @property
    def shape(self) -> tuple[int, int]:
        """M and N."""
        left, right = self.terms[0]
        return left.shape[1], right.shape[1]


@dataclass
class Total:
    """The gradient of a constant that is a plain sum over sequences and steps."""

    constant: int
    value: Value


class Plan:
    """The values of a step, with the order and the places in which a kernel computes them."""

    def __init__(self, lowered: Lowered):
        self.inputs, self.states = lowered.inputs, lowered.states
        self.constants, self.tables = lowered.constants, lowered.tables
        self.d_output, self.d_next = lowered.d_output, lowered.d_next
        taken: set[Value] = set()
        self.next_states = [_own(lowered, x, taken) for x in lowered.next_states]
        self.output = _own(lowered, lowered.output, set())
        taken = set()
        self.d_inputs = [_own(lowered, x, taken) for x in lowered.d_inputs]
        self.d_states = [_own(lowered, x, taken) for x in lowered.d_states]
        self.weights, self.totals = _gradients_of_constants(lowered)

        results = [self.output, *self.next_states]
        rows = [view.value for weight in self.weights for term in weight.terms for view in term]
        own_gradients = [*self.d_inputs, *(total.value for total in self.totals), *rows]
        gradients = [*own_gradients, *self.d_states]
        _add_before_summing(results + gradients)
        _start_products_from_sums(results + gradients)

        of_gradients: set[Value] = set()
        everything = reached(results + gradients)
        for value in everything:
            if value.kind == "gradient" or of_gradients.intersection(value.sources):
                of_gradients.add(value)
        known = [value for value in everything if value not in of_gradients]
        self.saved = _to_save(known, gradients, self.states, self.next_states)
        kept = [value for value in self.saved if not value.given]
        self.forward = Pass(reached(results + kept), set())
        saved = set(self.saved)
        self.backward = Pass(reached(gradients, saved), saved)
        self.forward.finish([*results, *kept], {*results, *kept})
        written = {*self.d_inputs, *self.d_states}
        self.backward.finish([*self.d_inputs, *self.d_states, *rows], {*written, *saved})
        needed = set(reached(own_gradients, saved))
        self.only_for_start = {value for value in reached(gradients, saved) if value not in needed}
        """Values that are needed only for the gradient of the initial state."""

        in_history = [s in self.saved or n in self.saved for s, n in zip(self.states, self.next_states, strict=True)]
        self.history = [i for i, saved in enumerate(in_history) if saved]
        """Indices of the states that are saved at every step."""
        self.per_step = [value for value in kept if value not in self.next_states]
        """The other values that are saved at every step."""

    @property
    def products(self) -> int:
        """Multiplications by weights in the forward pass of a step."""
        values = [work.value for work in self.forward.work if isinstance(work, Product)]
        factors = [(value, operand) for value in values for operand in value.operands[:1] if isinstance(operand, View)]
        return sum(value.size * operand.shape[1] for value, operand in factors)

    def __str__(self) -> str:
        saved = [name_of(self.states[i]) for i in self.history] + [name_of(value) for value in self.per_step]
        lines = [f"saved at every step: {', '.join(saved) or 'nothing'}"]
        for title, each in (("forward", self.forward), ("backward", self.backward)):
            written = [line for work in each.work for line in str(work).splitlines()]
            lines += ["", f"{title}:", *(f"  {line}" for line in written if "total += " not in line)]
        for weight in self.weights:
            terms = " + ".join(f"{name_of(a.value)} ⊗ {name_of(b.value)}" for a, b in weight.terms)
            lines.append(f"  gradient of {name_of(self.constants[weight.constant])} += {terms}")
        for total in self.totals:
            name = name_of(self.constants[total.constant])
            lines.append(f"  gradient of {name} += {_written(total.value.operands[0])}")
        return "\n".join(lines)


@dataclass
class Loop:
    """A nest of loops that computes several values."""

    extents: tuple[int, ...]
    values: list[Value] = field(default_factory=list)

    def __str__(self) -> str:
        head = "for " + " x ".join(map(str, self.extents)) if self.extents else "once"
        return "\n".join([head, *(f"  {describe(value)}" for value in self.values)])


@dataclass
class Product:
    """A product with a matrix."""

    value: Value

    @property
    def values(self) -> list[Value]:
        """The value that it computes."""
        return [self.value]

    def __str__(self) -> str:
        return describe(self.value)


class Pass:
    """The work of one pass, forward or backward, at one step, in order.

    A value joins the first loop with the same extents that comes after everything it reads; within a loop, it may read
    a number that was computed just before at the same place. Then a value that only one later loop reads, at the same
    place, moves to that loop.
    """

    def __init__(self, order: list[Value], given: set[Value]):
        self.given = given
        self.work: list[Loop | Product] = []
        self.place: dict[Value, int] = {}
        self.memory: dict[Value, None] = {}
        """Values that need memory, such as those that are read outside their own loop."""
        self.inside: dict[Value, tuple[Value, int]] = {}
        """Values that are computed directly in their place in a join: the join, and the offset in it."""
        for value in order:
            if value not in given and not value.given:
                self._put(value)
        self._move_to_readers(order)

    def computed(self, value: Value) -> bool:
        """Whether this pass computes the value."""
        return value not in self.given and not value.given

    def same_place(self, reader: Value, operand: View) -> bool:
        """Whether a reader in the same loop reads an operand only at its own place."""
        read = operand.value
        return (
            read.kind == "map"
            and reader.kind != "product"
            and operand.offset == 0
            and read.loops == reader.loops
            and operand.along() == read.strides
            and (reader.table is None or reader.kind == "reduce")
        )

    def _put(self, value: Value) -> None:
        if value.kind == "join":
            self.place[value] = max(self.place[part] for part in value.parts)
            return
        first = 0
        for operand in value.operands:
            if isinstance(operand, View) and self.computed(operand.value):
                first = max(first, self.place[operand.value] + (not self.same_place(value, operand)))
        if value.start and self.computed(value.start.value):
            first = max(first, self.place[value.start.value] + 1)
        if value.kind == "product":
            self.place[value] = len(self.work)
            self.work.append(Product(value))
            return
        for number in range(first, len(self.work)):
            work = self.work[number]
            if isinstance(work, Loop) and work.extents == value.loops:
                break
        else:
            number = len(self.work)
            work = Loop(value.loops)
            self.work.append(work)
        assert isinstance(work, Loop)
        work.values.append(value)
        self.place[value] = number

    def _move_to_readers(self, order: list[Value]) -> None:
        readers: dict[Value, list[Value]] = {}
        for value in order:
            for source in value.sources if value in self.place else []:
                readers.setdefault(source, []).append(value)
        for number in reversed(range(len(self.work))):
            work = self.work[number]
            for value in reversed(work.values) if isinstance(work, Loop) else []:
                goals = {self.place[reader] for reader in readers.get(value, [])}
                goal = goals.pop() if len(goals) == 1 else number
                later = self.work[goal]
                if goal == number or value.kind != "map" or not isinstance(later, Loop) or later.extents != value.loops:
                    continue
                views = [(reader, o) for reader in readers[value] for o in reader.operands if isinstance(o, View)]
                here = [s for s in value.sources if self.place.get(s) == number and not s.scalar]
                if all(self.same_place(r, o) for r, o in views if o.value is value) and all(
                    readers[source] == [value] for source in here
                ):
                    work.values.remove(value)
                    later.values.insert(0, value)
                    self.place[value] = goal
        self.work = [work for work in self.work if work.values]
        self.place |= {value: number for number, work in enumerate(self.work) for value in work.values}

    def finish(self, results: list[Value], fixed: set[Value]) -> None:
        """Determine which values need memory; `fixed` values have a place of their own."""
        self.memory = dict.fromkeys(results)
        values = [value for work in self.work for value in work.values]
        for value in values:
            if value.kind == "product" or (value.kind == "reduce" and not value.scalar):
                self.memory[value] = None
            for operand in value.operands:
                if isinstance(operand, View) and not self._in_register(value, operand):
                    self.memory[operand.value] = None
            if value.start:
                self.memory[value.start.value] = None
            if value.target:
                self.memory[value.target[0]] = None
        for part in (value for value in values if value.target):
            read = part.operands[0]
            if not isinstance(read, View) or not read.in_order() or not read.value.loops:
                continue
            movable = read.value.kind in ("map", "product", "reduce") and self.computed(read.value)
            movable = movable and not read.value.boolean and not (read.value.kind == "reduce" and read.value.scalar)
            if movable and read.value not in fixed and part.strides == contiguous(part.loops):
                assert part.target
                self.inside.setdefault(read.value, part.target)
                self.memory[read.value] = None

    def _in_register(self, reader: Value, operand: View) -> bool:
        read = operand.value
        if read.kind == "constant":
            return True
        if not self.computed(read) or reader.kind == "product":
            return False
        if read.selects and not reader.selects:  # the reader looks it up in the table itself
            return read not in self.memory
        return read.scalar or (self.place[read] == self.place[reader] and self.same_place(reader, operand))


def _own(lowered: Lowered, result: Operand, taken: set[Value]) -> Value:
    """A separate value for a result, with the numbers in the order of its tensor."""
    view = lowered.view(result)
    value = view.value
    if value.given or value in taken or not view.in_order():
        value = Value("map", "copy", [view], view.shape, extents(view.shape), contiguous(extents(view.shape)))
    taken.add(value)
    return value


def _gradients_of_constants(lowered: Lowered) -> tuple[list[WeightGradient], list[Total]]:
    weights, totals = [], []
    for number, gradient in enumerate(lowered.d_constants):
        if not isinstance(gradient, View):
            continue
        terms = _outer_terms(gradient) if gradient.permutes() else None
        if terms:
            weights.append(WeightGradient(number, gradient, [(_rows(a, 0), _rows(b, 1)) for a, b in terms]))
        else:
            loops = extents(gradient.shape)
            totals.append(Total(number, Value("total", "", [gradient], gradient.shape, loops, contiguous(loops))))
    return weights, totals


def _outer_terms(view: View) -> list[tuple[View, View]] | None:
    """The factors of the products of rows that add up to a gradient; None if it is not of that form."""
    value = view.value
    if value.outer is not None:
        return [value.outer]
    if value.kind != "map" or value.operation != "add":
        return None
    found: list[tuple[View, View]] = []
    for operand in value.operands:
        alike = isinstance(operand, View) and operand.permutes() and operand.along() == value.strides
        terms = _outer_terms(operand) if alike and isinstance(operand, View) else None
        if not terms:
            return None
        found += terms
    return found


def _rows(factor: View, along: int) -> View:
    """A factor [M, K] or [K, N] as K rows, each of consecutive numbers of one value."""
    rows = factor.like(factor.meta().permute(1 - along, along))
    if rows.value.kind == "constant" or (rows.shape[1] > 1 and rows.strides[1] != 1):
        loops = extents(rows.shape)
        rows = whole(Value("map", "copy", [rows], rows.shape, loops, contiguous(loops)))
    return rows


def _add_before_summing(roots: list[Value]) -> None:
    """Turn Σ x ± Σ y into Σ (x ± y), if neither sum is read elsewhere."""
    order = reached(roots)
    uses = _uses(roots, order)
    for value in order:
        if value.kind != "map" or value.operation not in ("add", "sub"):
            continue
        sums = [operand.value for operand in value.operands if isinstance(operand, View) and operand.covers()]
        alike = len(sums) == 2 and all(
            each.kind == "reduce" and each.operation == "sum" and each.table is None and uses[each] == 1
            for each in sums
        )
        if not alike or (sums[0].loops, sums[0].strides) != (sums[1].loops, sums[1].strides):
            continue
        loops = sums[0].loops
        terms = []
        for each in sums:
            term = each.operands[0]
            if len(each.operands) == 2:
                term = whole(Value("map", "mul", each.operands, loops, loops, contiguous(loops)))
            terms.append(term)
        both = Value("map", value.operation, terms, loops, loops, contiguous(loops))
        value.kind, value.operation, value.operands = "reduce", "sum", [whole(both)]
        value.loops, value.strides = loops, sums[0].strides


def _uses(roots: list[Value], order: list[Value]) -> dict[Value, int]:
    """How often each value is read."""
    uses = dict.fromkeys(order, 0)
    for used in (*roots, *(source for value in order for source in value.sources)):
        uses[used] += 1
    return uses


def _start_products_from_sums(roots: list[Value]) -> None:
    """Turn x + product into a product that starts from x, if the product is read nowhere else."""
    order = reached(roots)
    uses = _uses(roots, order)
    for value in order:
        if value.kind != "map" or value.operation != "add":
            continue
        for product, start in (value.operands[::-1], value.operands):
            if not isinstance(product, View) or not isinstance(start, View):
                continue
            inner = product.value
            if inner.kind != "product" or uses[inner] != 1 or inner.start or not product.covers():
                continue
            fits = extents(start.shape) == inner.loops and len(inner.loops) <= 1 and start.along() in ((), (1,))
            if not fits or start.value.kind == "constant" or start.value.boolean:
                continue
            value.kind, value.operation, value.operands, value.start = "product", "", inner.operands, start
            value.shape, value.loops, value.strides = inner.shape, inner.loops, inner.strides
            break


def _to_save(known: list[Value], gradients: list[Value], states: list[Value], next_states: list[Value]) -> list[Value]:
    """The cheapest set of values from which the backward pass can compute everything it reads: a minimum cut.

    Sources are the values that a step starts from and those that should not be recomputed; sinks are the values that
    the backward pass reads. The capacity of a value is the memory it takes.
    """
    of_step = set(known)
    readers = [value for value in reached(gradients) if value not in of_step]
    wanted = {source for reader in readers for source in reader.sources if source in of_step}
    wanted |= {gradient for gradient in gradients if gradient in of_step}
    wanted = {value for value in wanted if value.kind != "constant"}
    graph = networkx.DiGraph()
    for value in known:
        if value.kind == "constant":
            continue
        cost = 100 + 1000 * value.size // (2 if value.kind == "input" else 1)  # an integer, so that nothing is rounded
        if value in next_states or value in states:  # saved anyway, or nearly so
            cost //= 100
        movable = value.kind != "part" and not value.boolean
        graph.add_edge((value, "in"), (value, "out"), **({"capacity": cost} if movable else {}))
        for source in value.sources:
            if source.kind != "constant":
                graph.add_edge((source, "out"), (value, "in"))
        if value.given or _costly(value):
            graph.add_edge("source", (value, "in"))
        if value in wanted:
            graph.add_edge((value, "out"), "sink")
    if not wanted:
        return []
    _, (reachable, _) = networkx.minimum_cut(graph, "source", "sink")
    return [v for v in known if (v, "in") in reachable and (v, "out") not in reachable]


def _costly(value: Value) -> bool:
    """Whether a value should not be recomputed; a sum of few numbers may be, such as a sum of two squares."""
    if value.kind == "reduce":
        return value.table is not None or math.prod(value.loops) > FEW * value.size
    return value.kind in ("product", "join") or value.operation in COSTLY


def name_of(value: Value) -> str:
    """The name of a value in a printed plan."""
    return value.name or f"{value.operation}_{value.size}"


def _written(operand: View | float) -> str:
    if not isinstance(operand, View):
        return f"{operand:g}"
    name, shape, strides = name_of(operand.value), extents(operand.shape), operand.along()
    if operand.in_order() or not any(strides):
        return name
    if strides == contiguous(shape):
        return f"{name}[{operand.offset}:{operand.offset + operand.size}]"
    return f"{name}.T" if operand.permutes() and len(shape) == 2 else f"{name} as {' x '.join(map(str, shape))}"


def describe(value: Value) -> str:
    """One line that says how a value is computed."""
    read = [_written(operand) for operand in value.operands]
    if value.kind == "product":
        start = f"{_written(value.start)} + " if value.start else ""
        return f"{name_of(value)} = {start}{read[0]} @ {read[1]}"
    if value.kind == "total":
        return f"total += {read[0]}"
    if value.target:
        return f"{name_of(value.target[0])}[{value.target[1]}...] = {read[0]}"
    return f"{name_of(value)} = {value.operation}({', '.join(read)})"
