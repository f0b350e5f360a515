"""The cells of the linear family: each compared with its equation in NumPy, and special cases in which two agree.

Shapes: B sequences, T time steps, X input features, D outputs, H heads.
"""

import math

import numpy as np
import pytest
import torch
from scipy.special import expit as sigmoid
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from src.models.deltanet import DeltaNet
from src.models.deltaproduct import DeltaProduct
from src.models.gated_deltanet import GatedDeltaNet
from src.models.gla import GLA
from src.models.kda import KDA
from src.models.linear_attention import LinearAttention
from src.models.linear_parts import Decay, features, num_features, short_convolution
from src.models.mamba2 import Mamba2
from src.models.mlstm import MLSTM
from src.models.retnet import RetNet, rotated
from src.models.rwkv7 import RWKV7
from src.ops.linear_recurrence import Terms, scan, unit_length
from src.specs import state_tensors

B, T, X, D, H = 2, 6, 4, 6, 2
CELLS = (LinearAttention, RetNet, Mamba2, GLA, DeltaNet, GatedDeltaNet, KDA, DeltaProduct, MLSTM, RWKV7)


def silu(x):
    return x * sigmoid(x)


def softplus(x):
    return np.log1p(np.exp(x))


def unit(x):
    return x / np.sqrt((x**2).sum(-1, keepdims=True) + 1e-6)


def make(cell, **settings):
    """A core with parameters far from their initial values, so that no term is small."""
    core = cell(X, hidden_size=D, num_heads=H, **settings)
    with torch.no_grad():
        for name, parameter in core.named_parameters():
            if "log_rate" in name:
                parameter.uniform_(-2, 0)
            else:
                parameter.add_(0.4 * torch.randn_like(parameter))
    return core


def numbers(core):
    return {name: parameter.detach().numpy() for name, parameter in core.named_parameters()}


class ByHand:
    """The parts shared by all layers, for one sequence x [T, X], step by step and head by head."""

    def __init__(self, core, x, keys=1):
        self.w, self.core = numbers(core), core
        self.K, self.V = core.key_size, core.value_size
        sizes = [H * self.K, H * keys * self.K, H * keys * self.V]
        channels = sum(sizes)
        mixed = x @ self.w["input.weight"].T
        c = mixed[:, :channels]
        if "conv_CL" in self.w:
            weights = self.w["conv_CL"]
            width = weights.shape[1]
            padded = np.concatenate([np.zeros((width - 1, channels)), c])
            c = silu(np.stack([(padded[t : t + width].T * weights).sum(1) for t in range(len(x))]))
        q, k, v = np.split(c, np.cumsum(sizes)[:2], axis=1)
        self.q, self.k, self.v = q.reshape(len(x), H, -1), k.reshape(len(x), H, -1), v.reshape(len(x), H, -1)
        self.gate = mixed[:, channels:]

    def outputs(self, o, activation=silu, centered=False):
        """Apply the norm, the gate and the output map to o [T, H, V]."""
        if centered:
            o = o - o.mean(-1, keepdims=True)
        y = o / np.sqrt((o**2).mean(-1, keepdims=True) + 1e-5) * self.w["norm.weight"]
        y = y.reshape(len(o), -1)
        if self.core.has_output_gate:
            y = y * activation(self.gate)
        return y @ self.w["output.weight"].T


def decay_of(w, z):
    """log α, from z [H, G]."""
    return -np.exp(w["decay.log_rate_H"])[:, None] * softplus(z + w["decay.bias_HG"])


def linear_attention(core, x):
    p = ByHand(core, x)
    phi = {"elu": lambda a: np.where(a > 0, a + 1, np.exp(np.minimum(a, 0))), "taylor": taylor, "dpfp": dpfp}[
        core.feature_map
    ]
    o = np.zeros((len(x), H, p.V))
    for h in range(H):
        for t in range(len(x)):
            weights = [phi(p.q[t, h]) @ phi(p.k[j, h]) for j in range(t + 1)]
            o[t, h] = sum(weight * p.v[j, h] for j, weight in enumerate(weights))
            if core.normalize:
                o[t, h] /= sum(weights) + 1e-6
    return p.outputs(o)


def taylor(a):
    a = a / len(a) ** 0.25
    return np.concatenate([[1], a, np.outer(a, a).ravel() / math.sqrt(2)])


def dpfp(a, order=2):
    r = np.maximum(np.concatenate([a, -a]), 0)
    return np.array([r[i] * r[(i - j) % len(r)] for j in range(1, order + 1) for i in range(len(r))])


def recurrent(core, x, transition, keys=1):
    """A cell whose step is S <- transition(p, t, h, S)."""
    p = ByHand(core, x, keys)
    o = np.zeros((len(x), H, p.V))
    for h in range(H):
        S = np.zeros((p.K, p.V))
        for t in range(len(x)):
            S, o[t, h] = transition(p, t, h, S)
    return p, o


def retnet(core, x):
    def rotation(t, K):
        R = np.eye(K)
        for j in range(K // 2):
            angle = t * 10_000 ** (-2 * j / K)
            i = K // 2 + j
            R[j, j] = R[i, i] = math.cos(angle)
            R[j, i], R[i, j] = -math.sin(angle), math.sin(angle)
        return R

    def step(p, t, h, S):
        R = rotation(t if core.rotary else 0, p.K)
        S = (1 - 2.0 ** (-5 - h)) * S + np.outer(R @ p.k[t, h], p.v[t, h])
        return S, S.T @ (R @ p.q[t, h]) / math.sqrt(p.K)

    p, o = recurrent(core, x, step)
    return p.outputs(o)


def mamba2(core, x):
    def step(p, t, h, S):
        z = p.w["gates.weight"] @ x[t]
        delta = softplus(z[h] + p.w["decay.bias_HG"][h, 0])
        S = np.exp(-np.exp(p.w["decay.log_rate_H"][h]) * delta) * S + delta * np.outer(p.k[t, h], p.v[t, h])
        return S, S.T @ p.q[t, h] + p.w["skip_H"][h] * p.v[t, h]

    p, o = recurrent(core, x, step)
    return p.outputs(o)


def gla(core, x):
    def step(p, t, h, S):
        z = (p.w["gates.1.weight"] @ p.w["gates.0.weight"] @ x[t] + p.w["gates.1.bias"]).reshape(H, -1)
        alpha = sigmoid(z[h]) ** (1 / 16)
        S = alpha[:, None] * S + np.outer(p.k[t, h], p.v[t, h])
        return S, S.T @ p.q[t, h] / math.sqrt(p.K)

    p, o = recurrent(core, x, step)
    return p.outputs(o)


def deltanet(core, x):
    def step(p, t, h, S):
        beta = core.max_beta * sigmoid(p.w["gates.weight"] @ x[t])[h]
        if core.feature_map == "dpfp":
            q, k = (dpfp(a) / (dpfp(a).sum() + 1e-6) for a in (p.q[t, h], p.k[t, h]))
            S = np.zeros((len(k), p.V)) if S.shape[0] != len(k) else S
        else:
            q, k = unit(p.q[t, h]), unit(p.k[t, h])
        S = S + beta * np.outer(k, p.v[t, h] - S.T @ k)
        return S, S.T @ q

    p, o = recurrent(core, x, step)
    return p.outputs(o)


def gated_deltanet(core, x):
    def step(p, t, h, S):
        z = p.w["gates.weight"] @ x[t]
        beta, alpha = core.max_beta * sigmoid(z[h]), np.exp(decay_of(p.w, z[H:, None])[h, 0])
        k = unit(p.k[t, h])
        S = alpha * (np.eye(p.K) - beta * np.outer(k, k)) @ S + beta * np.outer(k, p.v[t, h])
        return S, S.T @ unit(p.q[t, h]) / math.sqrt(p.K)

    p, o = recurrent(core, x, step)
    return p.outputs(o)


def kda(core, x):
    def step(p, t, h, S):
        beta = core.max_beta * sigmoid(p.w["gates.beta.weight"] @ x[t])[h]
        z = (p.w["gates.decay.1.weight"] @ p.w["gates.decay.0.weight"] @ x[t]).reshape(H, -1)
        k, alpha = unit(p.k[t, h]), np.exp(decay_of(p.w, z)[h])
        S = (np.eye(p.K) - beta * np.outer(k, k)) @ np.diag(alpha) @ S + beta * np.outer(k, p.v[t, h])
        return S, S.T @ unit(p.q[t, h]) / math.sqrt(p.K)

    p, o = recurrent(core, x, step)
    return p.outputs(o, sigmoid)


def deltaproduct(core, x):
    n = core.num_householder

    def step(p, t, h, S):
        beta = core.max_beta * sigmoid(p.w["gates.weight"] @ x[t]).reshape(H, n)[h]
        for i in range(n):
            k, v = unit(p.k[t, h].reshape(n, -1)[i]), p.v[t, h].reshape(n, -1)[i]
            S = (np.eye(p.K) - beta[i] * np.outer(k, k)) @ S + beta[i] * np.outer(k, v)
        return S, S.T @ unit(p.q[t, h])

    p, o = recurrent(core, x, step, keys=n)
    return p.outputs(o)


def mlstm(core, x):
    """The equations without the stabilizer m."""

    def step(p, t, h, S):
        z = p.w["of_heads.weight"] @ np.concatenate([p.q[t].ravel(), p.k[t].ravel(), p.v[t].ravel()])
        z = z + p.w["of_heads.bias"]
        f, i = sigmoid(z[h]), np.exp(z[H + h])
        S = np.zeros((p.K, p.V + 1)) if S.shape[1] == p.V else S
        S = f * S + i * np.outer(p.k[t, h], np.append(p.v[t, h], 1)) / math.sqrt(p.K)
        read = S.T @ p.q[t, h]
        return S, read[:-1] / max(abs(read[-1]), 1)

    p, o = recurrent(core, x, step)
    return p.outputs(o, sigmoid, centered=True)


def rwkv7(core, x):
    w, y, last = numbers(core), [], np.zeros(X)
    (K, V), S = core.memory_size, [np.zeros(core.memory_size) for _ in range(H)]
    for x_t in x:
        x_r, x_w, x_k, x_v, x_a, x_g = (x_t + mu * (last - x_t) for mu in w["shift_6X"])
        r, k, v = w["receptance.weight"] @ x_r, w["key.weight"] @ x_k, w["value.weight"] @ x_v
        decay = np.exp(
            -math.exp(-0.5) * sigmoid(w["decay.2.weight"] @ np.tanh(w["decay.0.weight"] @ x_w) + w["decay.2.bias"])
        )
        a = sigmoid(w["rate.1.weight"] @ w["rate.0.weight"] @ x_a + w["rate.1.bias"])
        o = []
        for h in range(H):
            here = slice(h * K, (h + 1) * K)
            kappa = unit(k[here] * w["erase_HK"][h])
            written = k[here] * (1 + (a[here] - 1) * w["write_HK"][h])
            value = v[h * V : (h + 1) * V]
            S[h] = (np.diag(decay[here]) - np.outer(a[here] * kappa, kappa)) @ S[h] + np.outer(written, value)
            read = S[h].T @ r[here]
            read = (read - read.mean()) / np.sqrt(read.var() + 64e-5) * w["norm.weight"] + w["norm.bias"]
            o.append(read + (r[here] * w["bonus_HK"][h] * written).sum() * value)
        gate = w["gate.2.weight"] @ sigmoid(w["gate.0.weight"] @ x_g)
        y.append(w["output.weight"] @ (np.concatenate(o) * gate))
        last = x_t
    return np.stack(y)


@pytest.mark.parametrize(
    ("cell", "by_hand", "settings"),
    [
        (LinearAttention, linear_attention, {"conv_size": 4}),
        (LinearAttention, linear_attention, {"feature_map": "dpfp", "dpfp_order": 2, "output_gate": True}),
        (LinearAttention, linear_attention, {"feature_map": "taylor", "normalize": False}),
        (RetNet, retnet, {"key_size": 4}),
        (RetNet, retnet, {"key_size": 5, "rotary": False}),
        (RetNet, retnet, {"key_size": 5}),
        (Mamba2, mamba2, {}),
        (GLA, gla, {"value_size": 4}),
        (DeltaNet, deltanet, {"max_beta": 2.0}),
        (DeltaNet, deltanet, {"feature_map": "dpfp", "dpfp_order": 2, "conv_size": 0}),
        (GatedDeltaNet, gated_deltanet, {"key_size": 2}),
        (KDA, kda, {"max_beta": 2.0}),
        (DeltaProduct, deltaproduct, {"num_householder": 3}),
        (MLSTM, mlstm, {}),
        (RWKV7, rwkv7, {"key_size": 2}),
    ],
)
def test_a_cell_is_its_equation(cell, by_hand, settings):
    core = make(cell, **settings)
    x = torch.randn(B, T, X)
    expected = torch.from_numpy(np.stack([by_hand(core, row) for row in x.numpy()]))
    y, _ = core(core.project(x))
    assert_close(y, expected, rtol=1e-9, atol=1e-9)


def same_outputs(first, second):
    x = torch.randn(B, T, X)
    assert_close(first(first.project(x))[0], second(second.project(x))[0], rtol=1e-10, atol=1e-10)


def copy_common(source, target):
    target.load_state_dict(
        {name: value for name, value in source.state_dict().items() if not name.startswith(("gates", "decay"))},
        strict=False,
    )


def test_kda_with_one_decay_for_all_features_is_gated_deltanet():
    gdn = make(GatedDeltaNet)
    kda = make(KDA, gate_rank=2)
    kda.gate = functional.silu
    copy_common(gdn, kda)
    beta, decay = gdn.gates.weight.chunk(2)
    with torch.no_grad():
        kda.gates.beta.weight.copy_(beta)
        kda.gates.decay[0].weight.copy_(decay)  # of rank H: each head has one number
        kda.gates.decay[1].weight.copy_(torch.eye(H).repeat_interleave(kda.key_size, dim=0))
        kda.decay.log_rate_H.copy_(gdn.decay.log_rate_H)
        kda.decay.bias_HG.copy_(gdn.decay.bias_HG.expand(H, kda.key_size))
    same_outputs(kda, gdn)


def test_gated_deltanet_without_decay_is_deltanet():
    gdn, delta = make(GatedDeltaNet), make(DeltaNet, output_gate=True)
    copy_common(delta, gdn)
    with torch.no_grad():
        gdn.gates.weight[:H].copy_(delta.gates.weight)
        gdn.decay.log_rate_H.fill_(-100.0)
        gdn.norm.eps, delta.norm.eps = 0.0, 0.0  # so that the scale of q does not matter
    same_outputs(gdn, delta)


def test_gated_deltanet_that_does_not_erase_has_the_recurrence_of_mamba2():
    gdn = make(GatedDeltaNet)
    q, k, v = torch.randn(3, B, T, H, gdn.key_size)
    gates = torch.randn(B, T, 2 * H)
    terms = gdn.terms(q, k, v, gates).plain._replace(erase=None)
    mamba = make(Mamba2)
    mamba.decay.load_state_dict(gdn.decay.state_dict())
    of_mamba = mamba.terms(q, k, v, gates[..., H:])
    assert_close(terms.log_decay, of_mamba.log_decay)
    S = torch.zeros(B, H, *gdn.memory_size)
    expected, _ = scan(Terms(terms.query, terms.key, v, of_mamba.log_decay), S)
    assert_close(scan(terms, S)[0], expected)
    assert_close(functional.normalize(of_mamba.key, dim=-1), functional.normalize(k, dim=-1))


def test_deltaproduct_with_one_factor_is_deltanet():
    product, delta = make(DeltaProduct, num_householder=1, max_beta=1.0), make(DeltaNet)
    product.load_state_dict(delta.state_dict())
    same_outputs(product, delta)


def test_the_decay_of_retnet_is_as_precise_as_the_model():
    torch.set_default_dtype(torch.float32)  # the dtype in which models are built
    core = RetNet(X, hidden_size=8, num_heads=3)
    expected = torch.tensor([1 - 2**-5, 1 - 2**-6, 1 - 2**-7])
    assert_close(core.double().log_decay_H.exp(), expected.double(), rtol=1e-15, atol=0)


def test_retention_without_decay_is_linear_attention_without_features():
    retnet = make(RetNet, rotary=False)
    retnet.log_decay_H.zero_()
    q, k, v = torch.randn(3, B, T, H, 3)
    S = torch.zeros(B, H, 3, 3)
    weights = torch.einsum("bthk,bjhk->bhtj", q, k).tril() * 3**-0.5
    assert_close(scan(retnet.terms(q, k, v, None), S)[0], torch.einsum("bhtj,bjhv->bthv", weights, v))


def test_late_positions_are_rotated_as_exactly_as_the_numbers_allow():
    x, position_BT = torch.randn(1, 4, H, 8), torch.tensor([[257, 1001, 4099, 100_003]])
    rounded = rotated(x.bfloat16(), position_BT)
    assert rounded.dtype == torch.bfloat16
    assert_close(rounded.to(x), rotated(x, position_BT), rtol=0, atol=0.05)


def test_rwkv7_decays_and_erases_side_by_side_unlike_kda():
    """With scalar rate a and decay w, M = w I - a κκᵀ, where KDA has w (I - a κκᵀ): not the same unless w = 1."""
    kappa = unit_length(torch.randn(3))
    S, w, a = torch.randn(1, 1, 3, 2), torch.tensor(0.9), torch.tensor(0.5)
    zero = torch.zeros(1, 1, 1, 3)
    log_w = w.log().view(1, 1, 1, 1)

    def after(erase, removal):
        return scan(Terms(zero, zero, zero[..., :2], log_w, erase.view_as(zero), removal.view_as(zero)), S)[1][0, 0]

    identity, projection = torch.eye(3), torch.outer(kappa, kappa)
    assert_close(after(kappa, -a * kappa), (w * identity - a * projection) @ S[0, 0])
    assert_close(after(w * kappa, -a * kappa), w * (identity - a * projection) @ S[0, 0])


def test_what_was_written_with_full_strength_is_read_exactly_and_overwritten():
    keys, values = torch.linalg.qr(torch.randn(4, 4))[0], torch.randn(4, 3)

    def written(order, values):
        k = keys[order][None, :, None]
        terms = Terms(k, k, values[None, :, None], erase=k)
        return scan(terms, torch.zeros(1, 1, 4, 3))[1][0, 0]

    order = torch.arange(4)
    S = written(order, values)
    assert_close(keys @ S, values)
    shuffled = torch.tensor([2, 0, 3, 1])
    assert_close(written(shuffled, values[shuffled]), S)  # orthonormal keys: the order does not matter
    twice = written(torch.tensor([1, 1]), values[:2])
    assert_close(keys[1] @ twice, values[1])


def test_two_reflections_are_a_permutation_of_three_things():
    """β = 2 along (e_i - e_j)/√2 swaps i and j; two swaps make a 3-cycle, which one reflection cannot be."""
    swaps = torch.tensor([[1.0, -1, 0], [0, 1, -1]]) / math.sqrt(2)
    terms = Terms(
        torch.zeros(1, 1, 1, 3), 2 * swaps[None, :, None], torch.zeros(1, 2, 1, 3), erase=swaps[None, :, None]
    )
    _, S = scan(terms, torch.eye(3)[None, None])
    assert_close(S[0, 0], torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]))
    assert torch.linalg.det(S[0, 0]) > 0


@pytest.mark.parametrize("cell", CELLS)
def test_zero_inputs_have_finite_gradients(cell):
    core = make(cell)
    x = torch.zeros(B, T, X, requires_grad=True)
    y, _ = core(core.project(x))
    y.square().sum().backward()
    assert y.isfinite().all()
    assert all(tensor.grad.isfinite().all() for tensor in (x, *core.parameters()))
    assert x.grad.abs().max() < 1e4


@pytest.mark.parametrize(
    ("cell", "settings", "size"),
    [
        (LinearAttention, {}, 2 * (8 * 9)),
        (LinearAttention, {"feature_map": "dpfp", "dpfp_order": 2, "normalize": False}, 2 * (32 * 8)),
        (LinearAttention, {"feature_map": "taylor"}, 2 * (73 * 9)),
        (DeltaNet, {}, 2 * 64 + 3 * 2 * 24),
        (DeltaNet, {"conv_size": 0, "value_size": 5}, 2 * 8 * 5),
        (DeltaProduct, {}, 2 * 64 + 3 * 2 * 40),
        (RetNet, {}, 2 * 64 + 1),
        (GLA, {}, 2 * 4 * 8),
        (MLSTM, {}, 2 * (8 * 9 + 1) + 3 * 2 * 24),
        (RWKV7, {}, 2 * 64 + X),
    ],
)
def test_the_state_size_counts_all_that_is_carried(cell, settings, size):
    core = cell(X, hidden_size=16, num_heads=2, **settings)
    assert core.state_size == size
    _, state = core(core.project(torch.randn(1, T, X)))
    assert sum(tensor.numel() for tensor in state_tensors(state)) == size


@pytest.mark.parametrize(
    ("cell", "products"),
    [(RetNet, 2), (Mamba2, 2), (GLA, 2), (DeltaNet, 3), (GatedDeltaNet, 3), (KDA, 3), (DeltaProduct, 5), (RWKV7, 4)],
)
def test_operations_are_those_of_reading_writing_and_erasing(cell, products):
    core = cell(X, hidden_size=D, num_heads=H, key_size=4, value_size=5)
    assert core.flops(10) == 6 * 10 * H * (4 * 5) * products


def test_initial_decays():
    slow, paper = Decay(4, 3, "slow"), Decay(1000, 1, "paper")
    alpha = slow(torch.zeros(4, 3))[0].exp()
    assert_close(alpha[:, 0], torch.sigmoid(torch.linspace(4, 6, 4)))
    log_alpha, step = paper(torch.zeros(1000, 1))
    assert 1e-3 <= step.min() < 2e-3
    assert 0.05 < step.max() <= 0.1
    assert 0.2 < log_alpha.exp().min() < 0.5
    assert log_alpha.exp().max() > 0.99
    assert 10 < (-1 / log_alpha).median() < 16
    assert 1 <= paper.log_rate_H.exp().min() < paper.log_rate_H.exp().max() <= 16


@pytest.mark.parametrize("cell", [Mamba2, GatedDeltaNet, KDA])
def test_a_cell_starts_with_the_decays_that_were_asked_for(cell):
    torch.manual_seed(0)
    slow, paper = (cell(X, hidden_size=D, num_heads=H, decay_init=init).decay for init in ("slow", "paper"))
    assert not slow.log_rate_H.any()
    assert paper.log_rate_H.exp().min() > 1


@pytest.mark.parametrize("cell", [DeltaNet, GatedDeltaNet, KDA, DeltaProduct])
def test_without_an_input_the_strength_of_a_write_is_half_of_the_largest(cell):
    core = make(cell, max_beta=1.5)
    q, k, v = torch.randn(3, B, T, H, 3)
    if cell is DeltaProduct:
        k, v = (x.repeat(1, 1, 1, 2) for x in (k, v))
    strength = core.terms(q, k, v, core.project(torch.zeros(B, T, X)).gates_G).strength
    assert_close(strength, torch.full_like(strength, 0.75))


def test_of_gla_a_half_is_left_at_the_start_after_as_many_steps_as_its_temperature():
    core = GLA(X, hidden_size=D, num_heads=H, temperature=4.0, gate_rank=5)
    q, k, v = torch.randn(3, B, T, H, 3)
    log_decay = core.terms(q, k, v, core.project(torch.zeros(B, T, X)).gates_G).log_decay
    assert_close((4 * log_decay).exp(), torch.full_like(log_decay, 0.5))
    assert core.gates[0].out_features == 5


def test_an_mlstm_starts_with_gates_that_do_not_see_the_input():
    of_heads = MLSTM(X, hidden_size=160, num_heads=80).of_heads
    assert not of_heads.weight.any()
    forget, enter = of_heads.bias.chunk(2)
    assert_close(forget.detach(), torch.linspace(3, 6, 80))
    assert enter.std().item() == pytest.approx(0.1, rel=0.3)
    assert enter.mean().item() == pytest.approx(0, abs=0.05)


def test_rwkv7_starts_from_its_constants():
    core = RWKV7(X, hidden_size=12, num_heads=H)
    starts = {"shift_6X": 0.5, "erase_HK": 0.85, "write_HK": 1.0, "bonus_HK": 0.0, "rate.1.bias": 0.0}
    for name, value in starts.items():
        assert (core.get_parameter(name) == value).all(), name
    decay_HK = (-math.exp(-0.5) * core.decay[2].bias.sigmoid()).exp().view(H, 6)
    assert (decay_HK.diff(dim=1) < 0).all()
    assert_close(decay_HK[:, [0, -1]].detach(), torch.tensor([0.9985, 0.8495]).expand(H, 2), rtol=0, atol=5e-5)


def test_convolutions_start_as_those_of_torch_and_mamba2_with_its_values_added():
    core = Mamba2(X, hidden_size=64, num_heads=H)
    assert 0.45 < core.conv_CL.abs().max() <= 0.5
    assert (core.skip_H == 1).all()


def test_the_stabilizer_of_the_mlstm_does_not_change_its_outputs():
    """It starts from the same memory in units of another m."""
    core = make(MLSTM)
    x, start = torch.randn(B, T, X), core.initial_state(B)
    S = torch.randn_like(start.S_BHKV)
    y, _ = core(core.project(x), start._replace(S_BHKV=S))
    shifted = start._replace(S_BHKV=S * math.exp(-3.0), m_BH=start.m_BH + 3.0)
    assert_close(core(core.project(x), shifted)[0], y, rtol=1e-10, atol=1e-10)


def test_the_memory_is_the_matrices_of_the_heads_one_below_the_other():
    core = make(DeltaNet, key_size=4, value_size=5)
    p = core.project(torch.randn(B, T, X))
    _, state = core(p)
    assert torch.equal(core.memory(p), torch.cat([state.S_BHKV[:, head] for head in range(H)], dim=1))


def test_features_have_the_stated_size_and_kernel():
    x, y = torch.randn(2, 5)
    for name in ("elu", "dpfp", "taylor"):
        assert len(features(name, x, 3)) == num_features(name, 5, 3)
    product = (x @ y) / math.sqrt(5)
    assert_close(features("taylor", x, 1) @ features("taylor", y, 1), 1 + product + product**2 / 2)


def test_a_short_convolution_is_that_of_torch():
    x, window, weights = torch.randn(B, T, 5), torch.randn(B, 3, 5), torch.randn(5, 4)
    padded = torch.cat([window, x], dim=1)
    expected = nn.functional.conv1d(padded.transpose(1, 2), weights[:, None], groups=5).transpose(1, 2)
    for resets in (None, torch.zeros(B, T, dtype=torch.bool)):
        y, after = short_convolution(x, window, weights, resets)
        assert_close(y, expected)
        assert_close(after, x[:, -3:])


@pytest.mark.parametrize("feature_map", ["dpfp", "taylor", "elu"])
def test_denominators_are_positive_from_a_learned_start_as_well(feature_map):
    torch.manual_seed(0)
    core = LinearAttention(16, hidden_size=16, num_heads=2, learned_start=True, feature_map=feature_map)
    with torch.no_grad():
        core.start_HKV.normal_()
    channels = torch.randn(3, 4, 20, 2, 8)
    terms = core.terms(*channels, None)
    assert not core.start(4)[..., -1].any()
    o_BTHV, _ = core.recur(scan, terms, core.start(4), None)
    assert (o_BTHV[..., -1] >= 0).all()


def test_a_learned_start_has_no_denominator():
    """All of its numbers are used, and the other weights start as if it still had the column of the denominator."""
    for normalize in (True, False):
        torch.manual_seed(0)
        core = LinearAttention(X, hidden_size=D, num_heads=H, learned_start=True, normalize=normalize)
        assert core.start_HKV.shape == (H, 3, 3)
        assert core.start(B).shape == (B, H, 3, 3 + normalize)
    torch.manual_seed(0)
    start_HKV = torch.randn(H, 3, 4) * 3**-0.5
    input_weight = nn.Linear(X, 3 * D, bias=False).weight
    torch.manual_seed(0)
    core = LinearAttention(X, hidden_size=D, num_heads=H, learned_start=True)
    assert torch.equal(core.start_HKV, start_HKV[..., :-1])
    assert torch.equal(core.input.weight, input_weight)
    y, _ = core(core.project(torch.randn(B, T, X)))
    y.square().sum().backward()
    assert core.start_HKV.grad.ne(0).all()


@pytest.mark.parametrize("cell", [LinearAttention, DeltaNet])
@pytest.mark.parametrize(("key_size", "order"), [(3, 3), (3, 7)])
def test_dpfp_of_too_high_an_order_is_an_error(cell, key_size, order):
    x_NK = torch.randn(100, key_size)
    distinct = {tuple(column) for column in features("dpfp", x_NK, order).T.tolist() if any(column)}
    assert len(distinct) < num_features("dpfp", key_size, order)
    message = rf"^dpfp_order={order}: must be below {key_size}, the number of features of a key$"
    with pytest.raises(ValueError, match=message):
        cell(X, hidden_size=D, key_size=key_size, feature_map="dpfp", dpfp_order=order)


@pytest.mark.parametrize("cell", [LinearAttention, DeltaNet])
def test_dpfp_of_one_feature_is_an_error(cell):
    with pytest.raises(ValueError, match=r"^feature_map=dpfp: needs keys of 2 or more features, not 1$"):
        cell(X, hidden_size=D, key_size=1, feature_map="dpfp")


def test_dpfp_of_the_highest_order_has_no_feature_twice_or_always_zero():
    columns = features("dpfp", torch.randn(100, 4), 3).T.tolist()
    assert len({tuple(column) for column in columns if any(column)}) == num_features("dpfp", 4, 3)
    core = LinearAttention(X, hidden_size=D, key_size=4, feature_map="dpfp", dpfp_order=3)
    assert core.memory_size[0] == len(columns)


@pytest.mark.parametrize("cell", CELLS)
def test_a_norm_of_one_value_feature_is_an_error(cell):
    message = r"^num_heads=6: must leave each value 2 or more features \(hidden_size=6\)$"
    with pytest.raises(ValueError, match=message):
        cell(X, hidden_size=6, num_heads=6, key_size=2)
    with pytest.raises(ValueError, match=r"^value_size=1: must be 2 or more"):
        cell(X, hidden_size=6, value_size=1)
    with pytest.raises(ValueError, match=r"^hidden_size=1: must give each value 2 or more features$"):
        cell(X, hidden_size=1, num_heads=1, key_size=2)
    cell(X, hidden_size=6, num_heads=6, key_size=2, value_size=2)


def test_an_mlstm_whose_gates_forget_everything_has_finite_gradients():
    torch.manual_seed(0)
    core = MLSTM(4, hidden_size=4, num_heads=1)
    with torch.no_grad():
        core.of_heads.bias.copy_(torch.tensor([-3.0, -95.0]))
    outputs, _ = core(core.project(torch.randn(1, 60, 4)))
    outputs.sum().backward()
    assert outputs.isfinite().all()
    assert all(weights.grad.isfinite().all() for weights in core.parameters() if weights.grad is not None)
