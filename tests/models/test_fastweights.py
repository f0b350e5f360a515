import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from src.models.fastweights import FastWeights, FastWeightsState
from src.ops.fastweights import written
from src.specs import map_state

B, X, H = 2, 3, 5


def random_core(**settings):
    """A core with weights far from their initial values, so that no term of the equations is small."""
    core = FastWeights(X, hidden_size=H, **settings)
    for name, parameter in core.named_parameters():
        nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.4)
    return core


def scan(core, p_BTH, state):
    """The states after every step."""
    states = []
    for p_BH in p_BTH.unbind(1):
        _, state = core.step(p_BH, state)
        states.append(state)
    return states


def layer_norm(a_H, norm):
    deviation = np.sqrt(((a_H - a_H.mean()) ** 2).mean() + norm.eps)
    return norm.weight.detach().numpy() * (a_H - a_H.mean()) / deviation + norm.bias.detach().numpy()


@pytest.mark.parametrize("kernel", ["reference", "vectorized", "fused"])
@pytest.mark.parametrize("boundary", ["sustained", "identity"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("preliminary", [True, False])
@pytest.mark.parametrize("num_inner_steps", [0, 2])
def test_three_steps_are_the_equations_of_the_paper(kernel, boundary, normalize, preliminary, num_inner_steps):
    core = random_core(
        decay=0.9,
        fast_lr=0.3,
        num_inner_steps=num_inner_steps,
        layer_norm=normalize,
        layer_norm_preliminary=preliminary,
        boundary=boundary,
        kernel=kernel,
    )
    W, C = core.recurrent.weight.detach().numpy(), core.input.weight.detach().numpy()
    b = 0.0 if normalize else core.input.bias.detach().numpy()
    x_TX, h, A = torch.randn(3, X), np.zeros(H), np.zeros((H, H))
    for t, y_H in enumerate(core(core.project(x_TX[None]))[0][0]):
        A = 0.9 * A + 0.3 * np.outer(h, h)
        z = W @ h + C @ x_TX[t].numpy() + b
        h = np.maximum(layer_norm(z, core.preliminary_norm) if preliminary else z, 0)
        for _ in range(num_inner_steps):
            a = (z if boundary == "sustained" else h) + A @ h
            h = np.maximum(layer_norm(a, core.norm) if normalize else a, 0)
        np.testing.assert_allclose(y_H.detach(), h, atol=1e-12)


@pytest.mark.parametrize("write", ["late", "preliminary"])
def test_a_late_write_misses_the_last_state_and_a_preliminary_one_holds_only_preliminary_states(write):
    core = random_core(decay=0.9, fast_lr=0.3, write=write, kernel="reference")
    W, C = core.recurrent.weight.detach().numpy(), core.input.weight.detach().numpy()
    x_TX, h = torch.randn(4, X), np.zeros(H)
    states, preliminary_states = [h], []
    for y_H, x_X in zip(core(core.project(x_TX[None]))[0][0], x_TX.numpy(), strict=True):
        z = W @ h + C @ x_X
        preliminary_states.append(np.maximum(z, 0))
        written = states[:-1] if write == "late" else preliminary_states
        A = sum(
            (0.3 * 0.9**age * np.outer(past, past) for age, past in enumerate(reversed(written))),
            start=np.zeros((H, H)),
        )
        h = np.maximum(layer_norm(z + A @ preliminary_states[-1], core.norm), 0)
        states.append(h)
        np.testing.assert_allclose(y_H.detach(), h, atol=1e-12)
    assert core.attention(core.project(x_TX[None])) is None


@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("boundary", ["sustained", "identity"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("num_inner_steps", [0, 1, 2, 3])
@pytest.mark.parametrize("length", [1, 2, 11, 23])
def test_attention_matrix_and_definition_agree_with_all_gradients(
    length, num_inner_steps, normalize, boundary, carried
):
    # Without layer normalization the memory feeds on itself: large numbers would overflow within 23 steps.
    scale = 1.0 if normalize else 0.1
    core = FastWeights(
        X,
        hidden_size=H,
        num_inner_steps=num_inner_steps,
        layer_norm=normalize,
        boundary=boundary,
        recurrent_scale=0.5,
    )
    x_BTX, h_BH, A_BHH = (scale * torch.randn(shape) for shape in [(B, length, X), (B, H), (B, H, H)])
    x_BTX.requires_grad_()
    start = FastWeightsState(h_BH.requires_grad_(), A_BHH.requires_grad_())
    weights_BTH, weights_BH, weights_BHH = torch.randn(B, length, H), torch.randn(B, H), torch.randn(B, H, H)
    sources = [x_BTX, *(start if carried else ()), *core.parameters()]

    def results(form):
        p_BTH = core.project(x_BTX)
        if form == "definition":
            states = scan(core, p_BTH, start if carried else core.initial_state(B))
            y_BTH, end = torch.stack([state.h_BH for state in states], dim=1), states[-1]
        elif form == "attention":
            y_BTH, end = core.attend(p_BTH, start if carried else None)
        else:
            core.kernel = form
            y_BTH, end = core(p_BTH, start if carried else None)
        loss = (y_BTH * weights_BTH).sum() + (end.h_BH * weights_BH).sum() + (end.A_BHH * weights_BHH).sum()
        gradients = torch.autograd.grad(loss, sources, allow_unused=True, materialize_grads=True)
        return [y_BTH, *end, *gradients]

    definition = results("definition")
    assert all(torch.isfinite(result).all() for result in definition)
    for form in ("attention", "reference", "vectorized", "fused", "auto"):
        assert_close(results(form), definition, rtol=1e-10, atol=1e-10)


def test_fast_weights_are_the_recursion_the_closed_sum_and_the_attention():
    core = random_core(decay=0.8, fast_lr=0.3)
    p_BTH = core.project(torch.randn(B, 9, X))
    states = scan(core, p_BTH, core.initial_state(B))
    h_BtH = torch.stack([state.h_BH for state in states[:-1]], dim=1)
    ages_t = torch.arange(7, -1, -1)
    A_BHH = torch.einsum("t,bti,btj->bij", 0.3 * 0.8**ages_t, h_BtH, h_BtH)
    assert_close(states[-1].A_BHH, A_BHH, rtol=0, atol=1e-12)
    for kernel in ("vectorized", "fused"):
        core.kernel = kernel
        assert_close(core(p_BTH)[1].A_BHH, A_BHH, rtol=0, atol=1e-12)


@pytest.mark.parametrize("carried_BHH", [None, torch.ones(B, H, H, dtype=torch.float32)])
def test_autocast_rounds_no_sum_of_states(carried_BHH):
    past_BtH = torch.randn(B, 7, H, dtype=torch.float32)
    expected_BHH = written(past_BtH, carried_BHH, 1.0, 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(written(past_BtH, carried_BHH, 1.0, 0.5), expected_BHH)


def test_memory_is_the_matrix_read_by_the_last_step_and_attention_its_first_reading():
    core = random_core(decay=0.8, fast_lr=0.3, num_inner_steps=2, layer_norm_preliminary=True)
    p_BTH = core.project(torch.randn(B, 9, X))
    states = scan(core, p_BTH, core.initial_state(B))
    assert_close(core.memory(p_BTH), states[-1].A_BHH.detach(), rtol=0, atol=1e-12)

    query_BH = torch.relu(core.preliminary_norm(core.recurrent(states[-2].h_BH) + p_BTH[:, -1]))
    past_BtH = torch.stack([state.h_BH for state in states[:-1]], dim=1)
    attention_Bt = core.attention(p_BTH)
    for tau in range(8):
        weight_B = 0.3 * 0.8 ** (7 - tau) * (past_BtH[:, tau] * query_BH).sum(1)
        assert_close(attention_Bt[:, tau], weight_B.detach(), rtol=0, atol=1e-12)
    read_BH = torch.einsum("bt,bth->bh", attention_Bt, past_BtH)
    assert_close(read_BH, torch.einsum("bij,bj->bi", states[-1].A_BHH, query_BH), rtol=0, atol=1e-12)


@pytest.mark.parametrize("gates", [False, True])
def test_memory_that_is_written_late_is_read_before(gates):
    core = random_core(decay=0.8, fast_lr=0.3, write="late", gates=gates, kernel="reference")
    p = core.project(torch.randn(B, 9, X))
    state = core.initial_state(B)
    for t in range(9):
        assert_close(core.memory(map_state(lambda tensor, end=t + 1: tensor[:, :end], p)), state.A_BHH.detach())
        _, state = core.step(map_state(lambda tensor, t=t: tensor[:, t], p), state)


def test_rank_of_the_fast_weights_is_the_number_of_states_written():
    core = random_core(nonlinearity="tanh")
    p_BTH = core.project(torch.randn(B, 9, X))
    ranks = [torch.linalg.matrix_rank(core.memory(p_BTH[:, :length]), rtol=1e-12).tolist() for length in range(1, 10)]
    assert ranks == [[min(written, H)] * B for written in range(9)]


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.99])
def test_norm_of_the_fast_weights_is_at_most_the_geometric_series_of_one_repeated_state(decay):
    core = random_core(decay=decay, fast_lr=0.3)
    p_BTH = core.project(torch.randn(B, 60, X))
    states = scan(core, p_BTH, core.initial_state(B))
    largest = max(state.h_BH.norm(dim=1).max() for state in states)
    norms = [torch.linalg.matrix_norm(state.A_BHH, 2).max() for state in states]
    assert max(norms) <= 0.3 * largest**2 / (1 - decay)

    constant = random_core(decay=decay, fast_lr=0.3, num_inner_steps=0, layer_norm_preliminary=True)
    p_BTH = 1e9 * p_BTH[:, :1].expand(-1, 60, -1)  # so large that the recurrent connections do not matter
    end = scan(constant, p_BTH, constant.initial_state(B))[-1]
    assert end.h_BH.any(1).all()
    series_B = 0.3 * end.h_BH.norm(dim=1) ** 2 * (1 - decay**59) / (1 - decay)
    assert_close(torch.linalg.matrix_norm(end.A_BHH, 2), series_B, rtol=1e-6, atol=0)


@pytest.mark.parametrize("num_inner_steps", [1, 3])
def test_without_fast_learning_rate_it_is_a_layer_normalized_rnn(num_inner_steps):
    core = random_core(fast_lr=0.0, num_inner_steps=num_inner_steps)
    x_BTX = torch.randn(B, 6, X)
    y_BTH, _ = core(core.project(x_BTX))
    h_BH = torch.zeros(B, H)
    for t, x_BX in enumerate(x_BTX.unbind(1)):
        h_BH = torch.relu(core.norm(h_BH @ core.recurrent.weight.T + x_BX @ core.input.weight.T))
        assert_close(y_BTH[:, t], h_BH, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", ["reference", "vectorized", "fused"])
@pytest.mark.parametrize("normalized", ["all", "last"])
@pytest.mark.parametrize("read_weights", ["one", "learned"])
def test_inner_steps_before_the_last_have_weights_and_may_lack_the_norm(kernel, normalized, read_weights):
    core = random_core(fast_lr=0.3, num_inner_steps=3, normalized=normalized, read_weights=read_weights, kernel=kernel)
    W, C = core.recurrent.weight.detach().numpy(), core.input.weight.detach().numpy()
    learned = [1.0, 1.0] if read_weights == "one" else core.read_weights.tolist()
    x_TX, h, A = torch.randn(4, X), np.zeros(H), np.zeros((H, H))
    for t, y_H in enumerate(core(core.project(x_TX[None]))[0][0]):
        A = 0.95 * A + 0.3 * np.outer(h, h)
        z = W @ h + C @ x_TX[t].numpy()
        h = np.maximum(z, 0)
        for weight, is_last in zip([*learned, 1.0], [False, False, True], strict=True):
            a = z + weight * A @ h
            h = np.maximum(layer_norm(a, core.norm) if is_last or normalized == "all" else a, 0)
        np.testing.assert_allclose(y_H.detach(), h, atol=1e-12)


@pytest.mark.parametrize("kernel", ["reference", "vectorized", "fused"])
def test_with_learned_reads_further_steps_start_as_one_step(kernel):
    torch.manual_seed(0)
    one = FastWeights(X, hidden_size=H, kernel=kernel)
    more = FastWeights(X, hidden_size=H, num_inner_steps=3, normalized="last", read_weights="learned", kernel=kernel)
    _, unexpected = more.load_state_dict(one.state_dict(), strict=False)
    assert not unexpected
    p_BTH = one.project(torch.randn(B, 6, X))
    assert_close(more(p_BTH)[0], one(p_BTH)[0])
    more(p_BTH)[0].sum().backward()
    assert more.read_weights.grad[-1] != 0


@pytest.mark.parametrize("rule", ["hebbian", "delta"])
@pytest.mark.parametrize("association", ["auto", "hetero"])
@pytest.mark.parametrize("gates", [False, True])
def test_three_steps_with_what_later_fast_weights_have(rule, association, gates):
    settings = {"rule": rule, "association": association, "gates": gates}
    core = random_core(decay=0.9, fast_lr=0.7, nonlinearity="tanh", kernel="reference", **settings)
    W, C = core.recurrent.weight.detach().numpy(), core.input.weight.detach().numpy()
    K, V = np.eye(H), np.eye(H)
    if association == "hetero":
        K, V = (
            core.recurrent_association.key.weight.detach().numpy(),
            core.recurrent_association.value.weight.detach().numpy(),
        )
    x_TX, h, A, decay, rate = torch.randn(3, X), np.zeros(H), np.zeros((H, H)), 0.9, 0.7
    for t, y_H in enumerate(core(core.project(x_TX[None]))[0][0]):
        if gates:
            of_x = core.gate.weight.detach().numpy() @ x_TX[t].numpy() + core.gate.bias.detach().numpy()
            decay, rate = 1 / (1 + np.exp(-of_x[0])), 1.4 / (1 + np.exp(-of_x[1]))
        key, value = K @ h, V @ h
        if rule == "delta":
            key = key / np.sqrt(key @ key + 1e-6)
            value = value - decay * A @ key
        A = decay * A + rate * np.outer(value, key)
        z = W @ h + C @ x_TX[t].numpy()
        h = np.tanh(layer_norm(z + A @ np.tanh(z), core.norm))
        np.testing.assert_allclose(y_H.detach(), h, atol=1e-12)
    is_sum_over_states = (rule, association, gates) == ("hebbian", "auto", False)
    assert (core.attention(core.project(x_TX[None])) is not None) == is_sum_over_states


def test_learned_keys_values_and_gates_start_as_without_them():
    torch.manual_seed(0)
    plain = FastWeights(X, hidden_size=H)
    core = FastWeights(X, hidden_size=H, association="hetero", gates=True, kernel="reference")
    assert len(core.load_state_dict(plain.state_dict(), strict=False).unexpected_keys) == 0
    x_BTX = torch.randn(B, 6, X)
    assert_close(core(core.project(x_BTX))[0], plain(plain.project(x_BTX))[0])
    assert sum(parameter.numel() for parameter in core.parameters()) == H * H + H * X + 2 * H + 2 * H * H + 2 * X + 2
    assert core.state_size == plain.state_size


def test_the_delta_rule_replaces_what_is_stored_under_a_key():
    core = FastWeights(X, hidden_size=H, rule="delta", fast_lr=1.0, decay=0.9)
    h_BH, A_BHH = torch.randn(B, H), torch.randn(B, H, H)
    A_BHH = core.recurrent_association.written(0.9 * A_BHH, h_BH, 1.0, delta=True)
    assert_close(torch.einsum("bij,bj->bi", A_BHH, h_BH / h_BH.norm(dim=1, keepdim=True)), h_BH, rtol=0, atol=1e-5)


@pytest.mark.parametrize("decay", [0.9, 1.0])
@pytest.mark.parametrize(("fast_lr", "stable"), [(1.0, True), (2.0, True), (2.2, False)])
def test_the_delta_rule_is_stable_up_to_a_learning_rate_of_two(decay, fast_lr, stable):
    """Each step multiplies what is stored under a repeated key by λ (1 - η), and adds η times the value."""
    core = FastWeights(X, hidden_size=H, rule="delta")
    h_BH, A_BHH = torch.full((1, H), 0.5), torch.zeros(1, H, H)
    for _ in range(400):
        A_BHH = core.recurrent_association.written(decay * A_BHH, h_BH, fast_lr, delta=True)
    assert (float(A_BHH.norm()) < 10 * fast_lr) == stable


def test_a_memory_may_have_fewer_rows_than_there_are_units():
    core = random_core(rule="delta", association="hetero", memory_size=3, fast_lr=0.7, kernel="reference")
    W, C = core.recurrent.weight.detach().numpy(), core.input.weight.detach().numpy()
    K, V, R = (getattr(core.recurrent_association, name).weight.detach().numpy() for name in ("key", "value", "output"))
    x_TX, h, A = torch.randn(4, X), np.zeros(H), np.zeros((3, 3))
    for t, y_H in enumerate(core(core.project(x_TX[None]))[0][0]):
        key = K @ h
        key = key / np.sqrt(key @ key + 1e-6)
        A = 0.95 * A + 0.7 * np.outer(V @ h - 0.95 * A @ key, key)
        z = W @ h + C @ x_TX[t].numpy()
        h = np.maximum(layer_norm(z + R @ A @ K @ np.maximum(z, 0), core.norm), 0)
        np.testing.assert_allclose(y_H.detach(), h, atol=1e-12)
    assert core.state_size == H + 3 * 3
    start = FastWeights(X, hidden_size=H, association="hetero", memory_size=3).recurrent_association
    assert_close(start.key.weight @ start.key.weight.T, torch.eye(3), rtol=0, atol=1e-12)
    assert_close(start.output.weight, start.value.weight.T)


def test_a_memory_of_another_size_needs_projections():
    with pytest.raises(ValueError, match=r"^memory_size=3: must be null with association=auto$"):
        FastWeights(X, hidden_size=H, memory_size=3)


def test_the_input_may_start_stronger():
    torch.manual_seed(0)
    plain = FastWeights(X, hidden_size=H)
    torch.manual_seed(0)
    assert_close(FastWeights(X, hidden_size=H, input_scale=4.0).input.weight, 4 * plain.input.weight)


@pytest.mark.parametrize("name", ["decay", "fast_lr"])
def test_a_rate_that_is_trained_has_a_gradient(name):
    core, x_BTX = random_core(), torch.randn(B, 3, X)
    setattr(core, name, nn.Parameter(torch.tensor(0.6)))
    gradients = []
    for core.kernel in ("reference", "auto", "fused"):
        (found,) = torch.autograd.grad(core(core.project(x_BTX))[0].square().sum(), getattr(core, name))
        gradients.append(found)
    assert gradients[0] != 0
    assert_close(gradients, [gradients[0]] * 3)


def test_a_layer_norm_of_one_unit_is_an_error():
    for settings in ({}, {"num_inner_steps": 0, "layer_norm_preliminary": True}):
        with pytest.raises(ValueError, match=r"^hidden_size=1: must be 2 or more"):
            FastWeights(X, hidden_size=1, **settings)
    FastWeights(X, hidden_size=1, layer_norm=False)
    FastWeights(X, hidden_size=1, num_inner_steps=0)


def test_gates_need_a_decay_between_zero_and_one():
    with pytest.raises(ValueError, match=r"^decay=1.0: must be above 0 and below 1 with gates=true$"):
        FastWeights(X, hidden_size=H, decay=1.0, gates=True)


def boundaries(num_inner_steps, p_BH, state):
    sustained = random_core(layer_norm=False, num_inner_steps=num_inner_steps)
    identity = random_core(layer_norm=False, num_inner_steps=num_inner_steps, boundary="identity")
    identity.load_state_dict(sustained.state_dict())
    return sustained.step(p_BH, state)[0], identity.step(p_BH, state)[0]


@pytest.mark.parametrize("num_inner_steps", [0, 1, 2, 3])
def test_with_an_empty_memory_both_boundary_conditions_are_one(num_inner_steps):
    empty = FastWeightsState(torch.zeros(B, H), torch.zeros(B, H, H))
    a_BH, b_BH = boundaries(num_inner_steps, torch.randn(B, H), empty)
    assert a_BH.any()
    assert_close(a_BH, b_BH, rtol=0, atol=0)


def test_with_a_memory_the_boundary_conditions_differ_only_where_the_input_is_negative():
    state = FastWeightsState(torch.zeros(B, H), torch.rand(B, H, H))
    positive_BH = torch.rand(B, H) + 0.1
    a_BH, b_BH = boundaries(1, positive_BH, state)
    assert_close(a_BH, b_BH, rtol=0, atol=1e-14)
    signs_H = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0])
    a_BH, b_BH = boundaries(1, positive_BH * signs_H, state)
    differs_BH = (a_BH - b_BH).abs() > 1e-3
    assert differs_BH.tolist() == (signs_H < 0).expand(B, H).tolist()


@pytest.mark.parametrize("kernel", ["reference", "vectorized"])
def test_layer_norm_hides_the_scale_of_the_summed_input(kernel):
    core = random_core(kernel=kernel)
    core.norm.eps = 0.0
    p_BTH = core.project(torch.randn(B, 6, X))
    before, _ = core(p_BTH)
    core.recurrent.weight.data.mul_(7.0)
    assert_close(core(7.0 * p_BTH)[0], before, rtol=0, atol=1e-10)


def test_weights_start_as_the_paper_says():
    core = FastWeights(50, hidden_size=25)
    assert_close(core.recurrent.weight.detach(), 0.05 * torch.eye(25), rtol=0, atol=0)
    assert 0.19 < core.input.weight.abs().max() <= 0.2


@pytest.mark.parametrize(
    ("settings", "in_biases_and_norms"),
    [({}, 2 * H), ({"layer_norm": False}, H), ({"layer_norm_preliminary": True}, 4 * H)],
)
def test_number_of_parameters_and_size_of_the_state(settings, in_biases_and_norms):
    core = FastWeights(X, hidden_size=H, **settings)
    assert sum(parameter.numel() for parameter in core.parameters()) == H * H + H * X + in_biases_and_norms
    assert core.state_size == H + H * H


@pytest.mark.parametrize("kernel", ["reference", "vectorized", "fused"])
def test_gradients_are_those_of_finite_differences(kernel):
    core = FastWeights(X, hidden_size=3, nonlinearity="tanh", num_inner_steps=2, kernel=kernel)
    inputs = tuple(torch.randn(shape, requires_grad=True) for shape in [(1, 4, 3), (1, 3), (1, 3, 3)])
    assert torch.autograd.gradcheck(lambda p, h, A: core(p, FastWeightsState(h, A))[0], inputs)


def test_without_inner_steps_nothing_is_attended_to():
    core = random_core(num_inner_steps=0)
    assert core.attention(core.project(torch.randn(B, 5, X))) is None


def test_another_layer_norm_is_computed_as_it_is():
    core = FastWeights(X, hidden_size=H)
    core.norm = nn.LayerNorm(H, eps=0.1)
    p_BTH = core.project(0.1 * torch.randn(3, 6, X))
    assert core.is_fused
    torch.testing.assert_close(core(p_BTH)[0], core.scan(p_BTH)[0])


def test_tensors_that_do_not_fit_are_an_error_and_not_read():
    core = FastWeights(X, hidden_size=H, kernel="fused")
    p_BTH = core.project(torch.randn(3, 6, X))
    core.norm.float()
    with pytest.raises(
        ValueError, match=rf"^layer norm of shape \[{H}\] in torch.float32: expected \[{H}\] in torch.float64"
    ):
        core(p_BTH)
