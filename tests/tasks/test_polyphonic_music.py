"""Pieces, batches of them, the likelihood of a frame, and the stream of Mathews (2016)."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn import functional

from src.data import music
from src.models.gru import GRU
from src.models.sequence import SequenceModel
from src.specs import Output
from src.tasks.polyphonic_music import PolyphonicMusic
from src.training.evaluation import evaluate

pytestmark = pytest.mark.usefixtures("made_up_data")


def rolls_of(batch):
    """The targets of each row up to its length, as bytes."""
    steps = batch.targets.shape[1]
    lengths = [steps] * len(batch.targets) if batch.lengths is None else batch.lengths.tolist()
    return [batch.targets[row, :length].numpy().astype(np.uint8).tobytes() for row, length in enumerate(lengths)]


def stored(split, pieces="jsb"):
    return Counter(roll.tobytes() for roll in music.pieces(pieces, "data")[split])


def test_the_input_is_the_frame_before_and_nothing_at_first():
    task = PolyphonicMusic(0)
    for batch in task.evaluation("val"):
        assert not batch.inputs[:, 0].any()
        inside = torch.ones_like(batch.inputs[..., 0]) if batch.mask is None else batch.mask.float()
        torch.testing.assert_close(batch.inputs[:, 1:], (batch.targets * 1)[:, :-1] * inside[:, 1:, None])
        assert not (batch.targets.any(-1) & (inside == 0)).any()


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_an_epoch_takes_every_piece_once_in_batches_of_similar_length(batch_size):
    task = PolyphonicMusic(0)
    num_batches = -(-30 // batch_size)
    epochs = []
    for epoch in range(2):
        batches = [task.batch("train", epoch * num_batches + number, batch_size) for number in range(num_batches)]
        assert sum((Counter(rolls_of(batch)) for batch in batches), Counter()) == stored("train")
        epochs.append([rolls_of(batch) for batch in batches])
        spans = [batch.lengths.max() / batch.lengths.min() for batch in batches if batch.lengths is not None]
        assert batch_size > 4 or max(spans, default=1) < 2.5
    assert batch_size == 100 or epochs[0] != epochs[1]
    first, second = ({frozenset(batch) for batch in batches} for batches in epochs)
    assert (first == second) == (batch_size in (1, 100))


def test_evaluation_takes_the_whole_split_and_as_many_pieces_of_the_training_set():
    task = PolyphonicMusic(0)
    task.evaluation_batch_size = 7
    for split in ("val", "test"):
        assert sum((Counter(rolls_of(batch)) for batch in task.evaluation(split)), Counter()) == stored(split)
    assert sum(len(batch.inputs) for batch in task.evaluation("train")) == 30
    task._sequences["train"], task._sequences["val"] = task.sequences("val"), task.sequences("train")
    assert len(task.sequences("train").lengths_N) == 40
    assert sum(len(batch.inputs) for batch in task.evaluation("train")) == 30


def test_the_likelihood_is_the_sum_over_keys_averaged_over_all_frames():
    task = PolyphonicMusic(0, pieces="nottingham")
    model = SequenceModel(task.input_spec, task.output_spec, lambda size: GRU(size, hidden_size=5))
    total, by_piece, frames, right, either = 0.0, [], 0, 0, 0
    for roll in music.pieces("nottingham", "data")["test"]:
        targets = torch.from_numpy(roll).float()
        inputs = torch.cat([torch.zeros(1, 88), targets[:-1]])
        with torch.no_grad():
            logits = model(inputs[None]).prediction[0]
        nats = float(functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum"))
        total += nats
        by_piece.append(nats / len(roll))
        frames += len(roll)
        right += int(((logits > 0) & (targets > 0)).sum())
        either += int(((logits > 0) | (targets > 0)).sum())
    metrics = evaluate(model, task, "test")
    assert metrics["nll"] == pytest.approx(total / frames, rel=1e-5)
    assert metrics["nll_by_piece"] == pytest.approx(sum(by_piece) / len(by_piece), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(right / either)


def test_the_floors_are_those_of_constant_and_of_copying_predictors():
    task = PolyphonicMusic(0)
    chance, share, before = (floor["nll"] for floor in task.floors.values())
    assert chance == pytest.approx(88 * math.log(2))
    train = np.concatenate(music.pieces("jsb", "data")["train"]).astype(float)
    logits = torch.logit(torch.from_numpy((train.sum(0) + 1) / (len(train) + 2)).float())
    sums, count = 0.0, 0
    for batch in task.evaluation("test"):
        total, frames = task.metrics(Output(logits.expand_as(batch.targets), logits, None), batch)["nll"]
        sums, count = sums + float(total), count + frames
    assert share == pytest.approx(sums / count, rel=1e-5)
    pieces = [np.concatenate([np.zeros((1, 88)), piece]) for piece in music.pieces("jsb", "data")["train"]]
    last, now = (np.concatenate(parts) for parts in zip(*((p[:-1], p[1:]) for p in pieces), strict=True))
    stays = ((last * now).sum(0) + 1) / (last.sum(0) + 2)
    comes = (((1 - last) * now).sum(0) + 1) / ((1 - last).sum(0) + 2)
    nats = []
    for piece in music.pieces("jsb", "data")["test"]:
        shares = np.where(np.concatenate([np.zeros((1, 88)), piece[:-1]]) == 1, stays, comes)
        nats += [*-np.log(np.where(piece == 1, shares, 1 - shares)).sum(1)]
    assert before == pytest.approx(np.mean(nats))
    assert before < share < chance


def test_the_stream_joins_the_pieces_with_a_frame_between_them_and_cuts_it():
    task = PolyphonicMusic(0, stream=True, window=7)
    assert (task.input_spec.size, task.output_spec.size) == (89, 89)
    end = np.eye(1, 89, 88, dtype=np.uint8)
    rolls = [np.pad(roll, ((0, 0), (0, 1))) for roll in music.pieces("jsb", "data")["val"]]
    stream = np.concatenate([frame for roll in rolls for frame in (roll, end)])
    frames, starts, lengths = task.sequences("val")
    np.testing.assert_array_equal(frames, stream)
    targets = [frames[start + 1 : start + length + 1] for start, length in zip(starts, lengths, strict=True)]
    np.testing.assert_array_equal(torch.cat(targets), stream[1:])
    assert set(lengths[:-1].tolist()) == {7}


@pytest.mark.parametrize("stream", [False, True])
def test_a_piece_is_made_up_from_what_the_model_predicts(stream):
    task = PolyphonicMusic(0, stream=stream)
    model = SequenceModel(task.input_spec, task.output_spec, lambda size: GRU(size, hidden_size=5))
    with torch.no_grad():
        model.head.bias.fill_(-50.0)[[39, 43, 46]] = 50.0
    inputs = []
    model.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0].flatten().tolist()))
    made = task.sample(model, 6, torch.Generator().manual_seed(0), 1.0)
    assert inputs[0] == [0.0] * 88 + [1.0] * stream  # as at the start of a piece
    assert made.text.splitlines() == ["C4 E4 G4"] * 6
    assert made.roll_TK.shape == (6, 88)
    assert made.roll_TK.sum() == 18


def test_keys_are_drawn_with_their_probabilities_at_the_temperature():
    task = PolyphonicMusic(0)
    model = SequenceModel(task.input_spec, task.output_spec, lambda size: GRU(size, hidden_size=5))
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.fill_(2.0)
    for temperature in (1.0, 2.0):
        made = task.sample(model, 50, torch.Generator().manual_seed(0), temperature)
        assert made.roll_TK.mean() == pytest.approx(1 / (1 + math.exp(-2 / temperature)), abs=0.03)


def test_a_made_up_stream_shows_where_a_piece_ends():
    task = PolyphonicMusic(0, stream=True)
    model = SequenceModel(task.input_spec, task.output_spec, lambda size: GRU(size, hidden_size=5))
    with torch.no_grad():
        model.head.bias.fill_(-50.0)[88] = 50.0
    made = task.sample(model, 2, torch.Generator().manual_seed(0), 1.0)
    assert made.text.splitlines() == ["end", "end"]
    assert made.roll_TK.shape == (2, 88)
