"""Gradients before and after training, for networks trained here and for a run."""

import math

import numpy as np
import pytest
import torch

from src.config.errors import UserError
from src.models.deltanet import DeltaNet
from src.models.gru import GRU
from src.models.sequence import SequenceModel
from src.tasks.addition import Addition
from src.tasks.catch import Catch
from src.tasks.induction_heads import InductionHeads
from src.theory.gradient_flow import initialization, training
from src.theory.gradient_flow.norms import norms_by_lag
from src.theory.networks import Trained, in_double, train_briefly


def test_norms_at_initialization():
    result = initialization.measure_at_start(num_units=8, num_steps=31, num_sequences=4)
    failed = [claim.statement for claim in result.claims if not claim.holds]
    assert not failed
    one_matrix, gates, fast = result.panels.values()
    assert (one_matrix["IRNN, W = 1.0 I"] == 1).all()
    np.testing.assert_allclose(one_matrix["IRNN, W = 0.05 I"], 0.05 ** np.arange(31.0))
    assert (one_matrix["tanh, ‖W‖ = 0.9"] <= 0.9 ** np.arange(31.0) * (1 + 1e-9)).all()
    assert gates["LSTM, forget bias 4"][-1] > gates["LSTM, forget bias 1"][-1] > gates["LSTM, forget bias 0"][-1]
    assert fast["layer norm"][-1] > 1e-3
    assert len(initialization.draw_initial(result).axes) == 3


def test_training_a_gated_network_preserves_the_gradient():
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
    result = training.measure_after_training(run=str(folder), num_sequences=4)
    ((before_L, after_L),) = result.jacobian_L.values()
    assert before_L.shape == after_L.shape == (8,)
    assert before_L[0] == after_L[0] == pytest.approx(1)
    assert (before_L[1:] != after_L[1:]).all()
    assert not result.claims, "its task may not need memory"
    assert len(training.draw_training(result).axes) == 2
    with pytest.raises(UserError, match="not the folder of a run"):
        training.measure_after_training(run=str(tmp_path / "none"))


def run_of(monkeypatch, task, make_core):
    model = SequenceModel(task.input_spec, task.output_spec, make_core, embedding_size=8).double()
    monkeypatch.setattr(training, "load_run", lambda run: Trained("a run", model, model, task, 1))
    return training.measure_after_training(run="here", num_sequences=6)


@pytest.mark.parametrize(
    ("task", "make_core", "message"),
    [
        (Addition(0, sequence_length=5), lambda size: DeltaNet(size, hidden_size=8), "of floating-point vectors"),
        (Catch(0), lambda size: GRU(size, hidden_size=4), "this one is played"),
    ],
)
def test_a_run_that_cannot_be_measured_is_refused_in_one_line(monkeypatch, task, make_core, message):
    with pytest.raises(UserError, match=f"^run=here: .*{message}") as refusal:
        run_of(monkeypatch, task, make_core)
    assert "\n" not in str(refusal.value)


def test_sequences_of_different_lengths_have_a_median_at_every_lag(monkeypatch):
    task = InductionHeads(0, sequence_length=4, test_length=16, val_size=6, test_size=6)
    result = run_of(monkeypatch, task, lambda size: GRU(size, hidden_size=4))
    for curves in (result.jacobian_L, result.loss_gradient_L):
        for norm_L in curves["a run"]:
            assert norm_L.shape == (16,)
            assert (norm_L > 0).all()
