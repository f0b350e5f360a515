"""Fast weights in a case computed by hand, the closed sum, and the printed layer norm."""

import numpy as np
import torch

from src.models.fastweights import FastWeights
from src.theory import fast_weights_attention as topic


def core(**settings):
    return FastWeights(6, hidden_size=6, decay=0.9, fast_lr=0.5, **settings).double()


def test_two_writes_by_hand():
    h_TH = torch.tensor([[1.0, 0.0], [1.0, 2.0]], dtype=torch.float64)
    A_THH = topic.written(h_TH, decay=0.9, fast_rate=0.5)
    torch.testing.assert_close(A_THH[0], torch.tensor([[0.5, 0], [0, 0]], dtype=torch.float64))
    torch.testing.assert_close(A_THH[1], torch.tensor([[0.95, 1], [1, 2]], dtype=torch.float64))


def test_the_closed_sum_is_the_model_in_every_configuration():
    p_BTH = torch.randn(3, 7, 6, dtype=torch.float64)
    for settings in ({}, {"num_inner_steps": 3}, {"layer_norm": False, "num_inner_steps": 0}):
        model = core(**settings)
        torch.testing.assert_close(topic.closed_sum(model, p_BTH), model.scan(p_BTH)[0], rtol=1e-11, atol=1e-13)


def test_a_read_is_the_sum_of_past_states_with_the_weights_shown():
    model, p_BTH = core(), torch.randn(1, 7, 6, dtype=torch.float64)
    with torch.no_grad():
        states_TH = model.scan(p_BTH)[0][0]
        queries_TH = topic.first_queries(model, p_BTH[0], states_TH)
        A_THH = topic.written(states_TH, decay=0.9, fast_rate=0.5)
        _, weights_TT = topic.read_weights(model, states_TH, queries_TH)
        read_TH = torch.einsum("tij,tj->ti", A_THH[:-1], queries_TH[1:])
        torch.testing.assert_close(torch.from_numpy(np.nan_to_num(weights_TT))[1:] @ states_TH, read_TH)
        # one step of the model, by hand
        h_TH = torch.relu(model.norm(model.recurrent(states_TH[:-1]) + p_BTH[0, 1:] + read_TH))
    torch.testing.assert_close(h_TH, states_TH[1:])


def test_the_printed_layer_norm_overflows_and_the_right_one_is_bounded():
    p_BTH = 3 * torch.randn(3, 20, 6, dtype=torch.float64)
    model = core()
    with torch.no_grad():
        assert topic.state_sizes(model, p_BTH, printed=False).max() <= np.sqrt(6)
        assert topic.state_sizes(model, p_BTH, printed=True).max() >= topic.OVERFLOW


def test_the_first_step_of_both_forms_is_the_same():
    p_BTH = torch.randn(3, 1, 6, dtype=torch.float64)
    with torch.no_grad():
        right, printed = (topic.state_sizes(core(), p_BTH, printed=printed) for printed in (False, True))
    np.testing.assert_allclose(right, printed)


def claim_of(result, start):
    (claim,) = (claim for claim in result.claims if claim.statement.startswith(start))
    return claim


def test_a_memory_that_starts_with_anything_but_zero_refutes_the_claim(monkeypatch):
    assert claim_of(topic.run(num_steps=8), "Fast weights are a memory").holds
    start = FastWeights.initial_state

    def written_before(self, batch_size):
        state = start(self, batch_size)
        return state._replace(A_BHH=state.A_BHH + torch.eye(self.hidden_size))

    monkeypatch.setattr(FastWeights, "initial_state", written_before)
    assert not claim_of(topic.run(num_steps=8), "Fast weights are a memory").holds


def test_states_that_have_not_grown_so_far_yet_are_not_said_to():
    found = {steps: claim_of(topic.run(num_steps=steps), "With the layer norm").refuted for steps in (5, 8)}
    assert found[5].endswith("whose states do not exceed 1e+30 within 5 steps")
    assert found[8].endswith("whose states exceed 1e+30 after 7 steps")
