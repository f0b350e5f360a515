"""Updates that are recorded and replayed, with a tape in place of a CUDA graph."""

import logging
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from src.running.build import build_trainer
from src.specs import Batch, state_tensors
from src.tasks import base
from src.training.graphs import WARM_UP, CudaRecorder, Replayed
from src.training.population import Stacked
from tests.training.tape import TapeRecorder

QUICK = [
    "model.hidden_size=6", "model.kernel=vectorized", "network.head_size=5", "trainer.batch_size=4",
    "trainer.max_updates=20", "trainer.clip_norm=null", "optimizer.lr=0.0078125", "scheduler=constant",
]  # fmt: skip


@pytest.fixture
def trainers(composed, tmp_path):
    """Make the trainer of a new run; with a recorder, its updates are recorded and replayed."""

    def make(*overrides, recorder=None):
        trainer = build_trainer(composed(*QUICK, *overrides), tmp_path, "0")
        trainer.model.train()
        if recorder is not None:
            trainer.update.replay_with(recorder)
        return trainer

    return make


@pytest.fixture
def updates(trainers):
    """Make the update of a new run."""
    return lambda *overrides, recorder=None: trainers(*overrides, recorder=recorder).update


def moved(update, count):
    """Perform `count` updates; return the weights, and the loss, gradient norm and learning rate of each update."""
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
        ["network.input_dropout=0.5"],
        ["network.output_dropout=0.5", "network.dropout_mask=sequence"],
        ["trainer.weight_noise=0.1"],
    ],
    ids=str,
)
def test_replayed_updates_are_the_updates(overrides, updates):
    recorder = TapeRecorder()
    expected = moved(updates(*overrides), 12)
    assert_close(moved(updates(*overrides, recorder=recorder), 12), expected, rtol=0, atol=0)
    assert (recorder.recorded, recorder.replayed) == (1, 12 - WARM_UP)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_replayed_update_has_the_learning_rate_of_the_schedule_after_a_resume_too(optimizer, trainers):
    """They agree up to rounding, since a graph reads the learning rate in float32."""
    overrides = ["model=lstm", "model.kernel=reference", f"optimizer={optimizer}", "scheduler=cosine"]
    expected = moved(trainers(*overrides).update, 12)
    assert expected[1][:, 2].unique().numel() == 12
    interrupted, resumed = (trainers(*overrides, recorder=TapeRecorder()) for _ in range(2))
    before = moved(interrupted.update, 6)[1]
    interrupted.checkpoints.save(interrupted.state)
    assert resumed.checkpoints.resume(resumed.state)
    weights, after = moved(resumed.update, 6)
    assert_close((weights, torch.cat([before, after])), expected, rtol=1e-3, atol=1e-5)


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


def test_a_run_that_has_been_in_a_population_is_recorded_anew(updates):
    """Everything that an update changes has moved, and the old memory may be used for something else."""
    found = []
    for recorder in (None, TapeRecorder()):
        runs = [updates(f"seed={seed}", recorder=recorder) for seed in (0, 1)]
        moved(runs[0], 4)
        Stacked(runs)
        assert recorder is None or not runs[0].replayed.is_recorded
        found.append(moved(runs[0], 4))
    assert recorder.recorded == 2
    assert_close(*found, rtol=0, atol=0)


CARRYING = [
    ["model=fastweights"],
    ["model=lstm", "model.kernel=reference", "network.num_layers=2"],
    ["model=fastweights_softmax", "model.kernel=reference", "model.context=4"],
    ["model=cp_gate", "model.rank=3", "model.kernel=reference", "model.dropout=0.5"],
]
"""Models whose state is, in this order: a pair, nested, partly of integers, partly drawn at random."""


@pytest.fixture
def text(tmp_path, monkeypatch):
    """Settings for a text of nine windows, the last one shorter; masks select no positions, as on a GPU."""
    monkeypatch.setattr(base, "can_select", lambda _: False)
    path = tmp_path / "text.txt"
    path.write_text("".join("to be or not, that is "[(7 * n * n) % 22] for n in range(218)))
    return ["task=language_model", f"task.file={path}", "task.window=5"]


@pytest.mark.parametrize(
    "overrides",
    [["trainer.clip_norm=1.0", "network.input_dropout=0.5"], ["model=ttt_linear", "model.num_heads=2"]],
    ids=["the norm of a gradient", "places in a mini-batch"],
)
def test_what_cannot_be_recorded_is_said_in_one_line_and_goes_on_unrecorded(overrides, text, updates, caplog):
    """An update that reads a value from a tensor cannot be recorded; its random numbers are as without a recorder.

    On a CPU, clipping reads the norm of the gradient. TTT reads its position in a mini-batch, to divide a window.
    """
    recorder, expected = TapeRecorder(), moved(updates(*text, *overrides), 7)
    with caplog.at_level(logging.INFO):
        assert_close(moved(updates(*text, *overrides, recorder=recorder), 7), expected, rtol=0, atol=0)
    assert recorder.recorded == 0
    reason = "RuntimeError: operation not permitted when stream is capturing"
    says = f"no CUDA graph, so the kernels of an update are launched one by one: {reason}"
    assert [record.getMessage() for record in caplog.records] == [says]


def carried(trainer):
    return [tensor.clone() for tensor in state_tensors(trainer.state.recurrent)]


@pytest.mark.parametrize("overrides", CARRYING, ids=lambda overrides: overrides[0])
def test_a_state_that_is_carried_is_replayed_over_epochs_and_a_resumed_run(overrides, text, trainers):
    whole, recorder = trainers(*text, *overrides), TapeRecorder()
    weights, losses = moved(whole.update, 22)
    recorded = trainers(*text, *overrides, recorder=recorder)
    assert_close(moved(recorded.update, 22), (weights, losses), rtol=0, atol=0)
    assert_close(carried(recorded), carried(whole), rtol=0, atol=0)
    assert whole.task.num_windows(len(whole.task.symbols("train")), 4) == 9
    # not replayed: the first window of three epochs, the last of two, and the updates before the recording
    assert (recorder.recorded, recorder.replayed) == (1, 22 - 5 - WARM_UP)

    interrupted = trainers(*text, *overrides, recorder=TapeRecorder())
    before = moved(interrupted.update, 14)[1]
    interrupted.checkpoints.save(interrupted.state)
    resumed = trainers(*text, *overrides, recorder=TapeRecorder())
    assert resumed.checkpoints.resume(resumed.state)
    weights_resumed, after = moved(resumed.update, 8)
    assert_close((weights_resumed, torch.cat([before, after])), (weights, losses), rtol=0, atol=0)
    assert_close(carried(resumed), carried(whole), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch imports what it deprecates
def test_a_replayed_population_carries_its_states(text, updates):
    recorder, found = TapeRecorder(), []
    for own in (None, recorder):
        runs = [updates(*text, "model=fastweights", *more, recorder=own) for more in (["seed=1"], ["optimizer.lr=0.1"])]
        stacked = Stacked(runs)
        for _ in range(12):
            stacked()
        states = [tensor for run in runs for tensor in state_tensors(run.state.recurrent)]
        found.append([stacked.weights_PN, *(run.last().step.loss for run in runs), *states])
    assert_close(*found, rtol=0, atol=0)
    assert recorder.recorded == 1
    assert recorder.replayed > 0


class Generator:
    """The random generator of a GPU, as far as `CudaRecorder` uses it."""

    def __init__(self, state):
        self.state = state

    def clone_state(self):
        return Generator(self.state)

    def graphsafe_set_state(self, other):
        self.state = other.state


@pytest.fixture
def generator(monkeypatch):
    """The random generator of a simulated GPU, whose state a recording changes."""
    generator = Generator("as it was")

    @contextmanager
    def graph(*_, **__):
        generator.state = "of a recording"
        yield

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: SimpleNamespace(device=device))
    monkeypatch.setattr(torch.cuda, "default_generators", (generator,))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay="replay"))
    monkeypatch.setattr(torch.cuda, "graph", graph)
    return generator


def test_numbers_drawn_on_the_cpu_are_not_recorded(generator):
    """They would be the same at every replay. All generators are restored, so the run continues as without a graph."""
    recorder, on_cpu = CudaRecorder(torch.device("cuda:0")), torch.get_rng_state()
    with pytest.raises(ValueError, match=r"^the update draws random numbers on the CPU$"):
        recorder.record(lambda: torch.rand(2))
    assert torch.equal(torch.get_rng_state(), on_cpu)
    assert generator.state == "as it was"
    assert recorder.record(lambda: 3) == ("replay", 3)


class Sums:
    """A function of batches that changes a tensor in place."""

    def __init__(self):
        self.total = torch.zeros(2)
        self.recorder = TapeRecorder()
        self.replayed = Replayed(self.add, self.recorder)

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
    # 3 (0 + 1 + 2 + 3 + 4) = 30, then one row of ones, then three
    assert sums.replayed(batch_of(1, size=1))[0].item() == 2 * 31
    assert sums.replayed(batch_of(1))[0].item() == 2 * 34
    assert sums.recorder.recorded == 1


def test_it_is_recorded_anew_where_tensors_have_been_replaced():
    sums = Sums()
    for n in range(5):
        sums.replayed(batch_of(n))
    sums.total = torch.zeros(2)
    sums.replayed.forget()
    for n in range(5):
        sums.replayed(batch_of(n))
    assert sums.total[0].item() == 30
    assert sums.recorder.recorded == 2
