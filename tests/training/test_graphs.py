"""Updates that are recorded and replayed, with a tape in place of a CUDA graph."""

import logging

import pytest
import torch
from torch.testing import assert_close

from src.running.build import build_trainer
from src.specs import Batch
from src.training.graphs import WARM_UP, Replayed
from src.training.population import Stacked
from tests.training.tape import TapeRecorder

QUICK = [
    "model.hidden_size=6", "model.kernel=vectorized", "network.head_size=5", "task.train_size=64",
    "trainer.batch_size=4", "trainer.max_updates=20", "trainer.clip_norm=null", "optimizer.lr=0.0078125",
    "scheduler=constant",
]  # fmt: skip


@pytest.fixture
def updates(composed, tmp_path):
    """The update of a new run and what records it; None for what is done without recording."""

    def make(*overrides, recorder=None):
        trainer = build_trainer(composed(*QUICK, *overrides), tmp_path, "0")
        trainer.model.train()
        if recorder is not None:
            trainer.update.replay_with(recorder)
        return trainer.update

    return make


def moved(update, count):
    """The weights, and the losses of the updates."""
    losses = []
    for _ in range(count):
        update()
        _, step, norm, lr = update.last()
        losses.append([step.loss.item(), norm.item(), lr])
    return update.weights.detach(), torch.tensor(losses)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=fastweights"],
        ["model=lstm", "model.kernel=reference", "optimizer.weight_decay=0.1"],
        ["model=rnn", "model.kernel=reference", "optimizer=sgd", "optimizer.momentum=0.9"],
        ["task=addition", "task.sequence_length=5", "trainer.norm_stabilizer=0.1"],
    ],
    ids=str,
)
def test_replayed_updates_are_the_updates(overrides, updates):
    recorder = TapeRecorder()
    expected = moved(updates(*overrides), 12)
    assert_close(moved(updates(*overrides, recorder=recorder), 12), expected, rtol=0, atol=0)
    assert (recorder.recorded, recorder.replayed) == (1, 12 - WARM_UP)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_replayed_update_has_the_learning_rate_of_the_schedule(optimizer, updates):
    """Up to rounding, since a graph reads it in float32."""
    overrides = ["model=lstm", "model.kernel=reference", f"optimizer={optimizer}", "scheduler=cosine"]
    weights, losses = moved(updates(*overrides), 12)
    assert losses[:, 2].unique().numel() == 12
    assert_close(moved(updates(*overrides, recorder=TapeRecorder()), 12), (weights, losses), rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch imports what it deprecates
def test_a_replayed_population_is_the_population(updates):
    recorder, seeds = (
        TapeRecorder(),
        [["seed=0", "optimizer.lr=0.02", "scheduler=cosine"], ["seed=1", "model.decay=0.5"]],
    )
    found = []
    for own in (None, recorder):
        runs = [updates(*overrides, recorder=own) for overrides in seeds]
        stacked = Stacked(runs)
        for _ in range(8):
            stacked()
        found.append([stacked.weights_PN, *(run.last().step.loss for run in runs)])
    assert_close(*found, rtol=0, atol=0)
    assert (recorder.recorded, recorder.replayed) == (1, 8 - WARM_UP)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("network.input_dropout=0.5", "it draws random numbers"),
        ("trainer.weight_noise=0.1", "it draws random numbers"),
        ("trainer.clip_norm=1.0", "RuntimeError: operation not permitted when stream is capturing"),
    ],
)
def test_what_cannot_be_recorded_is_said_in_one_line_and_goes_on_unrecorded(override, reason, updates, caplog):
    recorder = TapeRecorder()
    expected = moved(updates(override), 6)
    with caplog.at_level(logging.INFO):
        assert_close(moved(updates(override, recorder=recorder), 6), expected, rtol=0, atol=0)
    assert recorder.recorded == 0
    says = f"no CUDA graph, so every kernel of an update is launched by itself: {reason}"
    assert [record.getMessage() for record in caplog.records] == [says]


class Sums:
    """A function of batches that changes a tensor in place."""

    def __init__(self):
        self.total = torch.zeros(2)
        self.recorder = TapeRecorder()
        self.replayed = Replayed(self.add, lambda: (self.total,), self.recorder)

    def add(self, batch):
        self.total += batch.inputs.sum(0)
        return 2 * self.total


def batch_of(value, size=3):
    return Batch(torch.full((size, 2), float(value)), torch.zeros(size))


def test_the_results_are_those_of_the_last_call():
    sums = Sums()
    results = [sums.replayed(batch_of(n))[0].item() for n in range(6)]
    assert results == [6.0 * sum(range(n + 1)) for n in range(6)]
    assert sums.recorder.replayed == 6 - WARM_UP


def test_a_batch_of_another_shape_is_not_replayed():
    sums = Sums()
    for n in range(5):
        sums.replayed(batch_of(n))
    assert sums.replayed(batch_of(1, size=1))[0].item() == 2 * 31
    assert sums.replayed(batch_of(1))[0].item() == 2 * 34
    assert sums.recorder.recorded == 1


def test_it_is_recorded_anew_where_tensors_have_been_replaced():
    sums = Sums()
    for n in range(5):
        sums.replayed(batch_of(n))
    sums.total = torch.zeros(2)
    for n in range(5):
        sums.replayed(batch_of(n))
    assert sums.total[0].item() == 30
    assert sums.recorder.recorded == 2
