"""The passes of the compiler, one by one: which values are saved, which loops and products result, and the C++.

Shapes: B sequences, H hidden units, K slots.
"""

import hashlib
import json
import os
import subprocess
import sys

import pytest
import torch

from src.config.paths import PROJECT
from src.models.alstm import ALSTM
from src.models.gru import GRU
from src.models.lstm import LSTM
from src.models.memory_core import MemoryCore
from src.ops.generated.derive import plan_of
from src.ops.generated.emit import emit
from src.ops.generated.expressions import COSTLY
from src.ops.generated.plan import Loop, Product
from src.ops.generated.trace import trace
from tests.models.cores import FILES, WITHOUT_KERNEL, of_file
from tests.ops.generated.steps import Cell, H


def plan(core):
    """The plan of a core, or of a cell with this step."""
    core = core if isinstance(core, torch.nn.Module) else type("Made", (Cell,), {"step": core})()
    return plan_of(core, trace(core))


def source(core):
    return emit(plan(core), "float")


def values(work):
    return [value for each in work.work for value in each.values]


def products(work):
    return [each.value for each in work.work if isinstance(each, Product)]


def loops(work):
    return [each for each in work.work if isinstance(each, Loop)]


def named(work, name):
    (value,) = (value for value in values(work) if value.name == name)
    return value


LONG = {"recurrent_deltanet", "srwm", "titans"}
LOWERED = [f for f in FILES if f.stem not in WITHOUT_KERNEL and not isinstance(of_file(f)(), MemoryCore)]
"""Models with a generated kernel, except `LONG`; that of the linear recurrence is written by hand."""


def some_of(files, start, step):
    """All files, where every `step`-th one from `start` on is not slow."""
    marks = [[] if number % step == start else [pytest.mark.slow] for number in range(len(files))]
    return [pytest.param(file, marks=mark) for file, mark in zip(files, marks, strict=True)]


def test_a_sigmoid_is_saved_and_not_computed_again():
    def step(self, p, h):
        gate = torch.sigmoid(self.W(h) + p)
        y = gate * h
        return y, y

    made = plan(step)
    assert "gate" in [value.name for value in made.saved]
    assert not COSTLY.intersection(value.operation for value in values(made.backward))


def test_what_is_cheap_is_computed_again_from_what_is_saved_anyway():
    def step(self, p, h):
        shifted = 3 * h + 1
        y = torch.tanh(p) * shifted * shifted
        return y, y

    made = plan(step)
    names = [value.name for value in made.saved]
    assert "h" in names
    assert "shifted" not in names
    assert "shifted" in [value.name for value in values(made.backward)]


def test_the_narrowest_place_is_saved():
    def step(self, p, h):
        narrow = torch.tanh(self.V(h))
        y = p * torch.exp(narrow).sum(1, keepdim=True)
        return y, y

    made = plan(step)
    per_step = [value for value in made.per_step if value.size > 1]
    assert {value.size for value in per_step} == {4}


@pytest.mark.parametrize(
    "file",
    [*some_of(LOWERED, 0, 3), *(pytest.param(file, marks=pytest.mark.slow) for file in FILES if file.stem in LONG)],
    ids=lambda file: file.stem,
)
def test_no_model_computes_a_product_or_a_costly_function_twice(file):
    made = plan(of_file(file)())
    assert not COSTLY.intersection(value.operation for value in values(made.backward))
    forward = {(value.operands[0].value.name, value.operands[1].strides) for value in products(made.forward)}
    assert not any(
        (value.operands[0].value.name, value.operands[1].strides) in forward for value in products(made.backward)
    )


def test_a_product_starts_from_what_is_added_to_it():
    def step(self, p, h):
        y = torch.tanh(p + h @ self.W.weight)
        return y, y

    made = plan(step)
    (product,) = products(made.forward)
    assert product.start.value is made.inputs[0]
    assert "add" not in [value.operation for value in values(made.forward)]


def test_a_product_that_is_read_twice_does_not():
    def step(self, p, h):
        a = h @ self.W.weight
        y = torch.tanh(p + a) * a
        return y, y

    (product,) = products(plan(step).forward)
    assert product.start is None


def test_loops_of_equal_extent_join():
    def step(self, p, h):
        a = torch.tanh(p)
        b = torch.sigmoid(h)
        c = a * b
        d = torch.softmax(self.V(h), 1)
        y = c + (d @ self.E_KH)
        return y, y

    made = plan(step)
    places = {made.forward.place[named(made.forward, name)] for name in ("a", "b")}
    assert len(places) == 1
    again = plan(lambda self, p, h: (torch.tanh(p) * torch.sigmoid(h) + self.rate_H * p, torch.exp(p - h)))
    assert len(loops(again.forward)) == 1


def test_what_one_later_loop_reads_moves_there():
    def step(self, p, h):
        gate = torch.sigmoid(p)
        doubled = h * h
        inner = doubled @ self.W.weight
        y = gate * torch.tanh(inner)
        return y, y

    forward = plan(step).forward
    assert forward.place[named(forward, "gate")] == forward.place[named(forward, "y")]
    assert forward.place[named(forward, "doubled")] < forward.place[named(forward, "y")]
    assert len(loops(forward)) == 2


def test_what_two_loops_read_stays_where_it_is():
    def step(self, p, h):
        gate = torch.sigmoid(p)
        inner = (gate * h) @ self.W.weight
        y = gate * torch.tanh(inner)
        return y, y

    forward = plan(step).forward
    assert forward.place[named(forward, "gate")] < forward.place[named(forward, "y")]


def test_a_concatenation_is_written_in_place():
    def step(self, p, h):
        a = torch.tanh(p)
        b = h @ self.W.weight
        both = torch.cat([a, b], 1)
        y = torch.tanh(both @ torch.cat([self.W.weight, self.W.weight], 0))
        return y, y

    forward = plan(step).forward
    both = named(forward, "a"), named(forward, "b")
    assert [forward.inside[value][1] for value in both] == [0, 6]
    assert len({id(forward.inside[value][0]) for value in both}) == 1


def test_a_sum_of_stacked_values_needs_no_room_for_them():
    def step(self, p, h):
        a_BHH, b_BHH = h[:, :, None] * p[:, None, :], p[:, :, None] + h[:, None, :]
        both_BH2 = torch.stack([a_BHH, b_BHH], 2).sum(1)
        y = torch.tanh(both_BH2[:, 0] - both_BH2[:, 1])
        return y, y

    assert max(value.size for value in plan(step).forward.memory) == 12


def test_two_sums_are_one():
    def step(self, p, h):
        y = torch.tanh((h[:, :, None] * p[:, None, :]).sum(1) + (p[:, :, None] + h[:, None, :]).sum(1))
        return y, y

    assert [value.kind for value in values(plan(step).forward)].count("reduce") == 1


def test_the_derivative_of_a_difference_has_no_negated_copy():
    def step(self, p, h):
        y = torch.tanh(p) * h - torch.sigmoid(p) * h
        return y, y

    for made in (plan(step), plan(ALSTM(4, hidden_size=6))):
        operations = [value.operation for each in (made.forward, made.backward) for value in values(each)]
        assert "sub" in operations
        assert "neg" not in operations


def test_to_divide_by_a_root_is_to_multiply_by_its_inverse():
    def step(self, p, h):
        norm_B1 = (h * h).sum(1, keepdim=True).add(1).sqrt()
        y = torch.tanh(p) * (h / norm_B1)
        return y, y

    made = plan(step)
    operations = {value.operation for each in (made.forward, made.backward) for value in values(each)}
    assert "rsqrt" in operations
    assert not operations & {"sqrt", "div", "reciprocal"}


def test_a_root_that_is_read_elsewhere_stays_one():
    def step(self, p, h):
        norm_B1 = (h * h).sum(1, keepdim=True).add(1).sqrt()
        y = torch.tanh(p) * (h / norm_B1) + norm_B1
        return y, y

    assert "sqrt" in [value.operation for value in values(plan(step).forward)]


@pytest.mark.parametrize(("terms", "saved"), [(2, []), (6, ["norm"])])
def test_a_sum_of_few_numbers_is_computed_again(terms, saved):
    def step(self, p, h):
        norm = (h * h).view(-1, H // terms, terms).sum(2)
        y = torch.where(norm.repeat(1, terms) > 1, p, h)
        return y, y

    made = plan(step)
    assert [value.name for value in made.per_step] == saved


def test_neighbors_in_one_value_are_not_copied_to_be_joined():
    def step(self, p, h):
        y = torch.tanh(self.W(h) + p)
        y = torch.cat([y[:, :2], y[:, 2:5], y[:, 5:]], 1)
        return y, y

    made = plan(step)
    assert not [value for value in values(made.forward) if value.kind in ("join", "part")]


def test_gradients_of_slices_are_joined():
    made = plan(GRU(4, hidden_size=6))
    (d_input,) = made.d_inputs
    assert d_input.kind == "join"
    assert sum(part.size for part in d_input.parts) == 18
    assert all(part.operands[0].value in made.backward.inside for part in d_input.parts)
    assert [value.kind for value in plan(LSTM(4, hidden_size=6)).d_inputs] == ["join"]


def test_the_gradient_of_a_weight_is_a_sum_of_products_of_rows():
    def step(self, p, h):
        y = torch.tanh(self.W(torch.tanh(self.W(h) + p)))
        return y, y

    made = plan(step)
    (weight,) = made.weights
    assert weight.shape == (6, 6)
    assert len(weight.terms) == 2
    assert [total.value.size for total in made.totals] == [6]


def test_what_does_not_depend_on_the_sequence_is_computed_once():
    def step(self, p, h):
        decay_H = torch.exp(-torch.nn.functional.softplus(self.rate_H))
        y = decay_H * h + p
        return y, y

    core = type("Made", (Cell,), {"step": step})()
    traced = trace(core)
    assert len(traced.constants) == 1
    torch.testing.assert_close(traced.constants[0], torch.exp(-torch.nn.functional.softplus(core.rate_H)).detach())
    assert "exp" not in [value.operation for value in values(plan_of(core, traced).forward)]


def test_equal_values_are_computed_once():
    def step(self, p, h):
        y = torch.tanh(p) * h + torch.tanh(p)
        return y, y

    assert [value.operation for value in values(plan(step).forward)].count("tanh") == 1


@pytest.mark.parametrize(
    "file",
    some_of(LOWERED, 1, 4),
    ids=lambda file: file.stem,
)
def test_the_source_does_not_depend_on_the_width(file):
    first, second = (source(of_file(file)(hidden_size=size)) for size in (30, 46))  # no other size has these values
    assert first.text == second.text
    assert first.sizes != second.sizes


class Leaky(Cell):
    """h_t = d h_{t-1} + tanh(W h_{t-1} + p_t)."""

    def __init__(self, decay):
        super().__init__()
        self.decay = decay

    def step(self, p, h):
        h = self.decay * h + torch.tanh(self.W(h) + p)
        return h, h


def test_numbers_are_not_part_of_the_source():
    first, second = source(Leaky(0.9)), source(Leaky(0.95))
    assert first.text == second.text
    assert (first.numbers, second.numbers) == ([0.9], [0.95])


def test_the_precision_is_part_of_the_source():
    made = plan(Leaky(0.9))
    single, double = (emit(made, scalar).text for scalar in ("float", "double"))
    assert [line for line in single.splitlines() if line not in double.splitlines()] == ["typedef float S;"]


def test_the_variables_of_a_step_are_named_in_its_source():
    text = source(GRU(4, hidden_size=6)).text
    for name in ("gates_B2H", "sum_BH", "h_BH", "recurrent_gates_weight", "recurrent_candidate_weight"):
        assert name in text
    assert "c_BH" in source(LSTM(4, hidden_size=6)).text


def test_any_names_of_variables_are_possible():
    def step(self, p, h):
        double, at, new = torch.tanh(p), torch.sigmoid(h), p * h
        i0, w0, n0, x0, V, forward = double + at, at * new, new + p, h * h, p * p, p - h
        for_, value = i0 * w0 * n0, x0 + V + forward
        y = for_ + value
        return y, y

    assert "double double" not in source(step).text


def test_a_sum_over_an_outer_dimension_stays_in_a_register():
    def step(self, p, h):
        pairs_B23, more_B32 = torch.tanh(h).view(-1, 2, 3), torch.sigmoid(p).view(-1, 3, 2)
        y = torch.tanh(p * pairs_B23.sum(1).repeat(1, 2) + h * more_B32.sum(1).repeat(1, 3))
        return y, y

    text = source(step).text
    assert "std::fill" not in text[text.index("forward(Places") : text.index("backward(Places")]
    assert "in_parts" not in text


def test_a_long_sum_has_parts():
    def step(self, p, h):
        y = torch.tanh(p) * torch.sigmoid(h).sum(1, keepdim=True)
        return y, y

    assert "in_parts" in source(step).text


HASHES = """
import hashlib, json, torch
from tests.ops.generated.test_passes import hashes
print(json.dumps(hashes()))
"""


def hashes():
    """The hash of the source of each model."""
    return {file.stem: hashlib.sha256(source(of_file(file)()).text.encode()).hexdigest() for file in LOWERED}


@pytest.mark.slow
def test_another_process_writes_the_same_source():
    environment = dict(os.environ, PYTHONHASHSEED="12345", OMP_NUM_THREADS="1")
    ended = subprocess.run(
        [sys.executable, "-c", HASHES], cwd=PROJECT, env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(ended.stdout) == hashes()
