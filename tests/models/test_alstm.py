import math

import numpy as np
import pytest
import torch
from scipy.special import expit as sigmoid
from torch import nn
from torch.testing import assert_close

from src.models.alstm import ALSTM, ALSTMState, bound, complex_product

B, T, X, H = 3, 7, 4, 6
N = H // 2


def complex_numbers(halves):
    """Complex numbers from their real parts, followed by their imaginary parts, in the last dimension."""
    re, im = np.split(np.asarray(halves), 2, axis=-1)
    return re + 1j * im


def halves(numbers):
    return np.concatenate([numbers.real, numbers.imag], axis=-1)


def clipped(v):
    return v / np.maximum(1, np.abs(v))


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("recurrent_content", [False, True])
@pytest.mark.parametrize(("copies", "heads"), [(1, 1), (4, 3)])
def test_two_steps_are_the_equations(copies, heads, recurrent_content):
    settings = {"num_copies": copies, "num_heads": heads, "recurrent_content": recurrent_content}
    core = ALSTM(X, hidden_size=H, **settings)
    nn.init.normal_(core.input.bias)
    V, b, W = (p.detach().numpy() for p in (core.input.weight, core.input.bias, core.recurrent.weight))
    # rows: three gates, then r, q and u of every head
    gates, vectors = np.split(np.arange(len(V)), [3 * N])
    r_rows, q_rows, u_rows = vectors.reshape(3, heads, H)
    x_TX, h, c = torch.randn(2, X), np.zeros(heads * H), np.zeros((copies, N), complex)
    y_TH = core(core.project(x_TX[None]))[0][0].detach().numpy()
    for x, y_H in zip(x_TX.numpy(), y_TH, strict=True):
        f, i, o = sigmoid(W[gates] @ h + V[gates] @ x + b[gates]).reshape(3, N)
        r, q = ([clipped(complex_numbers(W[k] @ h + V[k] @ x + b[k])) for k in rows] for rows in (r_rows, q_rows))
        from_last = [W[k] @ h if recurrent_content else 0 for k in u_rows]
        u = [clipped(complex_numbers(a + V[k] @ x + b[k])) for a, k in zip(from_last, u_rows, strict=True)]
        orders = core.permutations_SN.numpy()
        for s, order in enumerate(orders):
            c[s] = f * c[s] + sum(r_k[order] * (i * u_k) for r_k, u_k in zip(r, u, strict=True))
        read = [sum(q_k[order] * c_s for order, c_s in zip(orders, c, strict=True)) / copies for q_k in q]
        h = np.concatenate([halves(o * clipped(v)) for v in read])
        np.testing.assert_allclose(y_H, h, atol=1e-13)


def pure(core, f, i, o, r, q, u):
    """Projected inputs [B, P] with these gates, 0 or 1, and these complex vectors, [K, N] for each sequence."""
    gates = [torch.full((len(r), N), 1e3 * (2 * gate - 1)) for N in [core.num_entries] for gate in (f, i, o)]
    return torch.cat([*gates, *(torch.cat([v.real, v.imag], dim=2).flatten(1) for v in (r, q, u))], dim=1)


def phases(*shape):
    return torch.polar(torch.ones(shape), 2 * math.pi * torch.rand(shape))


def retrieval_error(entries, copies, num_pairs, batch):
    """The mean squared error of a network that reads the pairs it has written, all with the same permutations."""
    core = ALSTM(1, hidden_size=2 * entries, num_copies=copies, num_heads=num_pairs)
    nn.init.zeros_(core.recurrent.weight)
    r, u = phases(batch, num_pairs, entries), phases(batch, num_pairs, entries)
    small = 1e-3  # so that what is read is not clipped
    write = pure(core, 1, 1, 1, r, r, u)
    read = pure(core, 1, 0, 1, r, small * r.conj(), u)
    h_BD, _ = core(torch.stack([write, read], dim=1), return_sequence=False)
    re, im = h_BD.detach().view(batch, num_pairs, 2, entries).unbind(2)
    return (torch.complex(re, im) / small - u).abs().square().mean().item()


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(("entries", "copies", "num_pairs"), [(25, 1, 8), (25, 4, 8), (25, 16, 8), (64, 4, 3)])
def test_the_noise_of_retrieval_is_that_of_permutations_which_sometimes_agree(entries, copies, num_pairs):
    """Each other pair adds noise of 1/S + (1 - 1/S)/N: at an entry, two permutations agree with probability 1/N."""
    errors = np.array([retrieval_error(entries, copies, num_pairs, batch=16) for _ in range(40)])
    expected = (num_pairs - 1) * (1 / copies + (1 - 1 / copies) / entries)
    standard_error = errors.std(ddof=1) / math.sqrt(len(errors))
    assert standard_error < 0.02 * expected
    assert abs(errors.mean() - expected) < 4 * standard_error


@pytest.mark.usefixtures("uncompiled")
def test_one_pair_is_read_back_exactly():
    assert retrieval_error(entries=5, copies=4, num_pairs=1, batch=2) < 1e-20


def test_bound_clips_the_modulus_and_keeps_the_phase():
    v_B2N = 2 * torch.randn(50, 2, 9)
    inside, outside = complex_numbers(v_B2N.flatten(1)), complex_numbers(bound(v_B2N).flatten(1))
    assert 0.2 < (np.abs(inside) > 1).mean() < 0.95
    np.testing.assert_allclose(np.abs(outside), np.minimum(np.abs(inside), 1), rtol=0, atol=1e-14)
    np.testing.assert_allclose(np.angle(outside), np.angle(inside), rtol=0, atol=1e-14)


def test_bound_has_the_gradient_of_the_identity_at_zero_and_none_along_the_radius_where_it_clips():
    zero = torch.zeros(2, 1, requires_grad=True)
    assert_close(torch.autograd.functional.jacobian(lambda v: bound(v[:, None])[:, 0], zero[:, 0]), torch.eye(2))
    clipped_2 = torch.tensor([3.0, 4.0])
    jacobian = torch.autograd.functional.jacobian(lambda v: bound(v[:, None])[:, 0], clipped_2)
    assert_close(jacobian @ clipped_2, torch.zeros(2))
    across = torch.tensor([-4.0, 3.0])
    assert_close(jacobian @ across, across / 5)


@pytest.mark.parametrize("kernel", ["reference", "auto"])
def test_gradients_are_finite_where_everything_is_zero(kernel):
    core = ALSTM(X, hidden_size=H, kernel=kernel)
    p_BTP = torch.zeros(B, T, core.input.out_features, requires_grad=True)
    core(p_BTP)[0].sum().backward()
    assert p_BTP.grad.isfinite().all()
    assert core.recurrent.weight.grad.isfinite().all()


def test_the_product_is_that_of_complex_numbers():
    a, b = torch.randn(5, H), torch.randn(5, H)
    product = complex_product(a.unflatten(1, (2, N)), b.unflatten(1, (2, N)))
    np.testing.assert_allclose(complex_numbers(product.flatten(1)), complex_numbers(a) * complex_numbers(b), rtol=1e-14)


@pytest.mark.usefixtures("uncompiled")
def test_permutations_are_part_of_the_state_dict_and_the_first_is_none():
    core = ALSTM(X, hidden_size=20, num_copies=5)
    orders = core.state_dict()["permutations_SN"]
    assert orders.shape == (5, 10)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(10).expand(5, 10))
    assert torch.equal(orders[0], torch.arange(10))
    assert len({tuple(order.tolist()) for order in orders}) == 5

    other = ALSTM(X, hidden_size=20, num_copies=5)
    p_BTP = core.project(torch.randn(B, T, X))
    assert not torch.equal(other.permutations_SN, core.permutations_SN)
    other.load_state_dict(core.state_dict())
    assert torch.equal(other(p_BTP)[0], core(p_BTP)[0])


def test_copies_cost_memory_and_no_parameters():
    def sizes(**settings):
        core = ALSTM(X, hidden_size=H, **settings)
        return core.output_size, core.state_size, sum(parameter.numel() for parameter in core.parameters())

    # one head has 1.5 H rows of gates, 2 H of keys and H of contents; the last output enters the first two
    assert sizes(num_copies=1, num_heads=1) == (H, 2 * H, int(4.5 * H) * (X + 1) + int(3.5 * H) * H)
    assert sizes(num_copies=9, num_heads=1) == (H, 10 * H, int(4.5 * H) * (X + 1) + int(3.5 * H) * H)
    assert sizes() == (3 * H, 7 * H, int(10.5 * H) * (X + 1) + int(7.5 * H) * 3 * H)
    assert sizes(recurrent_content=True) == (3 * H, 7 * H, int(10.5 * H) * (X + 1 + 3 * H))


def test_along_the_memory_the_jacobian_is_the_forget_gate():
    core = ALSTM(X, hidden_size=H)
    p_BP, h_BD, c_BSH = core.project(torch.randn(1, X)), torch.randn(1, 3 * H), torch.randn(1, 4, H)

    def next_memory(c_SH):
        return core.step(p_BP, ALSTMState(h_BD, c_SH[None]))[1].c_BSH[0].flatten()

    jacobian = torch.autograd.functional.jacobian(next_memory, c_BSH[0]).flatten(1)
    f_N = torch.sigmoid(p_BP[0, :N] + core.recurrent.weight[:N] @ h_BD[0])
    assert_close(jacobian, torch.diag(f_N.repeat(2 * 4)), rtol=0, atol=1e-14)


def test_only_the_forget_gate_starts_with_a_bias():
    expected = torch.zeros(int(10.5 * H))
    expected[:N] = 1.0
    assert_close(ALSTM(X, hidden_size=H).project(torch.zeros(X)).detach(), expected, rtol=0, atol=0)
    assert_close(ALSTM(X, hidden_size=H, forget_bias=4.0).input.bias[:N].detach(), torch.full((N,), 4.0))


def test_weights_start_uniform_by_the_size_of_a_copy_and_of_the_output():
    core = ALSTM(50, hidden_size=100, num_heads=4)  # weights up to 1/√100 and 1/√400
    assert 0.099 < core.input.weight.abs().max() <= 0.1
    assert 0.0495 < core.recurrent.weight.abs().max() <= 0.05


def test_an_odd_size_is_an_error():
    with pytest.raises(ValueError, match=r"^hidden_size=7: must be even"):
        ALSTM(X, hidden_size=7)
