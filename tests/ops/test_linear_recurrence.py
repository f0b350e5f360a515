"""The linear recurrence: every form against a loop in NumPy, and its gradients against those of the scan.

Shapes: B sequences, T time steps, N writes, H heads, K key features, V value features.
"""

from functools import partial

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from src.ops.cpu import calls
from src.ops.cpu.linear_recurrence import linear_recurrence
from src.ops.linear_recurrence import DeltaTerms, Terms, chunked, in_full_precision, scan

B, H = 3, 2
DECAYS = ["none", "scalar", "channel"]
ERASES = ["nothing", "delta", "general"]
FORMS = {
    "scan": scan,
    "kernel": linear_recurrence,
    **{f"chunk {n}": partial(chunked, chunk_size=n) for n in (1, 3, 64)},
}


@pytest.fixture(autouse=True)
def _exact():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def make(time, keys, values, decay, erase, writes=1, batch=B):
    count = time * writes
    b = 0.5 * torch.randn(batch, count, H, keys)
    return Terms(
        torch.randn(batch, time, H, keys),
        torch.randn(batch, count, H, keys),
        torch.randn(batch, count, H, values),
        None if decay == "none" else -(torch.rand(batch, count, H, 1 if decay == "scalar" else keys) ** 4) * 5,
        None if erase == "nothing" else b,
        0.5 * torch.randn_like(b) if erase == "general" else None,
    )


def by_hand(terms, S, resets, start, read_first):
    """The equation, written as loops."""
    q, k, v, g, b, a = (None if term is None else term.numpy() for term in terms)
    S = S.numpy().copy()
    outputs = np.zeros((*q.shape[:3], v.shape[3]))
    n = terms.num_writes
    for row in range(len(q)):
        for head in range(H):
            M = S[row, head]
            for t in range(q.shape[1]):
                if resets is not None and resets[row, t]:
                    M = start[row, head].numpy()
                if read_first:
                    outputs[row, t, head] = M.T @ q[row, t, head]
                for i in range(n * t, n * (t + 1)):
                    at = row, i, head
                    left = -k[at] if a is None else a[at]
                    erased = 0 if b is None else np.outer(left, M.T @ b[at])
                    w = np.ones((1,)) if g is None else np.exp(g[at])
                    M = w[:, None] * M + erased + np.outer(k[at], v[at])
                if not read_first:
                    outputs[row, t, head] = M.T @ q[row, t, head]
            S[row, head] = M
    return torch.from_numpy(outputs), torch.from_numpy(S)


def results(form, terms, S, resets=None, start=None, read_first=False):
    """Outputs, last state and the gradients of a random functional of both."""
    sources = [t.clone().requires_grad_() if t is not None else None for t in (*terms, S, start)]
    *given, S, start = sources
    o, end = form(Terms(*given), S, resets, start, read_first=read_first)
    generator = torch.Generator().manual_seed(1)
    o_weights, S_weights = torch.randn(o.shape, generator=generator), torch.randn(end.shape, generator=generator)
    loss = (o * o_weights).sum() + (end * S_weights).sum()
    wanted = [source for source in sources if source is not None]
    return [o.detach(), end.detach(), *torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)]


def assert_near(actual, expected, tolerance=1e-10):
    for a, b in zip(actual, expected, strict=True):
        assert a.isfinite().all()
        assert ((a - b).abs() / b.abs().clamp(min=1)).max() < tolerance


def forms():
    if calls.available(torch.empty(0)):
        return FORMS
    return {name: form for name, form in FORMS.items() if name != "kernel"}


@pytest.mark.parametrize("erase", ERASES)
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize(
    ("time", "keys", "values", "writes", "read_first", "with_resets"),
    [(1, 4, 3, 1, False, False), (2, 3, 5, 2, False, True), (9, 2, 4, 1, True, True), (35, 3, 6, 1, False, False),
     (7, 4, 1, 3, True, False), (11, 1, 2, 1, False, True)],
)  # fmt: skip
def test_every_form_is_the_equation_with_all_gradients(
    time, keys, values, writes, read_first, with_resets, decay, erase
):
    terms = make(time, keys, values, decay, erase, writes)
    S, start = torch.randn(2, B, H, keys, values)
    resets = torch.rand(B, time) < 0.3 if with_resets else None
    arguments = (terms, S, resets, start if with_resets else None, read_first)
    expected = results(scan, *arguments)
    assert_near(by_hand(*arguments), expected[:2])
    for form in forms().values():
        assert_near(results(form, *arguments), expected)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize(
    ("time", "keys", "values", "writes", "with_resets"),
    [(1, 4, 3, 1, False), (19, 3, 6, 1, True), (7, 17, 4, 3, False)],
)
def test_every_form_scales_keys_and_queries_to_unit_length(time, keys, values, writes, with_resets, decay):
    q, k, v, log_decay, *_ = make(time, keys, values, decay, "nothing", writes)
    k[0, 0] = 0  # as after padding
    S, start = torch.randn(2, B, H, keys, values)
    resets = torch.rand(B, time) < 0.3 if with_resets else None
    beta = 2 * torch.rand(*k.shape[:3], 1)

    def of(form):
        sources = [t.clone().requires_grad_() for t in (q, k, v, beta, S)]
        if log_decay is not None:
            sources.append(log_decay.clone().requires_grad_())
        *terms, S_0 = sources[:5]
        o, end = form(DeltaTerms(*terms, *sources[5:], scale=0.3), S_0, resets, start if with_resets else None)
        weights = torch.randn(o.shape, generator=torch.Generator().manual_seed(1))
        loss = (o * weights).sum() + end.square().sum()
        return [o.detach(), end.detach(), *torch.autograd.grad(loss, sources)]

    expected = of(scan)
    for form in forms().values():
        assert_near(of(form), expected)


@pytest.mark.parametrize("decay", DECAYS[1:])
def test_the_kernel_without_the_gradient_of_the_decay(decay):
    if "kernel" not in forms():
        pytest.skip("no compiler")
    terms, S = make(35, 3, 6, decay, "nothing"), torch.randn(B, H, 3, 6)
    q, k, v, log_decay, *_ = terms

    def of(form):
        sources = [t.clone().requires_grad_() for t in (q, k, v)]
        return torch.autograd.grad(form(Terms(*sources, log_decay), S)[0].square().sum(), sources)

    assert_near(of(linear_recurrence), of(scan))


@pytest.mark.parametrize("erase", ERASES)
@pytest.mark.parametrize("decay", DECAYS)
def test_gradients_of_the_definition_are_those_of_finite_differences(decay, erase):
    terms = make(3, 2, 2, decay, erase, batch=1)
    given = [t.requires_grad_() for t in (*terms, torch.randn(1, H, 2, 2)) if t is not None]
    present = [t is not None for t in terms]

    def run(*tensors):
        rest = iter(tensors[:-1])
        return scan(Terms(*(next(rest) if p else None for p in present)), tensors[-1])

    assert torch.autograd.gradcheck(run, given)


@pytest.mark.parametrize("form", list(FORMS))
def test_a_sequence_may_be_split_everywhere(form):
    if form not in forms():
        pytest.skip("no compiler")
    terms, S = make(9, 3, 4, "channel", "general"), torch.randn(B, H, 3, 4)
    whole, end = FORMS[form](terms, S)
    for split in range(1, 9):
        first, S_split = FORMS[form](Terms(*(t[:, :split] for t in terms)), S)
        second, last = FORMS[form](Terms(*(t[:, split:] for t in terms)), S_split)
        assert_near([torch.cat([first, second], dim=1), last], [whole, end])


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("form", list(FORMS))
def test_zeros_have_finite_gradients(form, decay):
    if form not in forms():
        pytest.skip("no compiler")
    terms = Terms(*(None if t is None else torch.zeros_like(t) for t in make(5, 3, 4, decay, "general")))
    for tensor in results(FORMS[form], terms, torch.zeros(B, H, 3, 4)):
        assert tensor.isfinite().all()


@pytest.mark.parametrize("decay", ["scalar", "channel"])
def test_strong_decay_does_not_overflow_in_chunks(decay):
    """Here e^{-G} by itself would be about 10^400."""
    terms = make(64, 3, 4, decay, "delta")._replace(log_decay=None)
    log_decay = torch.full((B, 64, H, 1 if decay == "scalar" else 3), -15.0)
    terms, S = terms._replace(log_decay=log_decay), torch.randn(B, H, 3, 4)
    assert_near(results(partial(chunked, chunk_size=64), terms, S), results(scan, terms, S))


@pytest.mark.parametrize("strongest", [-1e9, -1e308])
def test_a_decay_to_nothing_leaves_all_others_of_a_chunk_as_they_are(strongest):
    terms, S = make(9, 3, 4, "channel", "delta"), torch.randn(B, H, 3, 4)
    terms.log_decay[:, [2, 5]] = strongest
    assert_near(results(chunked, terms, S), results(scan, terms, S))


@pytest.mark.parametrize(("decay", "erase"), [("none", "nothing"), ("channel", "delta"), ("scalar", "general")])
@pytest.mark.parametrize("batch", [1, 20])
def test_the_kernel_in_float32_is_near_the_scan_in_float64(decay, erase, batch):
    if "kernel" not in forms():
        pytest.skip("no compiler")
    terms = make(50, 16, 17, decay, erase, batch=batch)
    terms = terms._replace(key=terms.key / 4, erase=None if terms.erase is None else terms.erase / 4)
    if erase == "general":
        terms = terms._replace(removal=terms.removal / 4)
    S = torch.randn(batch, H, 16, 17)
    in_float32 = Terms(*(None if term is None else term.float() for term in terms))
    actual = [tensor.double() for tensor in results(linear_recurrence, in_float32, S.float())]
    for a, b in zip(actual, results(scan, terms, S), strict=True):
        assert (a - b).norm() < 1e-5 * b.norm().clamp(min=1)


def test_the_kernel_reads_strided_terms_and_does_not_depend_on_the_number_of_threads():
    if "kernel" not in forms():
        pytest.skip("no compiler")
    mixed = torch.randn(40, 6, 3, H, 4)
    terms = Terms(*mixed.unbind(2), torch.full((1, 1, H, 1), -0.1).expand(40, 6, H, 1))
    S = torch.randn(40, H, 4, 4)
    expected = results(scan, terms, S)
    one = results(linear_recurrence, terms, S)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    two = results(linear_recurrence, terms, S)
    torch.set_num_threads(threads)
    assert_near(one, expected)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_autocast_rounds_no_memory():
    terms = Terms(*(term if term is None else term.float() for term in make(9, 4, 5, "scalar", "delta")))
    S_BHKV = torch.zeros(B, H, 4, 5, dtype=torch.float32)
    expected = in_full_precision(chunked, terms, S_BHKV, None, None)
    with torch.autocast("cpu", torch.bfloat16):
        found = in_full_precision(chunked, terms, S_BHKV, None, None)
    assert all(map(torch.equal, found, expected))


def test_terms_of_the_wrong_size_are_refused():
    if "kernel" not in forms():
        pytest.skip("no compiler")
    terms, S = make(4, 3, 4, "scalar", "delta"), torch.randn(B, H, 3, 4)
    with pytest.raises(ValueError, match=r"^erase of shape \[3, 4, 2, 2\]"):
        linear_recurrence(terms._replace(erase=terms.erase[..., :2]), S)
    with pytest.raises(ValueError, match=r"^log_decay: 2 decays per head, expected 1 or 3$"):
        linear_recurrence(terms._replace(log_decay=terms.log_decay.expand(-1, -1, -1, 2)), S)
    with pytest.raises(ValueError, match=r"^state of shape"):
        linear_recurrence(terms, S, torch.zeros(B, 4, dtype=torch.bool), S[..., :2])


def test_fast_weights_are_a_retention_that_reads_first():
    """A(t) h of Ba et al. (2016) with q = k = v = h, for any states h."""
    decay, fast_lr = 0.9, 0.5
    h = torch.randn(B, 8, 1, 5)
    A, expected = torch.zeros(B, 5, 5), []
    for h_t in h[:, :, 0].unbind(1):
        expected.append(torch.einsum("bij,bj->bi", A, h_t))
        A = decay * A + fast_lr * h_t[:, :, None] * h_t[:, None, :]
    terms = Terms(h, fast_lr * h, h, torch.full((B, 8, 1, 1), decay).log())
    for form in forms().values():
        o, S = form(terms, torch.zeros(B, 1, 5, 5), read_first=True)
        assert_close(o[:, :, 0], torch.stack(expected, dim=1), rtol=0, atol=1e-12)
        assert_close(S[:, 0], A, rtol=0, atol=1e-12)
