"""Each form of a bilinear map computes the same as the full tensor for which it stands.

Shapes: B vectors, I, J and K features.
"""

from functools import partial
from itertools import product

import pytest
import torch
from torch.testing import assert_close

from src.tensors.cp import CP
from src.tensors.full import Full
from src.tensors.sparse import Sparse
from src.tensors.tensor_train import TensorTrain
from src.tensors.tucker import Tucker

B = 5
SIZES = I, J, K = 6, 7, 4  # noqa: E741
MAPS = {
    "full": (Full, I * J * K),
    "cp": (partial(CP, rank=3), 3 * (I + J + K)),
    "cp_with_normalized_rows": (partial(CP, rank=3, normalize="rows"), 3 * (I + J + K) + 3),
    "cp_with_normalized_factors": (partial(CP, rank=3, normalize="matrix"), 3 * (I + J + K)),
    "cp_of_the_author": (partial(CP, rank=3, init="mathews2016"), 3 * (I + J + K)),
    "tensor_train": (partial(TensorTrain, ranks=(2, 3)), 2 * I + 2 * 3 * J + 3 * K),
    "tucker": (partial(Tucker, ranks=(2, 5, 3)), 2 * I + 5 * J + 3 * K + 2 * 5 * 3),
    "sparse": (partial(Sparse, num_entries=40), 40),
    "sparse_with_fewer_entries_than_results": (partial(Sparse, num_entries=3), 3),
}
each_map = pytest.mark.parametrize("make", [make for make, _ in MAPS.values()], ids=MAPS)


@each_map
@pytest.mark.parametrize("padded", [False, True])
def test_the_product_is_that_of_the_full_tensor_with_all_gradients(make, padded):
    tensor = make(SIZES, padded=padded)
    a_BI, b_BK = torch.randn(B, I, requires_grad=True), torch.randn(B, K, requires_grad=True)
    weights_BJ = torch.randn(B, J)
    sources = [a_BI, b_BK, *tensor.parameters()]
    y_BJ, expected_BJ = tensor(a_BI, b_BK), torch.einsum("bi,ijk,bk->bj", a_BI, tensor.full(), b_BK)
    assert tensor.full().shape == SIZES
    assert_close(y_BJ, expected_BJ, rtol=1e-12, atol=1e-12)
    gradients, expected = (torch.autograd.grad((y * weights_BJ).sum(), sources) for y in (y_BJ, expected_BJ))
    for one, other in zip(gradients, expected, strict=True):
        assert_close(one, other, rtol=1e-12, atol=1e-12)


@each_map
def test_the_norm_is_that_of_the_full_tensor(make):
    tensor = make(SIZES)
    assert_close(tensor.square_norm(), tensor.full().square().sum(), rtol=1e-12, atol=1e-12)


@each_map
def test_the_second_vector_contributes_position_by_position(make):
    tensor, b_TBK = make(SIZES), torch.randn(2, B, K)
    p_TBP = tensor.project(b_TBK)
    assert_close(p_TBP[1], tensor.project(b_TBK[1]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("make", "count"), MAPS.values(), ids=MAPS)
def test_the_number_of_parameters_is_that_of_the_formula(make, count):
    assert sum(parameter.numel() for parameter in make(SIZES).parameters()) == count


@pytest.mark.parametrize("rank", [1, 3, 5])
@pytest.mark.parametrize(
    "make",
    [
        lambda rank: CP(SIZES, rank),
        lambda rank: CP(SIZES, rank, normalize="rows"),
        lambda rank: TensorTrain(SIZES, (rank, 4)),
        lambda rank: Tucker(SIZES, (rank, 7, 4)),
        lambda rank: Tucker(SIZES, (6, rank, 4)),
    ],
)
def test_the_matrix_of_every_second_vector_has_the_rank_at_most(make, rank):
    M_BJI = torch.einsum("ijk,bk->bji", make(rank).full(), torch.randn(B, K))
    assert (torch.linalg.matrix_rank(M_BJI) == rank).all()


def test_a_train_is_a_tucker_decomposition_without_a_factor_of_the_result():
    train, tucker = TensorTrain(SIZES, (2, 3)), Tucker(SIZES, (2, J, 3))
    with torch.no_grad():
        tucker.A_PI.copy_(train.A_PI)
        tucker.C_SK.copy_(train.C_QK)
        tucker.B_QJ.copy_(torch.eye(J))
        tucker.G_PQS.copy_(train.G_JPQ.transpose(0, 1))
    assert_close(train.full(), tucker.full(), rtol=1e-12, atol=1e-12)


def test_cp_is_a_tucker_decomposition_with_a_superdiagonal_core():
    cp, tucker = CP(SIZES, 3), Tucker(SIZES, (3, 3, 3))
    cp.weights_R = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    with torch.no_grad():
        for name, factor in zip(("A_PI", "B_QJ", "C_SK"), (cp.A_RI, cp.B_RJ, cp.C_RK), strict=True):
            getattr(tucker, name).copy_(factor)
        tucker.G_PQS.zero_()[range(3), range(3), range(3)] = cp.weights_R
    assert_close(cp.full(), tucker.full(), rtol=1e-12, atol=1e-12)


def test_cp_of_full_rank_is_the_elementwise_product():
    cp = CP((I, I, I), I)
    with torch.no_grad():
        for factor in cp.parameters():
            torch.nn.init.eye_(factor)
    a_BI, b_BI = torch.randn(2, B, I)
    assert torch.equal(cp(a_BI, b_BI), a_BI * b_BI)


def test_normalized_rows_have_a_norm_of_one_and_normalized_factors_as_a_whole():
    """So the norm of W is at most the sum of the absolute weights with the first, and at most 1 with the second."""
    rows, matrix = CP(SIZES, 3, normalize="rows"), CP(SIZES, 3, normalize="matrix")
    for map_ in (rows, matrix):
        before = map_.full()
        with torch.no_grad():
            map_.A_RI.mul_(5.0)
            map_.C_RK.mul_(0.1)
        assert_close(map_.full(), before, rtol=1e-12, atol=1e-12)
    components = torch.stack([CPs.norm() for CPs in torch.einsum("ri,rj,rk->rijk", *unit_rows(rows))])
    assert_close(components, torch.ones(3), rtol=1e-12, atol=1e-12)
    assert_close(rows.full(), torch.einsum("r,ri,rj,rk->ijk", rows.weights_R, *unit_rows(rows)), rtol=1e-12, atol=1e-12)


def unit_rows(cp):
    return [factor / factor.norm(dim=1, keepdim=True) for factor in (cp.A_RI, cp.B_RJ, cp.C_RK)]


def test_no_result_of_a_sparse_tensor_is_without_entries():
    tensor = Sparse((50, 8, 50), 20)
    assert (tensor.full() != 0).sum() <= 20
    assert (tensor.full() != 0).any(2).any(0).all()


def variance(make, num_samples, padded=False, seed=0):
    """The variance of the entries of y over random maps and vectors of unit variance."""
    torch.manual_seed(seed)
    squares = []
    for _ in range(num_samples):
        a_BI, b_BK = torch.randn(4, 30 + padded), torch.randn(4, 20 + padded)
        if padded:
            a_BI[:, 0] = b_BK[:, 0] = 1
        squares.append(make((30 + padded, 10, 20 + padded), padded=padded)(a_BI, b_BK).square().mean().item())
    return sum(squares) / num_samples


RANKS = {
    "full": lambda rank: Full,
    "cp": lambda rank: partial(CP, rank=rank),
    "cp_with_normalized_rows": lambda rank: partial(CP, rank=rank, normalize="rows"),
    "tensor_train": lambda rank: partial(TensorTrain, ranks=(rank, rank)),
    "tucker": lambda rank: partial(Tucker, ranks=(rank, rank, rank)),
    "sparse": lambda rank: partial(Sparse, num_entries=60 * rank),
}


@pytest.mark.parametrize(("form", "rank"), [pair for pair in product(RANKS, (1, 40)) if pair != ("full", 1)])
@torch.no_grad()
def test_the_variance_of_the_result_does_not_depend_on_the_rank(form, rank):
    """With rank 1, y is a product of three Gaussian variables, whose square varies widely: hence more samples."""
    make, wide = RANKS[form](rank), rank == 1 and form != "sparse"
    num_samples = 1000 if wide else 300
    assert variance(make, num_samples) == pytest.approx(1, rel=0.4 if wide else 0.1)
    if form != "cp_with_normalized_rows":
        # the constant 1 counts as much as all other features together: (1 + 1) (1 + 1)
        assert variance(make, num_samples, padded=True) == pytest.approx(4, rel=0.4 if wide else 0.15)


@torch.no_grad()
def test_the_authors_initialization_of_cp_dies_with_the_rank():
    small, large = (variance(partial(CP, rank=rank, init="mathews2016"), 300) for rank in (5, 50))
    assert small == pytest.approx(30 * 20 / 5**2, rel=0.2)
    assert large == pytest.approx(30 * 20 / 50**2, rel=0.2)
