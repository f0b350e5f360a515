"""Decomposed operations have the same results as in torch, with the same derivatives."""

from functools import partial

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from src.ops.generated.decompositions import BEFORE_DERIVATIVES, OneHot
from src.ops.generated.recipe import LoweringError

aten = torch.ops.aten
PLACES = torch.tensor([[1, 0, 2], [4, 4, 1]])


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        *((aten.cumsum.default, (dim,)) for dim in (0, 1, -1)),
        *((aten.gather.default, (dim, PLACES[:, :2] % size)) for dim, size in ((0, 3), (1, 5), (-1, 5))),
        *((operator.dim, (dim, keepdim)) for operator in (aten.max, aten.min) for dim in (0, -1) for keepdim in (0, 1)),
        *((operator.default, dims) for operator in (aten.argmax, aten.argmin) for dims in ((), (0,), (-1, True))),
        *((aten.topk.default, (k, dim, largest)) for k, dim in ((1, 0), (3, 1), (5, -1)) for largest in (True, False)),
        (aten.roll.default, ([2], [1])),
        (aten.linalg_vector_norm.default, (2, [1], True)),
        (aten.var.correction, ([1],)),
        (aten.std.correction, ([1],)),
    ],
)
def test_parts_give_the_same_as_the_whole(operator, arguments):
    x = torch.randn(3, 5, requires_grad=True)
    given = [tuple(a) if isinstance(a, list) and operator is aten.roll.default else a for a in arguments]
    expected, found = operator(x, *arguments), BEFORE_DERIVATIVES[operator](x, *given)
    assert_close(found, expected, rtol=1e-12, atol=1e-12)
    results = [(a, b) for a, b in zip(*map(_listed, (found, expected)), strict=True) if b.requires_grad]
    for a, b in results:
        share = torch.cos(torch.arange(b.numel())).view_as(b)
        assert_close(*(torch.autograd.grad(r, x, share) for r in (a, b)), rtol=1e-12, atol=1e-12)


def _listed(results):
    return [results] if isinstance(results, torch.Tensor) else list(results)


def test_a_sum_of_one_number():
    assert torch.equal(BEFORE_DERIVATIVES[aten.cumsum.default](torch.tensor(2.0), 0), torch.tensor(2.0))


def test_what_is_not_chosen_leaves_no_trace():
    x = torch.tensor([[torch.inf, 1.0, torch.nan]])
    assert BEFORE_DERIVATIVES[aten.gather.default](x, 1, torch.tensor([[1]])).item() == 1


@pytest.mark.parametrize("operator", [aten.max.dim, aten.min.dim])
def test_what_is_not_a_number_is_the_greatest_and_the_least(operator):
    x = torch.tensor([[1.0, torch.nan, 3.0, torch.nan], [0.0, -1.0, 4.0, 2.0]])
    assert_close(BEFORE_DERIVATIVES[operator](x, 1), tuple(operator(x, 1)), equal_nan=True)


def test_numbers_without_an_end_are_taken_once_each():
    x = torch.tensor([[-torch.inf, 2.0, -torch.inf, -torch.inf]])
    _, found = BEFORE_DERIVATIVES[aten.topk.default](x, 3)
    assert found.tolist() == [[1, 0, 2]]


def test_an_embedding_of_indices_of_any_shape():
    weight = torch.randn(5, 4, requires_grad=True)
    found, expected = BEFORE_DERIVATIVES[aten.embedding.default](weight, PLACES), functional.embedding(PLACES, weight)
    assert_close(found, expected)
    assert_close(*(torch.autograd.grad(result.square().sum(), weight) for result in (found, expected)))


def test_what_is_read_outside_a_table_is_no_number():
    x, places = torch.ones(2, 3), torch.tensor([[-1, 0, 2, 3]] * 2)
    expected = torch.tensor([[torch.nan, 1, 1, torch.nan]] * 2)
    assert_close(BEFORE_DERIVATIVES[aten.gather.default](x, -1, places), expected, equal_nan=True)
    found = BEFORE_DERIVATIVES[aten.embedding.default](x.t(), places)
    assert_close(found, expected[..., None].expand(-1, -1, 2), equal_nan=True)


@pytest.mark.parametrize("operator", [aten.linalg_vector_norm.default, aten.std.correction])
def test_the_length_and_the_spread_of_nothing_have_a_derivative_of_0(operator):
    x = torch.zeros(2, 3, requires_grad=True)
    assert torch.equal(torch.autograd.grad(BEFORE_DERIVATIVES[operator](x, dim=[1]).sum(), x)[0], torch.zeros(2, 3))


@pytest.mark.parametrize("divisor", [3, -3])
def test_a_quotient_of_integers_is_rounded_down(divisor):
    whole = torch.arange(-7, 8)
    assert_close(BEFORE_DERIVATIVES[aten.floor_divide.default](whole, divisor).long(), whole // divisor)


def test_one_hot_without_a_look_at_the_values():
    with OneHot():
        assert torch.equal(functional.one_hot(PLACES, 5), torch.eye(5, dtype=torch.int64)[PLACES])
        with pytest.raises(LoweringError, match="one_hot without num_classes"):
            functional.one_hot(PLACES)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (partial(BEFORE_DERIVATIVES[aten.topk.default], k=17), "aten.topk of 17; at most 16 is supported"),
        (partial(BEFORE_DERIVATIVES[aten.linalg_vector_norm.default], ord=1), "linalg_vector_norm of order 1"),
    ],
)
def test_what_cannot_be_taken_apart_is_named(operation, message):
    with pytest.raises(LoweringError, match=message):
        operation(torch.randn(2, 20))
