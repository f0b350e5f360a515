"""Jacobians and gradients by lag against closed forms, finite differences and the chain rule."""

import numpy as np
import pytest
import torch

from src.models.alstm import ALSTM
from src.models.fastweights import FastWeights
from src.models.gru import GRU
from src.models.lstm import LSTM
from src.models.rnn import RNN
from src.models.sequence import SequenceModel
from src.tasks.addition import Addition
from src.theory.gradient_flow.norms import geometric_mean, loss_gradient_by_lag, norms_by_lag, state_jacobians
from src.theory.networks import in_double, seeded_float64

CORES = {
    "rnn": lambda: RNN(3, hidden_size=4),
    "lstm": lambda: LSTM(3, hidden_size=4),
    "gru": lambda: GRU(3, hidden_size=4),
    "alstm": lambda: ALSTM(3, hidden_size=4, num_heads=2),
    "fastweights": lambda: FastWeights(3, hidden_size=4),
}


@pytest.mark.parametrize("name", CORES)
def test_jacobians_of_every_core_equal_finite_differences(name):
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


def test_the_gradient_of_the_loss_follows_the_chain_rule():
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
