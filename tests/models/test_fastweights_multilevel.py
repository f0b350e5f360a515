"""Fast weights on two levels compute what Figure 3 of the paper shows."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from src.models.fastweights_multilevel import FastWeightsMultilevel

X, H, T = 4, 6, 24


def random_core(**settings):
    """A core with weights far from their initial values."""
    core = FastWeightsMultilevel(X, hidden_size=H, decay=0.8, fast_lr=0.3, **settings)
    for name, parameter in core.named_parameters():
        nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.4)
    return core


@pytest.mark.parametrize("kernel", ["reference", "vectorized"])
@pytest.mark.parametrize("wipe", [True, False])
def test_four_quadrants_are_stored_wiped_and_integrated(kernel, wipe):
    core = random_core(wipe=wipe, kernel=kernel)
    matrices = (core.input, core.recurrent, core.integration, core.norm)
    C, W, W_int, gain = (module.weight.detach().numpy() for module in matrices)
    x_TX = torch.randn(T, X)
    y_TH, state = core(core.project(x_TX[None]))

    def f_of_norm(a):
        normed = (a - a.mean()) / np.sqrt(a.var() + core.norm.eps)
        return np.maximum(gain * normed + core.norm.bias.detach().numpy(), 0)

    h, stored, expected = np.zeros(H), [], []
    for t, x in enumerate(x_TX.numpy()):
        if t % 6 == 5:
            cue = np.maximum(C @ x, 0)
            ages = range(len(stored) - 1, -1, -1)
            read = sum(0.3 * 0.8**age * s * (s @ cue) for age, s in zip(ages, stored, strict=True))
            h = f_of_norm(W_int @ h + C @ x + read)
        else:
            h = f_of_norm(W @ h + C @ x)
        expected.append(h)
        if t % 6 == 0:
            stored.append(h)
            h = np.zeros(H) if wipe else h
    np.testing.assert_allclose(y_TH[0].detach(), expected, atol=1e-12)
    np.testing.assert_allclose(state.h_BH[0].detach(), h, atol=1e-12)


@pytest.mark.parametrize(("wipe", "fast_lr", "forgets"), [(True, 0.0, True), (True, 0.3, False), (False, 0.0, False)])
def test_without_memory_the_wipe_leaves_only_the_last_quadrant(wipe, fast_lr, forgets):
    core = random_core(wipe=wipe)
    core.fast_lr = fast_lr
    x_1TX = torch.randn(1, T, X)
    others = torch.cat([torch.randn(1, T - 6, X), x_1TX[:, -6:]], dim=1)
    last, other = (core(core.project(x))[0][:, -1] for x in (x_1TX, others))
    assert torch.equal(last, other) == forgets


def test_sequences_at_other_positions_go_on_where_they_are():
    core, x_BTX = random_core(), torch.randn(2, T, X)
    y_BTH, _ = core(core.project(x_BTX))
    _, at_7 = core(core.project(x_BTX[:1, :7]))
    _, at_3 = core(core.project(x_BTX[1:, :3]))
    together = type(at_7)(*(torch.cat(both) for both in zip(at_7, at_3, strict=True)))
    later = torch.stack([x_BTX[0, 7:17], x_BTX[1, 3:13]])
    goes_on, _ = core(core.project(later), together)
    assert_close(goes_on, torch.stack([y_BTH[0, 7:17], y_BTH[1, 3:13]]), rtol=1e-10, atol=1e-10)


def test_autocast_rounds_no_sum_of_stored_states():
    core = FastWeightsMultilevel(X, hidden_size=H, kernel="vectorized").float()
    with torch.autocast("cpu", torch.bfloat16):
        y_BTH, state = core(core.project(torch.randn(2, T, X, dtype=torch.float32)))
    stored_BQH = y_BTH[:, ::6].float()
    A_BHH = sum(0.5 * 0.95 ** (3 - q) * h_BH[:, :, None] * h_BH[:, None] for q, h_BH in enumerate(stored_BQH.unbind(1)))
    assert_close(state.A_BHH, A_BHH, rtol=1e-6, atol=1e-6)


def test_a_layer_norm_of_one_unit_is_an_error():
    with pytest.raises(ValueError, match=r"^hidden_size=1: must be 2 or more"):
        FastWeightsMultilevel(X, hidden_size=1)


def test_attention_is_what_the_last_step_reads():
    core, x_BTX = random_core(), torch.randn(3, T, X)
    p_BTH = core.project(x_BTX)
    attention_Bt = core.attention(p_BTH)
    y_BTH, _ = core(p_BTH)
    read_BH = torch.einsum("bij,bj->bi", core.memory(p_BTH), torch.relu(p_BTH[:, -1]))
    assert_close(torch.einsum("bt,bth->bh", attention_Bt, y_BTH[:, :-1]), read_BH, rtol=1e-10, atol=1e-10)
    assert not core.attention(p_BTH[:, :9]).any()


def test_weights_start_as_those_of_fast_weights():
    core = FastWeightsMultilevel(50, hidden_size=25, recurrent_scale=0.3)
    for layer in (core.recurrent, core.integration):
        assert_close(layer.weight.detach(), 0.3 * torch.eye(25), rtol=0, atol=0)
    assert 0.19 < core.input.weight.abs().max() <= 0.2


@pytest.mark.parametrize(("wipe", "matrices"), [(True, 21 - 4), (False, 21)])
def test_operations_are_those_of_matrices_and_of_stored_states_that_are_read(wipe, matrices):
    """Of 22 steps, three read one, two and three stored states; the first, and four after a wipe, start from h = 0."""
    assert random_core(wipe=wipe).flops(22) == 6 * (matrices * H * H + 2 * (1 + 2 + 3) * H)
