"""Curves are read as TensorBoard shows them, whatever happened to the run."""

import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from src.reports.curves import learning_curves, read_scalars
from src.utils.tensorboard import EVENT_FILES, Curves


def write(folder, first_update, errors, monkeypatch):
    """An attempt of a run that evaluates every 10 updates from its first one on."""
    monkeypatch.setattr("src.utils.tensorboard.time.sleep", lambda seconds: None)
    number = len(list(folder.glob(EVENT_FILES)))
    monkeypatch.setattr("src.utils.tensorboard.time.time", lambda: 1_000_000.0 + number)
    monkeypatch.setattr("time.time", lambda: 1_000_000.0 + number)  # the file's name holds the second
    curves = Curves(folder, first_update)
    model = nn.Linear(30, 20)
    for i, error in enumerate(errors):
        update = -(-first_update // 10) * 10 + 10 * i
        curves.scalars("val", {"error": error, "errors": 7.0}, update)
        curves.scalars("train", {"val/error": 8.0}, update)
        curves.weights(model, update)
    curves.writer.close()


def accumulated(folder, tag):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {point.step: point.value for point in events.Scalars(tag)}


@pytest.fixture
def resumed(tmp_path, monkeypatch):
    """A run that got to update 40, had a checkpoint at 20, went on from there, and again from 30."""
    write(tmp_path, 0, [0.9, 0.8, 0.7, 0.6, 0.5], monkeypatch)
    write(tmp_path, 21, [0.3, 0.2], monkeypatch)
    write(tmp_path, 31, [0.1], monkeypatch)
    return tmp_path


def test_what_a_resumed_run_had_beyond_its_checkpoint_is_dropped(resumed):
    assert len(list(resumed.glob(EVENT_FILES))) == 3
    points = read_scalars(resumed, ["val/error", "train/none"])
    assert points["val/error"] == pytest.approx({0: 0.9, 10: 0.8, 20: 0.7, 30: 0.3, 40: 0.1})
    assert points["val/error"] == accumulated(resumed, "val/error")
    assert points["train/none"] == {}


def test_a_file_that_is_being_written_is_read_to_its_last_whole_record(tmp_path, monkeypatch):
    write(tmp_path, 0, [0.9, 0.8, 0.7], monkeypatch)
    (path,) = tmp_path.glob(EVENT_FILES)
    whole = path.read_bytes()
    seen = set()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        points = read_scalars(tmp_path, ["val/error"])["val/error"]
        assert points == pytest.approx(dict(list({0: 0.9, 10: 0.8, 20: 0.7}.items())[: len(points)]))
        seen.add(len(points))
    assert seen == {0, 1, 2, 3}


def test_what_follows_a_damaged_record_is_left_out(tmp_path, monkeypatch):
    write(tmp_path, 0, [0.9, 0.8, 0.7], monkeypatch)
    (path,) = tmp_path.glob(EVENT_FILES)
    content = bytearray(path.read_bytes())
    tag = b"\x0a\x09val/error"
    second = content.index(tag, content.index(tag) + 1)
    content[second + len(tag) + 2] ^= 1
    path.write_bytes(content)
    assert list(read_scalars(tmp_path, ["val/error"])["val/error"]) == [0]


def test_the_curves_of_several_runs_are_one_long_table(tmp_path, monkeypatch):
    torch.manual_seed(0)
    for run, errors in (("a", [0.5, 0.25]), ("b", [1.0]), ("c", [])):
        (tmp_path / run).mkdir()
        write(tmp_path / run, 0, errors, monkeypatch)
    long = learning_curves(tmp_path, pd.DataFrame({"run": ["b", "a", "c", "gone"]}), "val/error")
    assert long.to_dict("list") == {"run": ["b", "a", "a"], "update": [0, 0, 10], "value": [1.0, 0.5, 0.25]}
    assert learning_curves(tmp_path, pd.DataFrame({"run": []}), "val/error").empty
