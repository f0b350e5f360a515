"""Decompositions of full tensors by TensorLy."""

import pytest
import torch
from torch.testing import assert_close

from src.tensors.cp import CP
from src.tensors.decompose import cp_als, higher_order_svd, relative_error, tensor_train_svd
from src.tensors.tensor_train import TensorTrain
from src.tensors.tucker import Tucker

pytest.importorskip("tensorly")
SIZES = (6, 7, 5)


@pytest.mark.parametrize(
    ("tensor", "decompose"),
    [
        (lambda: TensorTrain(SIZES, (2, 3)), lambda W: tensor_train_svd(W, (2, 3))),
        (lambda: Tucker(SIZES, (2, 4, 3)), lambda W: higher_order_svd(W, (2, 4, 3))),
        (lambda: CP(SIZES, 2), lambda W: cp_als(W, 2)),
    ],
    ids=["tensor_train", "tucker", "cp"],
)
def test_a_tensor_of_the_rank_is_found_and_computes_the_same(tensor, decompose):
    W_IJK = tensor().full().detach()
    found = decompose(W_IJK)
    assert relative_error(W_IJK, found.full()) < 1e-6
    a_BI, b_BK = torch.randn(3, SIZES[0]), torch.randn(3, SIZES[2])
    expected_BJ = torch.einsum("bi,ijk,bk->bj", a_BI, W_IJK, b_BK)
    assert_close(found(a_BI, b_BK), expected_BJ, rtol=1e-5, atol=1e-5)


def test_a_tensor_train_has_no_more_components_than_it_needs_to_be_exact():
    W_IJK = torch.randn(SIZES)
    found = tensor_train_svd(W_IJK, (9, 8))
    assert found.G_JPQ.shape == (7, 6, 5)
    assert relative_error(W_IJK, found.full()) < 1e-6


def test_truncated_decompositions_are_within_their_bounds_of_the_optimum():
    """For each unfolding, the error of the optimum is at least that of the best matrix of the rank."""
    W_IJK = torch.randn(SIZES)
    first, last = W_IJK.flatten(1), W_IJK.flatten(0, 1).t()
    tails = [float(torch.linalg.svdvals(matrix)[2:].square().sum().sqrt()) for matrix in (first, last)]
    for found in (tensor_train_svd(W_IJK, (2, 2)), higher_order_svd(W_IJK, (2, 7, 2))):
        error = float((W_IJK - found.full().detach()).norm())
        assert max(tails) <= error <= (tails[0] ** 2 + tails[1] ** 2) ** 0.5
    with_more = [relative_error(W_IJK, cp_als(W_IJK, rank).full().detach()) for rank in (1, 3, 6)]
    assert with_more == sorted(with_more, reverse=True)
