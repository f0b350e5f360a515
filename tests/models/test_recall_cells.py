"""Cells whose memory is not a linear recurrence, beyond what the shared tests cover.

Shapes: B sequences, T time steps, X input features, D outputs, H heads, K features of query, key and value.
"""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import expit as sigmoid
from torch.nn import functional
from torch.testing import assert_close

from src.models.attention import Attention
from src.models.deltanet import DeltaNet
from src.models.fastweights import FastWeights
from src.models.linear_attention import LinearAttention
from src.models.mesanet import MesaNet
from src.models.recurrent_deltanet import RecurrentDeltaNet
from src.models.srwm import SRWM
from src.models.titans import Titans
from src.models.ttt_linear import TTTLinear
from src.ops.inputs import Inputs
from src.ops.linear_recurrence import Terms, scan
from src.specs import map_state, state_tensors

B, T, X, D, H, K = 2, 7, 4, 6, 2, 3
CELLS = {
    "recurrent_deltanet": (RecurrentDeltaNet, {"kernel": "reference"}),
    "srwm": (SRWM, {"kernel": "reference"}),
    "ttt_linear": (TTTLinear, {"mini_batch": 3}),
    "ttt_linear_plain": (TTTLinear, {"mini_batch": 1, "loss": "plain"}),
    "titans": (Titans, {"chunk_size": 3}),
    "titans_by_step": (Titans, {"chunk_size": 1}),
    "mesanet": (MesaNet, {"chunk_size": 3}),
    "attention": (Attention, {}),
    "sliding_window": (Attention, {"window": 3}),
    "one_step": (Attention, {"window": 1}),
}
each_cell = pytest.mark.parametrize("cell", CELLS)


def random_cell(cell, **settings):
    cls, own = CELLS[cell]
    core = cls(X, hidden_size=D, num_heads=H, **{**own, **settings})
    for parameter in core.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return core


def random_parts(num_gates):
    """Queries, keys, values and gates."""
    return *(torch.randn(B, T, H, K) for _ in range(3)), torch.randn(B, T, num_gates)


@each_cell
def test_the_fast_form_is_the_scan_of_step_in_two_pieces_split_anywhere(cell):
    core, x_BTX = random_cell(cell), torch.randn(B, T, X)
    p = core.project(x_BTX)
    whole_BTD, end = core.scan(p)
    for place in range(1, T):
        parts = [map_state(lambda tensor, s=s: tensor[:, s], p) for s in (slice(place), slice(place, None))]
        first_BTD, state = core(parts[0])
        second_BTD, state = core(parts[1], state)
        assert_close(torch.cat([first_BTD, second_BTD], dim=1), whole_BTD, rtol=0, atol=1e-12)
        assert_close(state_tensors(state), state_tensors(end), rtol=0, atol=1e-12)


@each_cell
def test_inputs_of_zero_have_finite_gradients(cell):
    core, x_BTX = random_cell(cell), torch.zeros(B, T, X, requires_grad=True)
    y_BTD, _ = core(core.project(x_BTX))
    y_BTD.square().sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in core.parameters())
    assert torch.isfinite(x_BTX.grad).all()


@pytest.mark.parametrize(
    ("cls", "settings", "size"),
    [
        (RecurrentDeltaNet, {"key_size": 16, "value_size": 16}, 256 + 16),
        (SRWM, {"key_size": 9}, 9 * (3 * 9 + 4)),
        (TTTLinear, {"key_size": 11}, 2 * (121 + 11) + 1),
        (Titans, {"key_size": 11, "value_size": 11}, 2 * 121),
        (MesaNet, {"key_size": 11, "value_size": 11}, 2 * 121),
        (Attention, {"key_size": 4, "value_size": 5, "window": 10}, 9 * 9 + 1),
    ],
)
def test_the_size_of_the_state_counts_all_that_is_carried(cls, settings, size):
    assert (
        cls(X, hidden_size=D, num_heads=1, **({} if cls is SRWM else {"conv_size": 0}), **settings).state_size == size
    )
    if cls is not SRWM:
        core = cls(X, hidden_size=D, num_heads=1, conv_size=4, **settings)
        assert core.state_size == size + 3 * core.conv_CL.shape[0]


def test_operations_are_those_of_all_products_with_what_is_carried():
    sizes = {"hidden_size": D, "num_heads": H, "key_size": 4}
    rank_1, solution = 4 * 5, 4**3 // 3
    assert Titans(X, value_size=5, **sizes).flops(10) == 6 * 10 * H * 3 * rank_1
    assert TTTLinear(X, **sizes).flops(10) == 6 * 10 * H * 4 * 4**2
    assert SRWM(X, **sizes).flops(10) == 6 * 10 * H * 3 * 16 * 4
    assert MesaNet(X, value_size=5, **sizes).flops(10) == 6 * 10 * H * (2 * rank_1 + 4**2 + solution)
    assert Attention(X, value_size=5, window=3, **sizes).flops(10) == 6 * (1 + 2 + 8 * 3) * H * (4 + 5)


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


@pytest.mark.parametrize("recurrent", [True, False])
def test_a_recurrent_delta_net_is_its_equations_and_without_r_a_delta_net_with_softmax(recurrent):
    core = random_cell("recurrent_deltanet", max_beta=1.5)
    core.recurrent_HVR.data.mul_(recurrent)
    q, k, v, gates = random_parts(H)
    R = core.recurrent_HVR.detach().numpy()
    o_BTHK, _ = core.recall_each(q, k, v, gates, core.empty(B))
    for b in range(B):
        for head in range(H):
            S, o = np.zeros((K, K)), np.zeros(K)
            for t in range(T):
                added = np.tanh(o) @ R[head]
                query = softmax(q[b, t, head].numpy() + added[:K])
                key = softmax(k[b, t, head].numpy() + added[K : 2 * K])
                value = v[b, t, head].numpy() + added[2 * K : 3 * K]
                beta = 1.5 * sigmoid(gates[b, t, head].numpy() + added[3 * K])
                S = S + beta * np.outer(key, value - S.T @ key)
                o = S.T @ query
                np.testing.assert_allclose(o_BTHK[b, t, head].detach(), o, atol=1e-12)
    if not recurrent:
        beta, q, k = 1.5 * gates.sigmoid()[..., None], q.softmax(-1), k.softmax(-1)
        delta_BTHK, _ = scan(Terms(q, beta * k, v, erase=k), torch.zeros(B, H, K, K))
        assert_close(o_BTHK, delta_BTHK, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rate", [None, -1000.0])
def test_a_self_referential_matrix_is_its_equations_and_with_rates_of_zero_a_linear_layer(rate):
    core = random_cell("srwm")
    if rate is not None:
        core.start_HRK.data[:, 3 * K :] = rate
    x_BTHK = torch.randn(B, T, H, K)
    y_BTHK, _ = core.recall_each(x_BTHK, x_BTHK, x_BTHK, None, core.empty(B))
    for b in range(B):
        for head in range(H):
            W = core.start_HRK[head].detach().numpy()
            for t in range(T):
                made = W @ softmax(x_BTHK[b, t, head].numpy())
                np.testing.assert_allclose(y_BTHK[b, t, head].detach(), made[:K], atol=1e-12)
                query, key = softmax(made[K : 2 * K]), softmax(made[2 * K : 3 * K])
                rates = np.repeat(sigmoid(np.clip(made[3 * K :], -500, None)), [K, K, K, 4])
                W = W + np.outer(rates * (W @ query - W @ key), key)
    if rate is not None:
        linear_BTHK = torch.einsum("hyk,bthk->bthy", core.start_HRK[:, :K], x_BTHK.softmax(-1))
        assert_close(y_BTHK, linear_BTHK, rtol=0, atol=1e-12)


def inner_loss(core, head, S, b, k, v):
    """The loss of the inner model of TTT, with torch's own layer norm."""
    z = k @ S + b
    if core.is_plain:
        return 0.5 * (z - v).square().sum()
    normalized = functional.layer_norm(z, (K,), core.gain_HK[head], core.bias_HK[head], eps=1e-6)
    return 0.5 * (normalized - (v - k)).square().sum()


@pytest.mark.parametrize("loss", ["normalized", "plain"])
@pytest.mark.parametrize("form", ["recall_each", "recall_all"])
def test_ttt_descends_the_gradient_that_autograd_finds(loss, form):
    core = random_cell("ttt_linear", loss=loss, fast_lr=2.0)
    core.added_n.data.copy_(torch.tensor([0.3, -0.7, 0.1]))
    q, k, v, gates = random_parts(H)
    empty = core.empty(B)
    if form == "recall_each":
        o_BTHK, memory = core.recall_each(q, k, v, gates, empty)
    else:
        o_BTHK, memory = core.recall_all(q, k, v, gates, empty, None, is_empty=True)
    rates_BTH1, scales = 2.0 / K * gates.sigmoid()[..., None], [1.3, 0.0, 1 / 3 + 0.1]
    derivative = torch.func.grad(inner_loss, argnums=(2, 3))
    for b in range(B):
        for head in range(H):
            S_start, b_start = core.start_HKV[head], torch.zeros(K)
            for t in range(T):
                place = t % 3
                steps = range(t - place, t + 1)
                found = [derivative(core, head, S_start, b_start, k[b, j, head], v[b, j, head]) for j in steps]
                by_rate = [rates_BTH1[b, j, head] for j in steps]
                S = S_start - scales[place] * sum(r * g[0] for r, g in zip(by_rate, found, strict=True))
                bias = b_start - scales[place] * sum(r * g[1] for r, g in zip(by_rate, found, strict=True))
                bias = torch.zeros(K) if core.is_plain else bias
                z = q[b, t, head] @ S + bias
                read = z
                if not core.is_plain:
                    gain, shift = core.gain_HK[head], core.bias_HK[head]
                    read = q[b, t, head] + functional.layer_norm(z, (K,), gain, shift, eps=1e-6)
                assert_close(o_BTHK[b, t, head], read, rtol=0, atol=1e-12)
                if place == 2:
                    S_start, b_start = S, bias
            assert_close(memory.S_BHKK[b, head], S_start, rtol=0, atol=1e-12)


def test_ttt_with_the_plain_loss_and_mini_batches_of_one_is_a_delta_net():
    core = random_cell("ttt_linear_plain", fast_lr=2.5)
    core.added_n.data.zero_()
    q, k, v, gates = random_parts(H)
    o_BTHK, memory = core.recall_all(q, k, v, gates, core.empty(B), None, is_empty=True)
    beta = 2.5 / K * gates.sigmoid()[..., None]
    delta_BTHK, S_BHKK = scan(Terms(q, beta * k, v, erase=k), core.start_HKV.expand(B, H, K, K))
    assert_close(o_BTHK, delta_BTHK, rtol=0, atol=1e-12)
    assert_close(memory.S_BHKK, S_BHKK, rtol=0, atol=1e-12)


def test_ttt_goes_on_from_rows_at_different_places_of_a_mini_batch():
    core, p = random_cell("ttt_linear"), random_cell("ttt_linear").project(torch.randn(B, T, X))
    resets_BT = torch.zeros(B, T, dtype=torch.bool)
    resets_BT[1, 2] = True
    _, state = core(Inputs(p, resets=resets_BT))
    assert state.memory.position_B.tolist() == [T % 3, (T - 2) % 3]
    ends = [core(p, state), core.scan(p, state)]
    assert_close(ends[0][0], ends[1][0], rtol=0, atol=1e-12)
    assert_close(state_tensors(ends[0][1]), state_tensors(ends[1][1]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("chunk_size", [1, 3, 32])
def test_titans_descend_the_gradient_that_autograd_finds_with_momentum_and_decay(chunk_size):
    core = random_cell("titans", chunk_size=chunk_size, max_rate=1.5)
    q, k, v, gates = random_parts(3 * H)
    memory = map_state(torch.randn_like, core.empty(B))
    o_BTHK, end = core.recall_all(q, k, v, gates, memory, None, is_empty=False)
    q, k = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
    rate, momentum, forgotten = gates.sigmoid().chunk(3, dim=-1)
    derivative = torch.func.grad(lambda S, k, v: 0.5 * (k @ S - v).square().sum())
    for b in range(B):
        for head in range(H):
            S, M = memory.S_BHKV[b, head], memory.M_BHKV[b, head]
            for t in range(T):
                M = momentum[b, t, head] * M - 1.5 * rate[b, t, head] * derivative(S, k[b, t, head], v[b, t, head])
                S = (1 - forgotten[b, t, head]) * S + M
                assert_close(o_BTHK[b, t, head], q[b, t, head] @ S, rtol=0, atol=1e-12)
            assert_close((end.S_BHKV[b, head], end.M_BHKV[b, head]), (S, M), rtol=0, atol=1e-12)


def test_titans_that_forget_everything_at_one_step_keep_all_others_exactly():
    core = random_cell("titans", chunk_size=32)
    q, k, v, gates = random_parts(3 * H)
    gates[:, 2, H:] = torch.tensor([-1e9] * H + [1e9] * H)
    memory = map_state(torch.randn_like, core.empty(B))
    expected = core.recall_each(q, k, v, gates, memory)
    assert_close(core.recall_all(q, k, v, gates, memory, None, is_empty=False), expected, rtol=0, atol=1e-12)


def test_titans_without_momentum_and_decay_are_a_delta_net():
    core = random_cell("titans")
    q, k, v, gates = random_parts(3 * H)
    gates[..., H:] = -100
    o_BTHK, _ = core.recall_all(q, k, v, gates, core.empty(B), None, is_empty=True)
    q, k = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
    beta = gates[..., :H].sigmoid()[..., None]
    delta_BTHK, _ = scan(Terms(q, beta * k, v, erase=k), torch.zeros(B, H, K, K))
    assert_close(o_BTHK, delta_BTHK, rtol=0, atol=1e-12)


def test_a_mesa_layer_is_ridge_regression_weighted_by_strength_and_age():
    core = random_cell("mesanet", min_ridge=0.2)
    q, k, v, gates = random_parts(2 * H)
    o_BTHK, _ = core.recall_all(q, k, v, gates, core.empty(B), None, is_empty=True)
    strength, forgotten = gates[..., None].split(H, dim=2)
    beta_BTH1 = strength.sigmoid()
    log_decay_BTH1 = -core.decay.log_rate_H.exp()[:, None] * functional.softplus(forgotten + core.decay.bias_HG)
    q, k = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
    ridge_HK = 0.2 + functional.softplus(core.ridge_HK)
    for t in range(T):
        ages = log_decay_BTH1[:, 1 : t + 1].flip(1).cumsum(1).flip(1)
        weights = beta_BTH1[:, : t + 1] * torch.cat([ages, torch.zeros(B, 1, H, 1)], dim=1).exp()
        for b in range(B):
            for head in range(H):
                # least squares with one more row for each entry of the ridge
                root = weights[b, :, head].sqrt()
                keys = torch.cat([root * k[b, : t + 1, head], ridge_HK[head].sqrt().diag()])
                values = torch.cat([root * v[b, : t + 1, head], torch.zeros(K, K)])
                best = torch.linalg.lstsq(keys, values).solution
                assert_close(o_BTHK[b, t, head], q[b, t, head] @ best, rtol=0, atol=1e-10)


@pytest.mark.parametrize("window", [1, 3, 100])
def test_attention_is_a_softmax_over_the_window(window):
    core = random_cell("attention", window=window)
    q, k, v, _ = random_parts(1)
    o_BTHK, memory = core.recall_all(q, k, v, None, core.empty(B), None, is_empty=True)
    for t in range(T):
        seen = slice(max(0, t - window + 1), t + 1)
        weights = softmax(np.einsum("bhk,bthk->bht", q[:, t].numpy(), k[:, seen].numpy()) / np.sqrt(K))
        expected = np.einsum("bht,bthk->bhk", weights, v[:, seen].numpy())
        np.testing.assert_allclose(o_BTHK[:, t].detach(), expected, atol=1e-12)
    assert memory.count_B.tolist() == [min(T, window - 1)] * B


@pytest.mark.parametrize("window", [1, 3, 100])
@pytest.mark.parametrize("conv_size", [0, 4])
def test_attention_at_the_last_step_is_the_mean_softmax_of_the_heads(window, conv_size):
    core = random_cell("attention", window=window, conv_size=conv_size)
    p = core.project(torch.randn(B, T, X))
    attention_Bt = core.attention(p)
    q, k, _, _ = (x.detach().numpy() for x in core.heads(p.channels_C, core.empty_window(B), None))
    seen = min(window, T)
    weights_BHw = softmax(np.einsum("bhk,bwhk->bhw", q[:, -1], k[:, T - seen :]) / np.sqrt(K))
    expected = np.concatenate([np.zeros((B, T - seen)), weights_BHw.mean(1)[:, :-1]], axis=1)
    np.testing.assert_allclose(attention_Bt, expected, atol=1e-12)
    assert core.memory(p) is None


@pytest.mark.parametrize("loss", ["normalized", "plain"])
def test_the_memory_of_ttt_is_what_the_last_step_reads(loss):
    """Also within a mini-batch, of 3 steps here, where the inner model maps the query to S_iᵀ q + b_i."""
    core, read = random_cell("ttt_linear", loss=loss), []
    core.read = lambda q, z: (read.append((q, z)), z)[1]
    p = core.project(torch.randn(B, T, X))
    for length in range(1, T + 1):
        so_far = map_state(lambda tensor, end=length: tensor[:, :end], p)
        _, (state, _) = core.scan(so_far)
        q_BHK, z_BHK = read[-1]
        S_BHKK = core.memory(so_far).unflatten(1, (H, K))
        c_B11 = core.scales()[state.position_B - 1][:, None, None]
        b_BHK = state.b_BHK - c_B11 * state.sum_b_BHK
        assert_close(torch.einsum("bhk,bhkv->bhv", q_BHK, S_BHKK) + b_BHK, z_BHK, rtol=0, atol=1e-12)


def test_memories_start_as_they_say():
    recurrent = RecurrentDeltaNet(X, hidden_size=80, num_heads=H)
    assert recurrent.recurrent_HVR.std().item() == pytest.approx(40**-0.5, rel=0.05)
    start_HRK = SRWM(X, hidden_size=80, num_heads=H, rate_bias=-3.0).start_HRK
    for rows, mean in ((start_HRK[:, :120], 0.0), (start_HRK[:, 120:], -3.0)):
        assert rows.mean().item() == pytest.approx(mean, abs=0.05)
        assert rows.std().item() == pytest.approx(40**-0.5, rel=0.1)
    ttt = TTTLinear(X, hidden_size=80, num_heads=H, mini_batch=4)
    assert ttt.start_HKV.std().item() == pytest.approx(0.02, rel=0.05)
    assert_close(ttt.scales().detach(), torch.tensor([1, 1 / 2, 1 / 3, 1 / 4]))
    assert_close(Titans(X, hidden_size=D, num_heads=H).gates.bias.detach(), torch.tensor([0.0, 0, 0, 0, -4, -6]))
    zeros, ones = torch.zeros(H, K, K), torch.ones(H, K)
    assert_close(MesaNet(X, hidden_size=D, num_heads=H, min_ridge=0.5).solve(zeros, ones), ones / 1.5)


def test_softmax_and_layer_norm_of_one_feature_are_errors():
    message = r"^num_heads=6: must leave each key 2 or more features \(hidden_size=6\)$"
    of_unit_sum = (partial(cls, feature_map="elu") for cls in (DeltaNet, LinearAttention))
    for cls in (SRWM, TTTLinear, RecurrentDeltaNet, *of_unit_sum):
        with pytest.raises(ValueError, match=message):
            cls(X, hidden_size=6, num_heads=6)
        with pytest.raises(ValueError, match=r"^key_size=1: must be 2 or more"):
            cls(X, hidden_size=6, key_size=1)
    DeltaNet(X, hidden_size=6, key_size=1)
    LinearAttention(X, hidden_size=6, key_size=1, normalize=False)


def test_fast_weights_are_retention_that_reads_first_with_the_state_as_key_and_value():
    core = FastWeights(X, hidden_size=D, decay=0.8, fast_lr=0.3)
    p_BTD = core.project(torch.randn(B, T, X))
    h_BTD, end = core(p_BTD)
    before_BTD = torch.cat([torch.zeros(B, 1, D), h_BTD[:, :-1]], dim=1)
    z_BTD = core.recurrent(before_BTD) + p_BTD
    query = z_BTD.relu()[:, :, None]
    log_decay = torch.full((B, T, 1, 1), 0.8).log()
    # each step writes the state with which it ends
    terms = Terms(query, 0.3 * h_BTD[:, :, None], h_BTD[:, :, None], log_decay)
    read, S_BHKV = scan(terms, torch.zeros(B, 1, D, D), read_first=True)
    assert_close(core.norm(z_BTD + read[:, :, 0]).relu(), h_BTD, rtol=0, atol=1e-12)
    written = core.recurrent_association.written(0.8 * end.A_BHH, end.h_BH, 0.3, delta=False)
    assert_close(S_BHKV[:, 0], written, rtol=0, atol=1e-12)
