"""A bilinear term: its linear terms, padding and parameters.

Shapes: B sequences, H features of the state, J of the result, X of the input.
"""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from src.tensors.cp import CP
from src.tensors.full import Full
from src.tensors.sparse import Sparse
from src.tensors.tensor_train import TensorTrain
from src.tensors.terms import BilinearTerm
from src.tensors.tucker import Tucker

B, H, J, X, R = 5, 6, 7, 4, 3
MAPS = {
    "full": Full,
    "cp": partial(CP, rank=R),
    "tensor_train": partial(TensorTrain, ranks=(2, 3)),
    "tucker": partial(Tucker, ranks=(2, 5, 3)),
    "sparse": partial(Sparse, num_entries=40),
}
each_map = pytest.mark.parametrize("make", MAPS.values(), ids=MAPS)


@each_map
@pytest.mark.parametrize("linear", ["none", "input", "separate"])
def test_linear_terms_are_added_to_the_product(make, linear):
    term = BilinearTerm(make, (H, J, X), linear)
    h_BH, x_BX = torch.randn(B, H), torch.randn(B, X)
    expected_BJ = torch.einsum("bi,ijk,bk->bj", h_BH, term.map.full(), x_BX)
    if linear != "none":
        torch.nn.init.normal_(term.input.bias)
        expected_BJ = expected_BJ + x_BX @ term.input.weight.t() + term.input.bias
    if linear == "separate":
        expected_BJ = expected_BJ + h_BH @ term.state.weight.t()
    assert_close(term(h_BH, term.project(x_BX)), expected_BJ, rtol=1e-12, atol=1e-12)


@each_map
def test_combined_is_the_product_of_vectors_padded_with_ones(make):
    term = BilinearTerm(make, (H, J, X), "combined")
    h_BH, x_BX = torch.randn(B, H), torch.randn(B, X)
    padded = (torch.cat([torch.ones(B, 1), vector], dim=1) for vector in (h_BH, x_BX))
    expected_BJ = torch.einsum("bi,bk,ijk->bj", *padded, term.map.full())
    assert_close(term(h_BH, term.project(x_BX)), expected_BJ, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("linear", ["separate", "combined"])
def test_a_linear_function_of_state_and_input_is_exactly_contained(linear):
    """W h + V x + b is a separate term without its product, and a combined term with a rank of at most H + X + 1."""
    W_JH, V_JX, b_J = torch.randn(J, H), torch.randn(J, X), torch.randn(J)
    term = BilinearTerm(partial(CP, rank=H + X + 1), (H, J, X), linear)
    with torch.no_grad():
        for weight in term.map.parameters():
            weight.zero_()
        if linear == "separate":
            term.state.weight.copy_(W_JH)
            term.input.weight.copy_(V_JX)
            term.input.bias.copy_(b_J)
        else:  # components: one for every feature of h, with the 1 of x; one for every [1, x], with the 1 of h
            term.map.A_RI[:H, 1:], term.map.A_RI[H:, 0] = torch.eye(H), 1
            term.map.C_RK[:H, 0], term.map.C_RK[H:] = 1, torch.eye(X + 1)
            term.map.B_RJ.copy_(torch.cat([W_JH, b_J[:, None], V_JX], dim=1).t())
    h_BH, x_BX = torch.randn(B, H), torch.randn(B, X)
    expected_BJ = h_BH @ W_JH.t() + x_BX @ V_JX.t() + b_J
    assert_close(term(h_BH, term.project(x_BX)), expected_BJ, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("linear", "count"),
    [
        ("none", R * (2 * H + X)),
        ("input", R * (2 * H + X) + X * H + H),
        ("separate", R * (2 * H + X) + H**2 + X * H + H),
        ("combined", R * (2 * H + X + 2)),
    ],
)
def test_the_number_of_parameters_is_that_of_the_formula(linear, count):
    term = BilinearTerm(partial(CP, rank=R), (H, H, X), linear)
    assert sum(parameter.numel() for parameter in term.parameters()) == count


def test_a_combined_term_starts_with_an_input_of_unit_size_whatever_the_width():
    """At h = 0, only the constant 1 of the state is left; the constant and the features of the input add 1 each."""
    for size in (4, 128):
        x_BX = torch.randn(200, X)
        terms = [BilinearTerm(partial(CP, rank=8), (size, size, X), "combined") for _ in range(40)]
        squares = torch.stack([term(torch.zeros(200, size), term.project(x_BX)).square().mean() for term in terms])
        assert squares.mean().item() == pytest.approx(2, rel=0.3)
