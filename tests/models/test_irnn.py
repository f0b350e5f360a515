import pytest
import torch
from torch.testing import assert_close

from src.models.irnn import IRNN
from src.models.rnn import RNN

pytestmark = pytest.mark.usefixtures("uncompiled")
X, H = 4, 6


def test_without_input_a_positive_state_and_its_gradient_stay_exactly_as_they_are():
    core = IRNN(X, hidden_size=H)
    p_BTH = core.project(torch.zeros(1, 50, X))
    h_H = torch.rand(H) + 0.1

    def run(h_H):
        return core(p_BTH, h_H[None])[0][0]

    assert_close(run(h_H), h_H.expand(50, H), rtol=0, atol=0)
    assert_close(torch.autograd.functional.jacobian(run, h_H), torch.eye(H).expand(50, H, H), rtol=0, atol=0)


def test_layer_norm_does_not_keep_the_state():
    core = IRNN(X, hidden_size=H, layer_norm=True)
    h_BH = torch.rand(1, H) + 0.1
    assert (core(core.project(torch.zeros(1, 1, X)), h_BH)[1] - h_BH).abs().max() > 0.1


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.01])
def test_recurrent_matrix_starts_from_the_scaled_identity_and_bias_from_zero(scale):
    core = IRNN(X, hidden_size=H, recurrent_scale=scale)
    assert_close(core.recurrent.weight.detach(), scale * torch.eye(H), rtol=0, atol=0)
    assert not core.input.bias.any()


def test_input_weights_start_uniform_or_from_the_normal_distribution_asked_for():
    assert 0.19 < IRNN(50, hidden_size=25).input.weight.abs().max() <= 0.2
    normal = IRNN(100, hidden_size=100, input_std=0.001).input.weight
    assert normal.std().item() == pytest.approx(0.001, rel=0.03)
    assert normal.abs().max() > 0.003


@pytest.mark.parametrize("normalize", [False, True])
def test_with_equal_weights_it_is_the_rectified_rnn(normalize):
    core = IRNN(X, hidden_size=H, layer_norm=normalize)
    reference = RNN(X, hidden_size=H, layer_norm=normalize, nonlinearity="relu")
    reference.load_state_dict(core.state_dict())
    p_BTH = core.project(torch.randn(3, 7, X))
    assert_close(core(p_BTH)[0], reference(p_BTH)[0], rtol=0, atol=0)


def test_three_steps_are_the_equation():
    core = IRNN(X, hidden_size=H, recurrent_scale=0.5)
    x_TX = torch.randn(3, X)
    V, h_H = core.input.weight.detach().numpy(), 0.0
    for t, y_H in enumerate(core(core.project(x_TX[None]))[0][0]):
        h_H = (0.5 * h_H + V @ x_TX[t].numpy()).clip(min=0)
        assert_close(y_H.detach(), torch.tensor(h_H), rtol=0, atol=1e-12)
