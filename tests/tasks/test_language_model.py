"""The text is read once per epoch, in contiguous rows and with the state carried along; floors are as defined."""

import dataclasses
import itertools
import math
from collections import Counter

import numpy as np
import pyppmd
import pytest
import torch
from torch.nn import functional

from src.config.errors import UserError
from src.data import text
from src.models.gru import GRU
from src.models.sequence import SequenceModel
from src.specs import state_tensors
from src.tasks.language_model import EVALUATION_ROWS, LanguageModel
from src.training.evaluation import evaluate
from src.training.fast_updates import flat_parameters
from src.training.optimizers import adam
from src.training.regularizers import norm_stabilizer
from src.training.run_checkpoints import RunCheckpoints
from src.training.schedulers import plateau
from src.training.trainer import Trainer
from src.training.update import loss_of
from tests.training.test_trainer import SETTINGS, Recorder

pytestmark = pytest.mark.usefixtures("made_up_data")


def model_of(task, **settings):
    torch.manual_seed(0)
    return SequenceModel(
        task.input_spec, task.output_spec, lambda size: GRU(size, hidden_size=6), embedding_size=4, **settings
    )


def read_by(batches, num_rows):
    """The targets of each row, joined over the windows, without those that are masked."""
    rows = [[] for _ in range(num_rows)]
    for batch in batches:
        for row in range(num_rows):
            kept = slice(None) if batch.mask is None else batch.mask[row]
            rows[row] += batch.targets[row][kept].tolist()
    return rows


@pytest.mark.parametrize(("batch_size", "window"), [(1, 100), (7, 10), (16, 13), (100, 1), (1000, 5), (4000, 5)])
def test_an_epoch_reads_every_character_once_and_in_order(batch_size, window):
    """All characters but the first are predicted: each exactly once, from the one before it."""
    task = LanguageModel(0, window=window)
    symbols = task.corpus.splits["train"].tolist()
    num_windows = task.num_windows(len(symbols), batch_size)
    for epoch in range(2):
        batches = [task.batch("train", epoch * num_windows + number, batch_size) for number in range(num_windows)]
        assert all(batch.inputs.shape == (batch_size, min(window, batch.inputs.shape[1])) for batch in batches)
        assert [number for row in read_by(batches, batch_size) for number in row] == symbols[1:]
        for batch in batches:
            assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1]) or batch.mask is not None


def test_rows_go_on_from_window_to_window():
    task = LanguageModel(0, window=10)
    first, second = task.batch("train", 0, 5), task.batch("train", 1, 5)
    assert torch.equal(second.inputs[:, 0], first.targets[:, -1])
    assert first.resets is second.resets is None
    num_windows = task.num_windows(len(task.symbols("train")), 5)
    again = task.batch("train", num_windows, 5)
    assert again.resets[:, 0].all()
    assert not again.resets[:, 1:].any()
    assert torch.equal(again.inputs, first.inputs)


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_reads_the_whole_split_once(split):
    task = LanguageModel(0, window=3)
    rows = read_by(task.evaluation(split), EVALUATION_ROWS)
    assert [number for row in rows for number in row] == task.corpus.splits[split][1:].tolist()


def test_of_the_training_text_as_much_is_evaluated_as_there_is_to_validate_on():
    task = LanguageModel(0, window=3)
    rows = read_by(task.evaluation("train"), EVALUATION_ROWS)
    splits = task.corpus.splits
    assert [number for row in rows for number in row] == splits["train"][1 : len(splits["val"])].tolist()


def test_evaluation_is_that_of_rows_read_in_one_piece():
    """The window does not matter, since the state is carried along; nats are averaged over all characters."""
    tasks = [LanguageModel(0, window=window) for window in (4, 9, 10_000)]
    model = model_of(tasks[0])
    results = [evaluate(model, task, "val") for task in tasks]
    assert results[0] == pytest.approx(results[2], rel=1e-5)
    assert results[1] == pytest.approx(results[2], rel=1e-5)

    symbols, length = tasks[0].symbols("val"), -(-(len(tasks[0].symbols("val")) - 1) // EVALUATION_ROWS)
    nats = []
    for start in range(0, len(symbols) - 1, length):
        row = symbols[start : start + length + 1]
        with torch.no_grad():
            logits = model(row[None, :-1]).prediction[0]
        nats.append(functional.cross_entropy(logits, row[1:], reduction="none"))
    mean = float(torch.cat(nats).mean())
    assert results[0]["nll"] == pytest.approx(mean, rel=1e-5)
    assert results[0]["bits"] == pytest.approx(mean / math.log(2), rel=1e-5)


def test_the_norm_stabilizer_leaves_out_what_is_masked(tmp_path):
    """Of 29 predictions in eleven rows of three steps, the tenth row has two and the last one none."""
    path = tmp_path / "short.txt"
    path.write_text("once upon a time there was a king who")
    task = LanguageModel(0, file=str(path), window=8)
    model = model_of(task)
    model.return_sequence = True
    batch = task.batch("train", 0, 11)
    lengths = [int(row.sum()) for row in batch.mask]
    assert lengths == 9 * [3] + [2, 0]
    hidden = model(batch.inputs).hidden_BTH
    rows = [norm_stabilizer(row[None, :length]) for row, length in zip(hidden, lengths, strict=True) if length]
    step = loss_of(model, task, batch, None, 1.0)
    torch.testing.assert_close(step.losses["norm_stabilizer"], torch.stack(rows).mean())


def test_a_later_epoch_starts_from_the_initial_state():
    task, num_rows = LanguageModel(0, window=10), 5
    model = model_of(task)
    number = task.num_windows(len(task.symbols("train")), num_rows)
    first, again = task.batch("train", 0, num_rows), task.batch("train", number, num_rows)
    carried = torch.randn(num_rows, 6)
    fresh = task.loss(model, first)
    assert torch.equal(task.loss(model, again, carried).output.prediction, fresh.output.prediction)
    by_resets = model(again.inputs, carried, resets=again.resets).prediction
    torch.testing.assert_close(by_resets, fresh.output.prediction)
    assert not torch.equal(task.loss(model, first, carried).output.prediction, fresh.output.prediction)


def trainer_of(folder, **changes):
    task = LanguageModel(0, window=10)
    model = model_of(task, input_dropout=0.2, output_dropout=0.2, dropout_mask="sequence")
    optimizer = adam([flat_parameters(model)], lr=1.0)
    settings = dataclasses.replace(SETTINGS, batch_size=60, max_updates=30, eval_every=4, **changes)
    scheduler = plateau(optimizer, settings.max_updates, factor=0.5, patience=1)
    return Trainer(model, task, optimizer, scheduler, settings, RunCheckpoints(folder, "00000000", ""))


@pytest.mark.parametrize("stop", [3, 8, 17])
def test_a_run_stopped_within_an_epoch_resumes_to_the_last_bit(stop, tmp_path):
    """An epoch has 5 windows; state, dropout, weight noise and the decay of the learning rate are carried over."""
    whole = trainer_of(tmp_path / "whole", weight_noise=0.01)
    assert whole.task.num_windows(len(whole.task.symbols("train")), 60) == 5
    whole.fit(Recorder(), Recorder())

    first = trainer_of(tmp_path / "parts", weight_noise=0.01)
    first.fit(Recorder(), Recorder(), lambda: setattr(first, "stop_requested", first.state.update == stop))
    second = trainer_of(tmp_path / "parts", weight_noise=0.01)
    assert second.checkpoints.resume(second.state)
    assert second.state.update == stop
    second.fit(Recorder(), Recorder())
    assert second.state.outcome == whole.state.outcome
    assert state_tensors(second.state.recurrent)[0].shape == (60, 6)
    for resumed, undisturbed in (
        (second.state.recurrent, whole.state.recurrent),
        (second.model.state_dict(), whole.model.state_dict()),
        (second.state.optimizer.state_dict()["state"], whole.state.optimizer.state_dict()["state"]),
    ):
        torch.testing.assert_close(resumed, undisturbed, rtol=0, atol=0)
    lr = second.state.optimizer.param_groups[0]["lr"]
    assert lr == whole.state.optimizer.param_groups[0]["lr"] < 1.0


def test_frequencies_are_those_of_the_training_text():
    task = LanguageModel(0, text="tiny_shakespeare")
    train, test = task.corpus.splits["train"].tolist(), task.corpus.splits["test"].tolist()
    counts, size = Counter(train), task.output_spec.size
    share = {number: (counts[number] + 1) / (len(train) + size) for number in range(size)}
    pairs, starts = Counter(itertools.pairwise(train)), Counter(train[:-1])
    followers = Counter(before for before, _ in pairs)
    nats = []
    for before, after in itertools.pairwise(test):
        total = starts[before] + followers[before]
        weighed = pairs[before, after] + followers[before] * share[after]
        nats.append(-math.log(weighed / total if starts[before] else share[after]))
    floors = {name: floor["nll"] for name, floor in task.floors.items()}
    assert floors["every symbol at chance"] == pytest.approx(math.log(65))
    expected = -np.mean([math.log(share[number]) for number in test[1:]])
    assert floors["how often each symbol comes"] == pytest.approx(expected)
    assert floors["how often it follows the one before"] == pytest.approx(np.mean(nats))
    assert 0 < floors["PPM of order 6"] < floors["how often it follows the one before"]


def test_the_code_of_a_text_that_has_been_seen_is_short(tmp_path):
    """Random letters cannot be predicted, unless they repeat earlier ones."""
    letters = "".join(chr(97 + number) for number in np.random.default_rng(0).integers(0, 26, 500))
    (tmp_path / "own.txt").write_text(letters * 10)
    repeated = LanguageModel(0, file=str(tmp_path / "own.txt")).floors["PPM of order 6"]["bits"]
    unseen = np.random.default_rng(1).integers(0, 26, 5000)
    (tmp_path / "own.txt").write_text("".join(chr(97 + number) for number in unseen))
    random = LanguageModel(0, file=str(tmp_path / "own.txt")).floors["PPM of order 6"]["bits"]
    assert repeated < 0.5
    assert random > math.log2(26)


def test_the_code_of_a_text_is_measured_once_for_all_runs(tmp_path, monkeypatch):
    made, encoder = [], pyppmd.Ppmd7Encoder
    monkeypatch.setattr(pyppmd, "Ppmd7Encoder", lambda *settings: made.append(settings) or encoder(*settings))
    (tmp_path / "own.txt").write_text("once upon a time " * 10)
    one, other = (LanguageModel(seed, file=str(tmp_path / "own.txt")).floors for seed in (0, 1))
    assert one == other
    assert len(made) == 2  # with the test text and without it


def test_words_have_a_perplexity():
    task = LanguageModel(0, text="penn_treebank")
    assert (task.input_spec.size, task.words) == (10_000, True)
    metrics = evaluate(model_of(task), task, "val")
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["nll"]))
    assert "perplexity" not in evaluate(model_of(LanguageModel(0)), LanguageModel(0), "val")


def test_a_text_of_ones_own_gives_the_sizes(tmp_path):
    (tmp_path / "own.txt").write_text("abcd " * 50)
    task = LanguageModel(0, file=str(tmp_path / "own.txt"))
    assert task.input_spec.size == task.output_spec.size == 5
    with pytest.raises(UserError, match=r"^task.file=nowhere.txt: no such file$"):
        LanguageModel(0, file="nowhere.txt")


@pytest.mark.parametrize("name", ["war_and_peace", "penn_treebank"])
def test_a_text_is_made_up_from_what_the_model_predicts(name):
    task = LanguageModel(0, text=name)
    model, symbols = model_of(task), task.corpus.symbols
    made = task.sample(model, 50, torch.Generator().manual_seed(0), 1.0)
    assert made == task.sample(model, 50, torch.Generator().manual_seed(0), 1.0)
    assert made != task.sample(model, 50, torch.Generator().manual_seed(1), 1.0)
    with torch.no_grad():
        model.head.bias[symbols.index("<eos>" if task.words else "b")] = 50.0
    text_of_one = task.sample(model, 5, torch.Generator().manual_seed(0), 1.0).text
    assert text_of_one == ("<eos>\n\n\n\n" if task.words else "bbbbb")


def test_the_probabilities_of_a_sample_are_those_at_its_temperature():
    task = LanguageModel(0)
    model, symbols = model_of(task), task.corpus.symbols
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.fill_(-50.0)[[0, 1]] = torch.tensor([0.0, 2.0])
    for temperature in (1.0, 2.0):
        made = task.sample(model, 2000, torch.Generator().manual_seed(0), temperature).text
        expected = 1 / (1 + math.exp(-2 / temperature))
        assert made.count(symbols[1]) / 2000 == pytest.approx(expected, abs=0.03)


def test_the_corpus_is_read_only_when_needed(monkeypatch):
    monkeypatch.setattr(text, "published", lambda *_: pytest.fail("read"))
    assert LanguageModel(0).input_spec.size == 82


def test_examples_of_a_short_text_end_where_it_ends(tmp_path):
    """33 predictions fill 32 rows of two only up to the seventeenth; the last rows are empty."""
    (tmp_path / "own.txt").write_text("abcdefghij" * 34)
    task = LanguageModel(0, file=str(tmp_path / "own.txt"))
    (batch,) = task.evaluation("test")
    read = batch.mask.sum(1).tolist()
    assert 0 in read
    output = task.loss(model_of(task), batch).output
    rows = task.examples(batch, output, 100)
    assert rows == [row for row, length in enumerate(read) if length]
    for row in rows:
        shown, following = "".join(task.labels(batch, row)[: read[row]]), int(batch.targets[row, read[row] - 1])
        assert task.render(batch, row, output).startswith(f"{shown} -> {task.corpus.symbols[following]}   predicted ")
