"""The derivation of back-propagation through time against finite differences, automatic differentiation and others."""

import numpy as np
import pytest
import torch

from src.theory import bptt, jacobians, update_rules
from src.theory.jacobians import Chain, relative_error
from src.theory.printed_forms import PRINTED_LOSSES, slips


def passed(seed, zero_start=False, num_steps=6):
    network = jacobians.random_network(seed, zero_start=zero_start)
    x_TN = np.random.default_rng([seed, 9]).standard_normal((num_steps, 4))
    return network, jacobians.run_forward(network, x_TN, np.eye(3)[seed % 3])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kronecker_gradient_is_that_of_autograd_and_of_finite_differences(seed):
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


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_printed_form_gives_a_wrong_gradient(seed):
    network, p = passed(seed)
    exact_MM = jacobians.autograd_gradient(network, p)["W"]
    for slip in slips(network):
        assert relative_error(jacobians.gradient(network, p, slip.chain)["W"], exact_MM) > 1e-4, slip.name
    for form in PRINTED_LOSSES:
        assert relative_error(jacobians.autograd_gradient(network, p, form.loss)["W"], exact_MM) > 0.01, form.name


def test_wrong_gradients_in_closed_form():
    network, p = passed(1)
    exact = jacobians.autograd_gradient(network, p)
    printed = {slip.name: jacobians.gradient(network, p, slip.chain) for slip in slips(network)}
    assert not printed["softmax Jacobian with y for ŷ"]["W"].any()
    np.testing.assert_allclose(
        printed["no sum over time"]["W"], np.outer(jacobians.deltas(network, p, Chain())[-1], p.h_T1M[-2])
    )
    by_loss = {form.name: jacobians.autograd_gradient(network, p, form.loss)["W"] for form in PRINTED_LOSSES}
    np.testing.assert_allclose(by_loss["no logarithm in E"], p.prediction_K[p.y_K.argmax()] * exact["W"])
    np.testing.assert_allclose(by_loss["no minus sign in E"], -exact["W"])


def test_the_first_step_drops_out_for_the_recurrent_matrix_alone():
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


def test_all_claims_hold_and_say_what_was_refuted():
    result = bptt.compare_gradients(seed=3)
    assert all(claim.holds for claim in result.claims)
    assert sum(bool(claim.refuted) for claim in result.claims) == 15
    assert max(result.right.values()) < 1e-10 < 1e-4 < min(result.printed.values())
    assert result.printed["softmax Jacobian with y for ŷ"] == 1
    assert result.printed["no minus sign in E"] == pytest.approx(2)
    assert bptt.draw_gradients(result).axes


def test_update_rules():
    result = update_rules.compare_update_rules()
    assert all(claim.holds for claim in result.claims)
    assert result.right_I[-1] == pytest.approx(1, abs=0.01)
    assert result.printed_I[-1] == pytest.approx(0.5)
    np.testing.assert_allclose(result.with_log_Q, 1 - result.probability_Q)
    np.testing.assert_allclose(result.without_log_Q, result.probability_Q * (1 - result.probability_Q))
    assert sum(bool(claim.refuted) for claim in result.claims) == 7
    assert update_rules.draw_update_rules(result).axes
