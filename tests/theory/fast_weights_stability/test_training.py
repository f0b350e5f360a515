"""Fast weights before and after training, for networks trained here and for a run."""

import math

import numpy as np
import pytest

from src.config.errors import UserError
from src.models.fastweights import FastWeights
from src.models.gru import GRU
from src.models.sequence import SequenceModel
from src.tasks.associative_retrieval import AssociativeRetrieval
from src.tasks.catch import Catch
from src.theory.fast_weights_stability import training
from src.theory.networks import Trained


def test_maps_before_and_after_training():
    result = training.compare_before_and_after(num_updates=60, num_decays=2, num_lrs=2, num_steps=40)
    assert result.claims[0].holds
    for values_LE in (*result.exponent_LE, result.error_LE):
        assert values_LE.shape == (2, 2)
        assert np.isfinite(values_LE).all()
    assert not np.allclose(*result.exponent_LE)
    assert len(training.draw_before_and_after(result).axes) == 5


def test_maps_of_a_run(train, tiny, tmp_path):
    assert train("model=fastweights", *tiny).status == 0
    (folder,) = (path.parent for path in tmp_path.rglob("result.json"))
    result = training.compare_before_and_after(run=str(folder), num_decays=2, num_lrs=2, num_steps=30)
    assert result.trained_at == (0.95, 0.5)
    assert [claim.holds for claim in result.claims] == [True]


def untrained(make_core):
    """An untrained network in place of a trained one."""
    task = AssociativeRetrieval(0, num_pairs=1, val_size=8, test_size=8)
    model = SequenceModel(task.input_spec, task.output_spec, make_core).double()
    return Trained("a network", model, model, task, 1)


@pytest.mark.parametrize(
    ("make_core", "says"),
    [
        (lambda size: GRU(size, hidden_size=4), "not a network with fast weights"),
        (lambda size: FastWeights(size, hidden_size=4, gates=True), "λ and η depend on the input"),
    ],
)
def test_a_run_without_fast_weights_that_can_be_varied_is_refused(monkeypatch, make_core, says):
    monkeypatch.setattr(training, "load_run", lambda run: untrained(make_core))
    with pytest.raises(UserError, match=f"^run=here: {says}"):
        training.compare_before_and_after(run="here")


def test_a_run_whose_task_is_played_is_refused(monkeypatch):
    network = untrained(lambda size: FastWeights(size, hidden_size=4))._replace(task=Catch(0, size=3, visible_frames=1))
    monkeypatch.setattr(training, "load_run", lambda run: network)
    with pytest.raises(UserError, match=r"^run=here: .* this task is played"):
        training.compare_before_and_after(run="here")


def test_the_bound_of_layer_norm_is_not_claimed_without_it(monkeypatch):
    """Without inner steps nothing is normalized."""
    monkeypatch.setattr(
        training, "load_run", lambda run: untrained(lambda size: FastWeights(size, hidden_size=4, num_inner_steps=0))
    )
    assert training.compare_before_and_after(run="here", num_decays=2, num_lrs=2, num_steps=12).claims == []


def test_without_layer_norm_training_fails_at_once():
    result = training.train_across_settings(num_updates=5, decays=(0.95,), fast_lrs=(0.5,), num_units=8)
    assert math.isnan(result.loss[False, 0.95, 0.5])
    assert math.isfinite(result.loss[True, 0.95, 0.5])
    assert result.floor == pytest.approx(0.624, abs=0.001)  # 0.9 ln 2: nine of ten sequences have two different digits
    assert [len(axes.lines) for axes in training.draw_learning(result).axes] == [5]


def test_a_failure_after_the_first_update_is_not_one_before_it(monkeypatch):
    def fail_later(name, model, task, num_updates, **_):
        return Trained(name, model.double(), model.double(), task, num_updates - 1)

    monkeypatch.setattr(training, "train_briefly", fail_later)
    result = training.train_across_settings(num_updates=2, decays=(0.95,), fast_lrs=(0.5,), num_units=8)
    (claim,) = (claim for claim in result.claims if "before the first update" in claim.statement)
    assert (claim.measured, claim.holds) == (0.0, False)
    assert not result.at_once


@pytest.mark.slow
def test_only_the_middle_rate_binds_in_time():
    result = training.train_across_settings(decays=(0.95,))
    assert [claim.statement for claim in result.claims if not claim.holds] == []


def test_infinite_exponents_are_drawn_apart_from_the_scale():
    finite_LE = np.array([[-0.5, 0.25], [0.1, 0.0]])
    overflows_LE = np.array([[-0.5, np.inf], [0.1, np.inf]])
    for after_LE, edge, said in (
        (finite_LE, 0.5, False),
        (overflows_LE, 0.5, True),
        (np.full((2, 2), np.inf), 0.5, True),
    ):
        result = training.BeforeAndAfter(
            [], "a run", np.array([0.5, 0.9]), np.array([0.1, 1.0]), (0.9, 0.5), (finite_LE, after_LE),
            np.ones((2, 2)), "error", (0.1, float("inf")),
        )  # fmt: skip
        figure = training.draw_before_and_after(result)
        mesh = figure.axes[1].collections[0]
        assert mesh.get_clim() == (-edge, edge)
        assert (np.ma.getmaskarray(mesh.get_array()).reshape(2, 2) == np.isinf(after_LE)).all()
        assert ("pink: not finite, the state overflows" in figure.get_supxlabel()) == said
        assert (figure.axes[1].get_facecolor()[:3] != (1, 1, 1)) == said
