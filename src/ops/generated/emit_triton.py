"""From a plan to Triton: two kernels, in which a program runs one sequence of one member of a population.

A loop of the plan becomes a block: each extent is rounded up to a power of two and masked. If the block would be too
large, the outermost extents are processed piece by piece. What one loop reads from another goes through memory, with a
barrier in between; a matrix that fits stays in registers from the first step to the last. Products are multiply-adds in
the precision of the numbers. There are no atomic additions, so results do not depend on the order of the programs.

Memory: P members, B sequences of each, T steps, V symbols; arrays are contiguous, and begin with [P, B] or [P].
"""

import math
from collections.abc import Iterator
from itertools import accumulate

from src.ops.generated.plan import Loop, Pass, Plan, Product
from src.ops.generated.recipe import GpuLayout, Packed, Record
from src.ops.generated.triton_blocks import Block
from src.ops.generated.triton_lines import IN_REGISTERS, Lines, indented, literal, padded
from src.ops.generated.values import Value, View

_HEAD = """import triton
import triton.language as tl

from src.ops.generated.triton_functions import *

MOST: tl.constexpr = tl.constexpr(2**31 - 1)

"""
_PROGRAM = ["member = tl.program_id(1).to(tl.int64)", "sequence = member * B + tl.program_id(0)"]
_STEP = [
    "step = sequence * T + k",
    "if ids is not None:",
    "    symbol = tl.load(ids + step)",
    "    row = tl.minimum(tl.maximum(symbol, 0), V - 1)",
    "    known = symbol == row",
    "    row += member * V",
    "else:",
    "    row = step",
    "    known = step >= 0",
    "first = step == sequence * T",
    "started = step > sequence * T",
    "if resets is not None:",
    "    reset = tl.load(resets + step) != 0",
    "    started = started & (reset == 0)",
    "if STARTS:",
    "    started = step >= 0",
    "known_below = tl.where(known, MOST, 0)",
    "started_below = tl.where(started, MOST, 0)",
]


def emit_triton(plan: Plan, scalar: str) -> tuple[str, GpuLayout]:
    """The source of a plan for "float32" or "float64", and what its kernels are called with."""
    return _Writer(plan, scalar).source()


class _Writer(Lines):
    def __init__(self, plan: Plan, scalar: str):
        super().__init__(plan, scalar)
        self.records: dict[Value, int] = {}
        """Values whose rows are kept at every step, in separate arrays, for the gradients of matrices."""
        self.elsewhere: list[Value] = []
        """Those of them that are copied to these arrays, since they have another place."""
        for weight in plan.weights:
            for view in (view for term in weight.terms for view in term):
                holder, _ = self._home(view.value)
                if holder in plan.d_inputs or holder in plan.per_step or holder in self.records:
                    continue
                self.records[holder] = len(self.records)
                if holder.given or holder in plan.next_states or holder in plan.d_states:
                    self.elsewhere.append(holder)

    def _home(self, value: Value) -> tuple[Value, int]:
        """The value whose memory contains another one, and where that one begins."""
        offset = 0
        while value in self.plan.backward.inside:
            value, start = self.plan.backward.inside[value]
            offset += start
        return value, offset

    def source(self) -> tuple[str, GpuLayout]:
        """The source and the layout."""
        plan = self.plan
        forward, forward_scratch = self._kernel(plan.forward)
        backward, backward_scratch = self._kernel(plan.backward)
        packed: tuple[list[Packed], list[Packed]] = ([], [])
        for view, of_backward in self.matrices:
            constant = plan.constants.index(view.value)
            packed[of_backward].append(Packed(constant, view.offset, view.strides, view.shape))
        held = max(sum(math.prod(map(padded, matrix.shape)) for matrix in each) for each in packed)
        numbers = max(self.largest, min(held, IN_REGISTERS))
        layout = GpuLayout(
            matrices=packed,
            scratch=(forward_scratch, backward_scratch),
            history=plan.history,
            records=[value.size for value in self.records],
            terms=[
                (weight.constant, [(self._record(left), self._record(right)) for left, right in weight.terms])
                for weight in plan.weights
            ],
            sums=[(total.constant, total.value.size) for total in plan.totals],
            num_warps=1 if numbers <= 1024 else 4 if numbers <= 8192 else 8,
        )
        return "\n".join([_HEAD, *forward, "", "", *backward, ""]), layout

    def _record(self, view: View) -> Record:
        """Where the rows of a factor of a gradient are stored at each step."""
        holder, start = self._home(view.value)
        size, plan = holder.size, self.plan
        if holder in plan.d_inputs:
            kind, number = "d_inputs", plan.d_inputs.index(holder)
        elif holder in plan.per_step:
            kind, number = "saved", 0
            start += sum(value.size for value in plan.per_step[: plan.per_step.index(holder)])
            size = sum(value.size for value in plan.per_step)
        else:
            kind, number = "records", self.records[holder]
        strides = (view.strides[0] if view.shape[0] > 1 else 0, 1)
        return Record(kind, number, size, start + view.offset, view.shape, strides)

    def _kernel(self, work: Pass) -> tuple[list[str], int]:
        """One of the two kernels, and how many numbers of scratch memory a step needs."""
        plan, forward = self.plan, work is self.plan.forward
        self.numbers = {}
        self.backward = not forward
        self.conditions = dict.fromkeys(plan.inputs, "known") | dict.fromkeys(plan.states, "started")
        self.conditions[plan.d_output] = "shown"
        body = [line for each in work.work for line in self._unit(each, work)]
        body += self._after_forward() if forward else self._after_backward()
        placed = self._placed_forward() if forward else self._placed_backward()
        scratch, before = [], 0
        held = {*placed, *work.inside, *plan.constants, *plan.tables.values()}
        for value in [value for value in work.memory if value not in held]:
            scratch.append(f"{self.name(value)} = scratch + sequence * SCRATCH + {before}")
            before += value.size
        for value, name in self.terms.items():
            if work.computed(value) and any(value in each.values for each in work.work):
                scratch.append(f"{name} = scratch + sequence * SCRATCH + {before}")
                before += math.prod(value.loops)
        inside = self._inside(work)
        constants = [*plan.constants, *plan.tables.values()]
        packed = [(view, name) for (view, backward), name in self.matrices.items() if backward != forward]
        count = {name: range(len(of)) for name, of in self._arrays(forward).items()}
        arrays = [f"{name}{i}" for name, numbers in count.items() for i in numbers]
        given = ["ids", "resets", "outputs", "saved", "scratch", *(f"m{self.name(v)}" for v in constants)]
        given += [*(f"m{name}" for _, name in packed), *arrays]
        head = [
            '@triton.jit(do_not_specialize=["B", "T", "V", "SLOTS"])',
            f"def {'forward' if forward else 'backward'}_kernel(",
            f"    {', '.join(given)},",
            "    B, T, V, SLOTS,",
            "    STARTS: tl.constexpr, RETURN_SEQUENCE: tl.constexpr, SCRATCH: tl.constexpr,",
            "):",
        ]
        once = [*_PROGRAM, *(f"{name} = tl.full((), {literal(n)}, {self.scalar})" for n, name in self.numbers.items())]
        once += [f"{self.name(value)} = m{self.name(value)} + member * {value.size}" for value in constants]
        for view, name in packed:
            once.append(f"{name} = m{name} + member * {math.prod(view.shape)}")
        once += [*scratch, *(line for view, name in packed if self.is_held(view) for line in self.held(view, name))]
        if forward:
            loop = ["for k in range(T):"]
            each = [*_STEP, "slot = sequence * SLOTS + k % SLOTS", "last = sequence * SLOTS + (k + SLOTS - 1) % SLOTS"]
            each += ["pair = sequence * 2 + k % 2", "other = sequence * 2 + (k + 1) % 2"]
        else:
            for i, total in enumerate(plan.totals):
                once.append(f"{self.name(total.value)} = sums{i} + sequence * {total.value.size}")
            loop = ["for back in range(T):", "    k = T - 1 - back"]
            each = [*_STEP, "slot = step", "last = step - 1", "pair = sequence * 2 + back % 2"]
            each += ["other = sequence * 2 + (back + 1) % 2", "shown = step >= 0", "at_output = step"]
            each += ["if not RETURN_SEQUENCE:", "    shown = step == sequence * T + T - 1", "    at_output = sequence"]
            each += ["shown_below = tl.where(shown, MOST, 0)"]
        each += [f"{self.name(value)} = {place}" for value, place in placed.items()]
        each += self._starts() + inside
        return [*head, *indented(once, 1), *indented(loop, 1), *indented([*each, *body], 2)], max(1, before)

    def _arrays(self, forward: bool) -> dict[str, list]:
        """The numbered arrays, in the order of the arguments."""
        plan = self.plan
        shared: dict[str, list] = {"in": plan.inputs, "initial": plan.states, "restart": plan.states}
        shared["after"] = plan.states
        if forward:
            return shared
        shared |= {"carry": plan.states, "d_restart": plan.states, "d_in": plan.inputs}
        return shared | {"record": list(self.records), "sums": plan.totals}

    def _placed_forward(self) -> dict[Value, str]:
        plan = self.plan
        placed = {value: f"in{i} + row * {value.size}" for i, value in enumerate(plan.inputs)}
        placed |= self._states("other")
        placed |= self._saved()
        for i, value in enumerate(plan.next_states):
            slot = "slot" if i in plan.history else "pair"
            placed[value] = f"after{i} + {slot} * {value.size}"
        placed.setdefault(plan.output, f"outputs + (step if RETURN_SEQUENCE else sequence) * {plan.output.size}")
        return placed

    def _placed_backward(self) -> dict[Value, str]:
        plan = self.plan
        placed = {value: f"in{i} + row * {value.size}" for i, value in enumerate(plan.inputs)}
        placed |= self._states("last")
        for i, value in enumerate(plan.next_states):
            if value in plan.saved:
                placed[value] = f"after{i} + slot * {value.size}"
        placed |= self._saved()
        placed[plan.d_output] = f"outputs + at_output * {plan.d_output.size}"
        placed |= {value: f"carry{i} + pair * {value.size}" for i, value in enumerate(plan.d_next)}
        placed |= {value: f"d_in{i} + step * {value.size}" for i, value in enumerate(plan.d_inputs)}
        placed |= {value: f"carry{i} + other * {value.size}" for i, value in enumerate(plan.d_states)}
        for value, i in self.records.items():
            if value not in self.elsewhere:
                placed[value] = f"record{i} + step * {value.size}"
        return placed

    def _states(self, other: str) -> dict[Value, str]:
        """Where the states before a step are stored; states that are not kept have two places."""
        slots = ["last" if i in self.plan.history else other for i in range(len(self.plan.states))]
        return {v: f"after{i} + {slots[i]} * {v.size}" for i, v in enumerate(self.plan.states)}

    def _saved(self) -> dict[Value, str]:
        values = self.plan.per_step
        *starts, whole = accumulate([0, *(value.size for value in values)])
        return {v: f"saved + slot * {whole} + {start}" for v, start in zip(values, starts, strict=True)}

    def _starts(self) -> list[str]:
        """Lines that read the states elsewhere at the first step and after a reset."""
        starts, resets = [], []
        for i, value in enumerate(self.plan.states):
            name = self.name(value)
            starts.append(f"    {name} = tl.where(first, initial{i} + sequence * {value.size}, {name})")
            resets.append(f"        {name} = tl.where(reset, restart{i} + sequence * {value.size}, {name})")
        return ["if STARTS:", *starts, "    if resets is not None:", *resets]

    def _inside(self, work: Pass) -> list[str]:
        """Lines with pointers to values that are computed directly in their place in a join, outer joins first."""
        lines, left = [], dict(work.inside)
        while left:
            ready = [value for value, (join, _) in left.items() if join not in left]
            for value in ready:
                join, offset = left.pop(value)
                lines.append(f"{self.name(value)} = {self.name(join)} + {offset}")
        return lines

    def _after_forward(self) -> list[str]:
        """Lines that copy the output, if it has another place."""
        output = self.plan.output
        if output not in self.plan.next_states and output not in self.plan.per_step:
            return []
        return self.copied(output, f"outputs + (step if RETURN_SEQUENCE else sequence) * {output.size}")

    def _after_backward(self) -> list[str]:
        """Lines that copy the rows that are kept, and that end the gradients of states at a reset."""
        lines = []
        for value in self.elsewhere:
            lines += self.copied(value, f"record{self.records[value]} + step * {value.size}")
        if not self.plan.states:
            return lines
        lines.append("if resets is not None:")
        for i, value in enumerate(self.plan.d_states):
            lines += indented(self._ended(value, i), 1)
        return lines

    def _ended(self, value: Value, number: int) -> list[str]:
        """Lines that move the gradient of a state to that of the state after a reset, if there was one."""
        unit, size = self.next_unit(), value.size
        at, d, total = f"i{unit}", f"d{unit}", f"t{unit}"
        lines = [
            f"{d} = tl.load({self.name(value)} + {at}, mask={at} < {size}, other=0.0)",
            f"{total} = tl.load(d_restart{number} + sequence * {size} + {at}, mask={at} < {size}, other=0.0)",
            "tl.debug_barrier()",
            f"tl.store(d_restart{number} + sequence * {size} + {at}, "
            f"{total} + tl.where(reset, {d}, 0.0), mask={at} < {size})",
            f"tl.store({self.name(value)} + {at}, tl.where(reset, 0.0, {d}), mask={at} < {size})",
            "tl.debug_barrier()",
        ]
        return self.in_pieces(at, size, lines)

    def _unit(self, each: Loop | Product, work: Pass) -> Iterator[str]:
        if isinstance(each, Product):
            yield from self.product(each.value)
        else:
            yield from Block(self, each, work).lines()
        yield "tl.debug_barrier()"
