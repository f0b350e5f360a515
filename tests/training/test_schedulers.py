"""The learning rate after each update, and the schedule that follows the validation objective."""

import math

import pytest
import torch

from src.training.optimizers import adam, sgd
from src.training.schedulers import constant, cosine, exponential, plateau, step
from tests.training.test_trainer import Recorder, Sums, trainer_of


@pytest.mark.parametrize(
    ("schedule", "settings", "expected"),
    [
        (constant, {}, [0.8] * 7),
        (cosine, {"final_lr": 0.2}, [0.5 + 0.3 * math.cos(math.pi * update / 6) for update in range(7)]),
        (step, {"every": 4, "factor": 0.5}, [0.8] * 4 + [0.4] * 3),
        (exponential, {"every": 2, "factor": 0.25}, [0.8 * 0.5**update for update in range(7)]),
    ],
)
def test_the_rate_goes_by_updates(schedule, settings, expected):
    optimizer = sgd([torch.nn.Parameter(torch.zeros(()))], lr=0.8)
    scheduler, found = schedule(optimizer, 6, **settings), [0.8]
    for _ in range(6):
        optimizer.step()
        scheduler.step()
        found.append(optimizer.param_groups[0]["lr"])
    assert found == pytest.approx(expected)


def rates(improved, **settings):
    """The learning rate after each evaluation; `improved` says which evaluations are the best so far."""
    optimizer = sgd([torch.nn.Parameter(torch.zeros(()))], lr=0.8)
    scheduler = plateau(optimizer, 100, **settings)
    found = []
    for is_best in improved:
        for _ in range(3):
            optimizer.step()
            scheduler.step()
        scheduler.evaluated(is_best)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_the_rate_falls_after_some_evaluations_without_a_best():
    assert rates([True, False, False, True, False], factor=0.5) == [0.8, 0.4, 0.2, 0.2, 0.1]
    assert rates([True, False, False, False, False], factor=0.5, patience=2) == [0.8, 0.8, 0.4, 0.4, 0.2]
    assert rates([False, True, False, True, False], factor=0.5, patience=2) == [0.8] * 5


def test_the_rate_stays_above_the_least_one():
    assert rates([False] * 4, factor=0.1, least_lr=0.05) == pytest.approx([0.08, 0.05, 0.05, 0.05])
    assert rates([False], factor=0.5, least_lr=1.0) == [0.8]


def test_the_trainer_tells_it_whether_the_validation_objective_is_a_best(tmp_path, monkeypatch):
    values = iter([5.0, 3.0, 4.0, 2.0, 2.0, 99.0])
    monkeypatch.setattr("src.training.trainer.evaluate", lambda *_: {"mse": next(values)})
    trainer = trainer_of(Sums(), tmp_path)
    optimizer = trainer.state.optimizer
    trainer.state.scheduler = plateau(optimizer, 20, factor=0.5)
    found = []
    trainer.fit(Recorder(), Recorder(), lambda: found.append(optimizer.param_groups[0]["lr"]))
    assert found == [0.1] * 10 + [0.05] * 10
    assert optimizer.param_groups[0]["lr"] == 0.025


def test_its_state_is_stored_and_loaded():
    weights = torch.nn.Parameter(torch.zeros(3))
    first = plateau(adam([weights], lr=0.8), 100, patience=3)
    first.evaluated(False)
    second = plateau(adam([weights], lr=0.8), 100, patience=3)
    second.load_state_dict(first.state_dict())
    assert second.evaluations_without_best == 1
