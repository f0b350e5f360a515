"""Two steps of every kernel against the papers' equations, written out in NumPy."""

import numpy as np
from scipy.special import expit as sigmoid

from src.specs import state_tensors
from tests.ops.cpu.cells import each_cell, make, random_state, random_vectors


def layer_norm(a, norm):
    """Equation 4 of arXiv 1607.06450, with the epsilon of torch."""
    gain, bias = (parameter.detach().numpy() for parameter in (norm.weight, norm.bias))
    return gain * (a - a.mean()) / np.sqrt(a.var() + 1e-5) + bias


def rnn_by_hand(core, x, h, nonlinearity, norm):
    a = core.recurrent.weight.detach().numpy() @ h + x
    a = layer_norm(a, core.norm) if norm else a
    h = np.tanh(a) if nonlinearity == "tanh" else np.maximum(a, 0)
    return h, h


def lstm_by_hand(core, x, state):
    h, c = state
    W_i, W_f, W_o, W_g = np.split(core.recurrent.weight.detach().numpy(), 4)
    x_i, x_f, x_o, x_g = np.split(x, 4)
    i, f, o = sigmoid(W_i @ h + x_i), sigmoid(W_f @ h + x_f), sigmoid(W_o @ h + x_o)
    c = f * c + i * np.tanh(W_g @ h + x_g)
    h = o * np.tanh(c)
    return h, (h, c)


def gru_by_hand(core, x, h, reset):
    W_r, W_u = np.split(core.recurrent_gates.weight.detach().numpy(), 2)
    W_c = core.recurrent_candidate.weight.detach().numpy()
    x_r, x_u, x_c = np.split(x, 3)
    r, u = sigmoid(W_r @ h + x_r), sigmoid(W_u @ h + x_u)
    c = np.tanh((W_c @ (r * h) if reset == "before" else r * (W_c @ h)) + x_c)
    h = u * h + (1 - u) * c
    return h, h


def alstm_by_hand(core, x, state):
    """Computed in complex numbers."""
    h, c = state
    N, W = core.num_entries, core.recurrent.weight.detach().numpy()
    sums = x + np.concatenate([W @ h, np.zeros(len(x) - len(W))])
    f, i, o = sigmoid(sums[: 3 * N]).reshape(3, N)
    re, im = np.moveaxis(sums[3 * N :].reshape(3, core.num_heads, 2, N), 2, 0)
    r, q, u = (v / np.maximum(1, np.abs(v)) for v in re + 1j * im)
    orders = core.permutations_SN.numpy()
    c = f * (c[:, :N] + 1j * c[:, N:]) + sum(r_k[orders] * i * u_k for r_k, u_k in zip(r, u, strict=True))
    v = np.stack([(q_k[orders] * c).mean(0) for q_k in q])
    h = o * v / np.maximum(1, np.abs(v))
    h = np.stack([h.real, h.imag], axis=1).ravel()
    return h, (h, np.concatenate([c.real, c.imag], axis=1))


def fast_weights_by_hand(core, x, state, norm, preliminary, sustained):
    h, A = state
    A = 0.95 * A + 0.5 * np.outer(h, h)
    z = core.recurrent.weight.detach().numpy() @ h + x
    h_s = np.maximum(layer_norm(z, core.preliminary_norm) if preliminary else z, 0)
    for _ in range(core.num_inner_steps):
        a = (z if sustained else h_s) + A @ h_s
        h_s = np.maximum(layer_norm(a, core.norm) if norm else a, 0)
    return h_s, (h_s, A)


def learned_reads_by_hand(core, x, state):
    """Only the last inner step has a norm; the reads of the others are weighted."""
    h, A = state
    A = 0.95 * A + 0.5 * np.outer(h, h)
    z = core.recurrent.weight.detach().numpy() @ h + x
    h_s = np.maximum(z, 0)
    for weight in core.read_weights.detach().numpy():
        h_s = np.maximum(z + weight * (A @ h_s), 0)
    h_s = np.maximum(layer_norm(z + A @ h_s, core.norm), 0)
    return h_s, (h_s, A)


BY_HAND = {
    "rnn-tanh": lambda *step: rnn_by_hand(*step, "tanh", False),
    "rnn-relu": lambda *step: rnn_by_hand(*step, "relu", False),
    "rnn-tanh-norm": lambda *step: rnn_by_hand(*step, "tanh", True),
    "rnn-relu-norm": lambda *step: rnn_by_hand(*step, "relu", True),
    "lstm": lstm_by_hand,
    "gru-before": lambda *step: gru_by_hand(*step, "before"),
    "gru-after": lambda *step: gru_by_hand(*step, "after"),
    "fastweights": lambda *step: fast_weights_by_hand(*step, norm=True, preliminary=False, sustained=True),
    "fastweights-no-norm": lambda *step: fast_weights_by_hand(*step, norm=False, preliminary=False, sustained=True),
    "fastweights-preliminary": lambda *step: fast_weights_by_hand(*step, norm=True, preliminary=True, sustained=False),
    "fastweights-learned-reads": learned_reads_by_hand,
    "alstm": alstm_by_hand,
    "alstm-content": alstm_by_hand,
}


@each_cell
def test_two_steps_are_the_equations(cell):
    core = make(cell, 5, kernel="fused")
    p_BTP, start = random_vectors(core, 2, 2), random_state(core, 2)
    y_BTH, end = core(p_BTP, start)
    for sequence in range(2):
        state = [tensor[sequence].numpy() for tensor in state_tensors(start)]
        state = state[0] if len(state) == 1 else state
        for t in range(2):
            y, state = BY_HAND[cell](core, p_BTP[sequence, t].numpy(), state)
            np.testing.assert_allclose(y_BTH[sequence, t].detach().numpy(), y, rtol=0, atol=1e-14)
        state = [state] if isinstance(state, np.ndarray) else state
        for actual, expected in zip(state_tensors(end), state, strict=True):
            np.testing.assert_allclose(actual[sequence].detach().numpy(), expected, rtol=0, atol=1e-14)
