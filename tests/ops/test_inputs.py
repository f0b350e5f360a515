"""Inputs given as a table with ids are the same as inputs given as vectors, whatever the tensors in them.

Shapes: B sequences, T time steps, V rows of a table.
"""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from src.ops.inputs import Inputs, steps

B, T, V = 3, 7, 5


class Projected(NamedTuple):
    """A vector, a matrix and a number per position, and one more vector inside another tuple."""

    q: Tensor
    matrix: Tensor
    gate: Tensor
    more: tuple[Tensor]


def projected(*leading: int) -> Projected:
    return Projected(
        torch.randn(*leading, 4), torch.randn(*leading, 2, 3), torch.randn(leading), (torch.randn(*leading, 1),)
    )


def leaves(projected: Projected) -> list[Tensor]:
    return [projected.q, projected.matrix, projected.gate, *projected.more]


@pytest.mark.parametrize("trailing", [(4,), (2, 3), (), (1,), (2, 1, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_vectors_are_the_rows_of_the_ids_with_their_gradient(trailing, dtype):
    table, ids = torch.randn(V, *trailing, requires_grad=True), torch.randint(V, (B, T)).to(dtype)
    vectors, expected = Inputs(table, ids).vectors, table[ids.long()]
    assert vectors.shape == (B, T, *trailing)
    assert torch.equal(vectors, expected)
    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad((rows * weights).sum(), table)[0] for rows in (vectors, expected)]
    assert_close(*gradients)


def test_a_table_may_lie_in_any_order_in_memory():
    table, ids = torch.randn(2, 3, V).movedim(-1, 0), torch.randint(V, (B, T))
    assert torch.equal(Inputs(table, ids).vectors, table[ids])


def test_vectors_of_several_tensors_are_those_of_each():
    table, ids = projected(V), torch.randint(V, (B, T))
    vectors = Inputs(table, ids).vectors
    assert isinstance(vectors, Projected)
    assert all(torch.equal(actual, rows[ids]) for actual, rows in zip(leaves(vectors), leaves(table), strict=True))


def test_without_ids_the_vectors_are_what_was_given():
    tensor, several = torch.randn(B, T, 4), projected(B, T)
    assert Inputs(tensor).vectors is tensor
    assert Inputs(several).vectors is several


@pytest.mark.parametrize("inputs", [Inputs(torch.randn(B, T, 4)), Inputs(torch.randn(V, 4), torch.zeros(B, T).long())])
def test_batch_and_time_of_one_tensor(inputs):
    assert inputs.batch_and_time == (B, T)
    assert inputs.example is inputs.table


@pytest.mark.parametrize("inputs", [Inputs(projected(B, T)), Inputs(projected(V), torch.zeros(B, T).long())])
def test_batch_and_time_of_several_tensors(inputs):
    assert inputs.batch_and_time == (B, T)
    assert any(inputs.example is leaf for leaf in leaves(inputs.table))


@pytest.mark.parametrize("num_steps", [1, 3, 7, 100])
@pytest.mark.parametrize("by_ids", [False, True])
def test_pieces_put_together_are_the_whole(num_steps, by_ids):
    ids = torch.randint(V, (B, T)) if by_ids else None
    leading = (V,) if by_ids else (B, T)
    lengths = [min(num_steps, T - start) for start in range(0, T, num_steps)]

    inputs = Inputs(torch.randn(*leading, 4), ids)
    pieces = inputs.split(num_steps)
    assert [piece.batch_and_time for piece in pieces] == [(B, length) for length in lengths]
    assert torch.equal(torch.cat([piece.vectors for piece in pieces], dim=1), inputs.vectors)

    inputs = Inputs(projected(*leading), ids)
    pieces = [leaves(piece.vectors) for piece in inputs.split(num_steps)]
    assert len(pieces) == len(lengths)
    for whole, *parts in zip(leaves(inputs.vectors), *pieces, strict=True):
        assert torch.equal(torch.cat(parts, dim=1), whole)


def test_steps_are_those_of_every_tensor():
    tensor, several = torch.randn(B, T, 4), projected(B, T)
    assert torch.equal(torch.stack(steps(tensor), dim=1), tensor)
    by_step = steps(several)
    assert len(by_step) == T
    for t, step in enumerate(by_step):
        assert isinstance(step, Projected)
        assert all(torch.equal(a, b[:, t]) for a, b in zip(leaves(step), leaves(several), strict=True))
