"""Jacobians and gradients by lag against closed forms, finite differences and the chain rule."""

import numpy as np
import pytest
import torch

from src.config.errors import UserError
from src.models.alstm import ALSTM
from src.models.deltanet import DeltaNet
from src.models.fastweights import FastWeights
from src.models.gru import GRU
from src.models.lstm import LSTM
from src.models.rnn import RNN
from src.models.sequence import SequenceModel
from src.models.stack import Stack
from src.models.tgu import TGU
from src.ops.inputs import steps
from src.specs import map_state, state_tensors
from src.tasks.addition import Addition
from src.tasks.base import Task
from src.tasks.catch import Catch
from src.tasks.copying import Copying
from src.tasks.induction_heads import InductionHeads
from src.theory.gradient_flow.norms import (
    check,
    loss_gradient_by_lag,
    norms_by_lag,
    norms_through_memory,
    state_jacobians,
)
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
    jacobian_BHS = state_jacobians(core, p_BTP)[2]  # with respect to the state after the third of five steps
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


def test_where_the_states_in_between_are_silent_only_the_memory_carries_a_gradient():
    with seeded_float64(0):
        core = FastWeights(4, hidden_size=4, layer_norm=False)
        p_BTH = torch.randn(3, 5, 4).abs()
    p_BTH[:, 2:-1] = -1e3
    norms_LB = norms_by_lag(core, p_BTH)
    assert (norms_LB[3] > 0.01).all()
    np.testing.assert_allclose(norms_through_memory(core, p_BTH, 3), norms_LB[3], rtol=1e-10)
    assert (norms_through_memory(core, p_BTH, 4) < norms_LB[4]).all(), "step 1 is a path, too"
    assert (norms_through_memory(core, p_BTH, 2) == 0).all(), "written by a silent state"


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


def stacked(make):
    return lambda size: Stack([make(size), make(4)])


DEEPER = {
    "lstm": lambda size: LSTM(size, hidden_size=4),
    "stacked lstm": stacked(lambda size: LSTM(size, hidden_size=4)),
    "stacked rnn": stacked(lambda size: RNN(size, hidden_size=4)),
    "tgu": lambda size: TGU(size, hidden_size=4, rank=3),
    "tguv2": lambda size: TGU(size, hidden_size=4, rank=3, version="v2"),
}


@pytest.mark.parametrize("name", DEEPER)
@pytest.mark.parametrize("every_step", [False, True])
def test_the_gradient_of_the_loss_is_that_by_a_state_put_in_place(name, every_step):
    """The head reads the output of the core: a state, the sum over several layers, or a function of a state."""
    task: Task
    if every_step:
        task = Copying(0, sequence_length=2, num_symbols=2, copy_length=2, val_size=3, test_size=3)
    else:
        task = Addition(0, sequence_length=5, train_size=None, val_size=3, test_size=3)
    with seeded_float64(0):
        model = SequenceModel(task.input_spec, task.output_spec, DEEPER[name], embedding_size=3)
    batch = in_double(next(iter(task.evaluation("test"))))
    norms_LB = loss_gradient_by_lag(model, task, batch)
    by_step = steps(map_state(torch.Tensor.detach, model.project(batch.inputs).vectors))
    for lag in range(len(by_step)):
        state, outputs = model.core.initial_state(3), []
        for t, p in enumerate(by_step):
            y_BH, state = model.core.step(p, state)
            if t == len(by_step) - 1 - lag:
                state = map_state(lambda part: part.detach().requires_grad_(), state)
                y_BH, put = read_again(model.core, name, p, y_BH, state), state_tensors(state)
            outputs.append(y_BH)
        # the criterion is a mean over three sequences
        loss = 3 * task.criterion(model.head(torch.stack(outputs, 1) if every_step else y_BH), batch)
        gradients = torch.autograd.grad(loss, put, materialize_grads=True)
        expected_B = torch.cat(gradients, dim=1).norm(dim=1)
        torch.testing.assert_close(torch.tensor(norms_LB[lag]), expected_B, rtol=1e-9, atol=1e-13)


def read_again(core, name, p, y_BH, state):
    """Recompute the output of a step from the state after it."""
    if name == "tguv2":
        return y_BH  # computed from the state before the step
    if name == "tgu":
        return torch.tanh(core.read(state, p.output_BP))
    layers = state if name.startswith("stacked") else [state]
    return sum(state_tensors(layer)[0] for layer in layers)


def test_lags_are_counted_from_the_last_step_of_each_sequence():
    task = InductionHeads(0, train_size=None, val_size=4, test_size=4)
    with seeded_float64(0):
        model = SequenceModel(task.input_spec, task.output_spec, lambda size: LSTM(size, hidden_size=4))
    batch = in_double(next(iter(task.evaluation("test"))))._replace(lengths=torch.tensor([3, 7, 5, 1]))
    padded = batch._replace(inputs=batch.inputs[:, :8])
    p_BTP = model.project(padded.inputs).vectors
    for measured_LB, alone in (
        (norms_by_lag(model.core, p_BTP, lengths=padded.lengths), lambda one, p: norms_by_lag(model.core, p)),
        (loss_gradient_by_lag(model, task, padded), lambda one, p: loss_gradient_by_lag(model, task, one)),
    ):
        assert measured_LB.shape == (7, 4)
        for row, length in enumerate(padded.lengths.tolist()):
            one = padded.take(slice(row, row + 1))
            one = one._replace(inputs=one.inputs[:, :length], lengths=None)
            expected_L = alone(one, p_BTP[row : row + 1, :length])[:, 0]
            np.testing.assert_allclose(measured_LB[:length, row], expected_L, rtol=1e-9)
            assert np.isnan(measured_LB[length:, row]).all()


def test_what_cannot_be_measured_is_refused():
    addition = Addition(0, sequence_length=5)
    for make in CORES.values():
        check(make(), addition)
    check(Stack([FastWeights(3, hidden_size=4), FastWeights(4, hidden_size=4)]), addition)
    with pytest.raises(UserError, match=r"floating-point vectors.*; that of DeltaNet has a part of shape \[\d"):
        check(DeltaNet(8, hidden_size=8), addition)
    with pytest.raises(UserError, match="this one is played"):
        check(LSTM(3, hidden_size=4), Catch(0))
