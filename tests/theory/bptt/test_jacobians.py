"""The Jacobian form of back-propagation through time against finite differences and automatic differentiation."""

import numpy as np
import pytest
import torch

from src.theory import bptt
from src.theory.bptt import jacobians
from src.theory.bptt.jacobians import Chain, relative_error


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kronecker_gradient_equals_autograd_and_finite_differences(passed, seed):
    network, p = passed(seed)
    found, exact = jacobians.gradient(network, p), jacobians.autograd_gradient(network, p)
    for name in ("W", "U", "b"):
        assert relative_error(found[name], exact[name]) < 1e-10

    def loss(W_MM):
        moved = jacobians.run_forward(network._replace(W_MM=W_MM), p.x_TN, p.y_K)
        return -np.log(moved.prediction_K[p.y_K.argmax()])

    differences_MM = np.zeros((5, 5))
    for index in np.ndindex(5, 5):
        step_MM = np.zeros((5, 5))
        step_MM[index] = 1e-6
        differences_MM[index] = (loss(network.W_MM + step_MM) - loss(network.W_MM - step_MM)) / 2e-6
    assert relative_error(found["W"], differences_MM) < 1e-7


def test_the_kronecker_product_is_the_jacobian_by_columns():
    h_M, rng = np.arange(1.0, 4), np.random.default_rng(0)
    W_MM = rng.standard_normal((3, 3))
    jacobian = np.kron(h_M[None], np.eye(3))
    np.testing.assert_allclose(jacobian @ W_MM.ravel(order="F"), W_MM @ h_M)
    assert not np.allclose(jacobian @ W_MM.ravel(order="C"), W_MM @ h_M)


def test_the_first_step_drops_out_only_for_the_recurrent_matrix(passed):
    network, p = passed(2, zero_start=True)
    exact, late = jacobians.autograd_gradient(network, p), jacobians.gradient(network, p, Chain(first=1))
    assert relative_error(late["W"], exact["W"]) < 1e-10
    assert relative_error(late["U"], exact["U"]) > 1e-4
    assert relative_error(late["b"], exact["b"]) > 1e-4


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_fast_weights_against_autograd(nonlinearity, layer_norm):
    core = bptt.random_fast_weights(4, 6, nonlinearity, layer_norm)
    rng = np.random.default_rng(5)
    p_TM, by_h_M = rng.standard_normal((6, 6)), rng.standard_normal(6)
    p = jacobians.run_fast_weights(core, p_TM)
    h_BTM, state = core.scan(torch.tensor(p_TM[None]))
    np.testing.assert_allclose(p.h_T1M[1:], h_BTM[0].detach(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(p.A_TMM[-1], state.A_BHH[0].detach(), rtol=1e-10, atol=1e-12)
    exact = jacobians.autograd_fast_weights(core, p_TM, by_h_M)
    found = jacobians.fast_weights_gradient(core, p, by_h_M)
    assert set(found) == set(exact) == ({"W", "p", "gain", "bias"} if layer_norm else {"W", "p"})
    for name in exact:
        assert relative_error(found[name], exact[name]) < 1e-10
    without = jacobians.fast_weights_gradient(core, p, by_h_M, through_memory=False)
    assert relative_error(without["W"], exact["W"]) > 0.01


@pytest.mark.parametrize(("num_units", "num_steps"), [(2, 4), (3, 1)])
def test_gradients_have_the_axes_of_what_they_are_of(num_units, num_steps):
    core = bptt.random_fast_weights(4, num_units, "tanh", True)
    p_TM, by_h_M = np.ones((num_steps, num_units)), np.ones(num_units)
    shapes = {name: found.shape for name, found in jacobians.autograd_fast_weights(core, p_TM, by_h_M).items()}
    assert shapes == {
        "W": (num_units, num_units),
        "p": (num_steps, num_units),
        "gain": (num_units,),
        "bias": (num_units,),
    }
