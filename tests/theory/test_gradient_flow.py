"""Norms of products of Jacobians against closed forms, finite differences and automatic differentiation."""

import math

import numpy as np
import pytest
import torch

from src.errors import UserError
from src.models.alstm import ALSTM
from src.models.fastweights import FastWeights
from src.models.gru import GRU
from src.models.lstm import LSTM
from src.models.rnn import RNN
from src.models.sequence import SequenceModel
from src.tasks.addition import Addition
from src.theory import error_carousel, gradient_flow, gradient_limits
from src.theory.gradient_norms import (
    geometric_mean,
    in_double,
    loss_gradient_by_lag,
    norms_by_lag,
    seeded_float64,
    state_jacobians,
    train_briefly,
)

CORES = {
    "rnn": lambda: RNN(3, hidden_size=4),
    "lstm": lambda: LSTM(3, hidden_size=4),
    "gru": lambda: GRU(3, hidden_size=4),
    "alstm": lambda: ALSTM(3, hidden_size=4, num_heads=2),
    "fastweights": lambda: FastWeights(3, hidden_size=4),
}


@pytest.mark.parametrize("name", CORES)
def test_jacobians_of_every_core_are_those_of_finite_differences(name):
    with seeded_float64(0):
        core = CORES[name]()
        x_BTX = torch.randn(2, 5, 3)
    p_BTP = core.project(x_BTX).detach()
    jacobian_BHS = state_jacobians(core, p_BTP)[2]  # by the state after the third of five steps
    with torch.no_grad():
        _, state = core.scan(p_BTP[:, :3])
        parts = (state,) if isinstance(state, torch.Tensor) else tuple(state)
        if name == "fastweights":
            parts = parts[:1]
        column = 0
        for which, part in enumerate(parts):
            for entry in range(part[0].numel()):
                ends = []
                for sign in (1, -1):
                    moved = part.flatten(1).clone()
                    moved[:, entry] += sign * 1e-6
                    moved = moved.view_as(part)
                    if isinstance(state, torch.Tensor):
                        shifted = moved
                    else:
                        shifted = state._replace(**{state._fields[which]: moved})
                    ends.append(core.scan(p_BTP[:, 3:], shifted)[0][:, -1])
                difference_BH = (ends[0] - ends[1]) / 2e-6
                torch.testing.assert_close(jacobian_BHS[..., column], difference_BH, rtol=1e-5, atol=1e-7)
                column += 1
    assert column == jacobian_BHS.shape[-1]


def test_lag_zero_is_one_and_a_linear_network_gives_powers():
    with seeded_float64(1):
        core = RNN(3, hidden_size=4, nonlinearity="linear", init="normal")
    norms_LB = norms_by_lag(core, torch.zeros(2, 6, 4, dtype=torch.float64))
    W_HH = core.recurrent.weight.detach().numpy()
    expected_L = [np.linalg.norm(np.linalg.matrix_power(W_HH, k), 2) for k in range(6)]
    np.testing.assert_allclose(norms_LB, np.repeat(np.array(expected_L)[:, None], 2, 1), rtol=1e-10)
    assert geometric_mean(np.array([[1.0, 4.0], [0.0, 1.0]])).tolist() == pytest.approx([2.0, 1e-150])


def test_norms_at_initialization():
    result = gradient_flow.keep_at_start(num_units=8, num_steps=31, num_sequences=4)
    failed = [claim.statement for claim in result.claims if not claim.holds]
    assert not failed
    one_matrix, gates, fast = result.panels.values()
    assert (one_matrix["IRNN, W = 1.0 I"] == 1).all()
    np.testing.assert_allclose(one_matrix["IRNN, W = 0.05 I"], 0.05 ** np.arange(31.0))
    assert (one_matrix["tanh, ‖W‖ = 0.9"] <= 0.9 ** np.arange(31.0) * (1 + 1e-9)).all()
    assert gates["LSTM, forget bias 4"][-1] > gates["LSTM, forget bias 1"][-1] > gates["LSTM, forget bias 0"][-1]
    assert fast["layer norm"][-1] > 1e-3
    assert len(gradient_flow.draw_kept(result).axes) == 3


def test_the_gradient_of_the_loss_is_that_of_the_chain_rule():
    task = Addition(0, sequence_length=6, train_size=None, val_size=4, test_size=4)
    with seeded_float64(0):
        model = SequenceModel(task.input_spec, task.output_spec, lambda size: RNN(size, hidden_size=5))
    batch = in_double(next(iter(task.evaluation("test"))))
    norms_LB = loss_gradient_by_lag(model, task, batch)
    h_BTH = model.core.scan(model.project(batch.inputs).vectors)[0].detach()
    by_h_BH = 2 * (model.head(h_BTH[:, -1]) - batch.targets) * model.head.weight
    for lag in range(6):
        torch.testing.assert_close(torch.tensor(norms_LB[lag]), by_h_BH.norm(dim=1).detach())
        by_a_BH = by_h_BH * (1 - h_BTH[:, 5 - lag] ** 2)
        by_h_BH = by_a_BH @ model.core.recurrent.weight


def test_training_a_gated_network_carries_the_gradient_further():
    task = Addition(0, sequence_length=12, train_size=None, val_size=64, test_size=64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SequenceModel(task.input_spec, task.output_spec, lambda size: GRU(size, hidden_size=12))
    trained = train_briefly("GRU", model, task, num_updates=120, lr=2e-2)
    assert trained.update == 120
    batch = in_double(next(iter(task.evaluation("test"))).take(slice(0, 8)))
    before, after = (
        np.median(norms_by_lag(m.core, m.project(batch.inputs).vectors.detach())[-1])
        for m in (trained.start, trained.end)
    )
    assert abs(math.log(after)) < abs(math.log(before))


def test_a_run_is_measured_from_its_checkpoint(train, tiny, tmp_path):
    assert train("task=addition", "task.sequence_length=8", "model=gru", *tiny).status == 0
    (folder,) = (path.parent for path in tmp_path.rglob("result.json"))
    result = gradient_flow.keep_after_training(run=str(folder), num_sequences=4)
    ((before_L, after_L),) = result.jacobian_L.values()
    assert before_L.shape == after_L.shape == (8,)
    assert before_L[0] == after_L[0] == pytest.approx(1)
    assert (before_L[1:] != after_L[1:]).all()
    (claim,) = result.claims
    assert claim.holds
    assert f"from {before_L[-1]:.2g} to {after_L[-1]:.2g}" in claim.statement
    assert len(gradient_flow.draw_training(result).axes) == 2
    with pytest.raises(UserError, match="not the folder of a run"):
        gradient_flow.keep_after_training(run=str(tmp_path / "none"))


def test_powers_of_a_matrix():
    result = gradient_limits.compare_powers(num_units=30)
    assert all(claim.holds for claim in result.claims)
    # the corner of the Jordan block, and the diagonal, written out
    expected = [np.linalg.norm([[0.9**k, 2 * k * 0.9 ** (k - 1)], [0, 0.9**k]], 2) for k in range(1, 60)]
    np.testing.assert_allclose(result.non_normal[1:60], expected, rtol=1e-10)
    assert result.non_normal.argmax() in (9, 10)
    n = np.arange(2, 61)
    np.testing.assert_allclose(result.slowing[2:61], (n + 1) / (2 * n))
    assert gradient_limits.draw_powers(result).axes


def test_conditions_on_the_largest_singular_value():
    result = gradient_limits.compare_conditions()
    assert all(claim.holds for claim in result.claims)
    for panel in result.panels.values():
        quiet_small, quiet_large, loud_large = panel.values()
        np.testing.assert_allclose(quiet_small, 0.9 ** np.arange(41.0), rtol=1e-10)
        np.testing.assert_allclose(quiet_large, 1.5 ** np.arange(41.0), rtol=1e-10)
        assert loud_large[-1] < 1e-10
    assert gradient_limits.draw_conditions(result).axes


def test_the_error_carousel():
    result = error_carousel.ride_carousel(num_units=6, num_steps=40)
    assert all(claim.holds for claim in result.claims)
    for bias in (0, 1, 4):
        forget = 1 / (1 + math.exp(-bias))
        np.testing.assert_allclose(result.along_cell[f"forget bias {bias}"], forget ** np.arange(41.0), rtol=1e-10)
    assert error_carousel.draw_carousel(result).axes
