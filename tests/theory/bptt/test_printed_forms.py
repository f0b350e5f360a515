"""Each printed form of the derivation yields a gradient that differs from automatic differentiation."""

import numpy as np
import pytest

from src.theory.bptt import jacobians
from src.theory.bptt.jacobians import Chain, relative_error
from src.theory.bptt.printed_forms import PRINTED_LOSSES, slips


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_printed_form_gives_a_wrong_gradient(passed, seed):
    network, p = passed(seed)
    exact_MM = jacobians.autograd_gradient(network, p)["W"]
    for slip in slips(network):
        assert relative_error(jacobians.gradient(network, p, slip.chain)["W"], exact_MM) > 1e-4, slip.name
    for form in PRINTED_LOSSES:
        assert relative_error(jacobians.autograd_gradient(network, p, form.loss)["W"], exact_MM) > 0.01, form.name


def test_wrong_gradients_in_closed_form(passed):
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
