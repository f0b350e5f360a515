"""Learning curves are read as they were recorded, whatever happened to the run."""

import json
import math
import os

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.config.paths import EVENT_FILES, METRICS
from src.results.curves import learning_curves, read_curves
from src.results.runs import Run
from src.training.curves import Curves


@pytest.fixture
def write(monkeypatch):
    """Write an attempt of a run that evaluates every 10 updates: `write(folder, first_update, errors)`."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def attempt(folder, first_update, errors):
        folder.mkdir(exist_ok=True)
        number = len(list(folder.glob(EVENT_FILES)))
        monkeypatch.setattr("time.time", lambda: 1_000_000.0 + number)  # part of the name of the event file
        with Curves(folder, first_update) as curves:
            for i, error in enumerate(errors):
                update = -(-first_update // 10) * 10 + 10 * i
                curves.scalars("val", {"error": error, "errors": 7.0}, update)
                curves.scalars("train", {"val/error": 8.0}, update)

    return attempt


def errors_of(folder):
    return read_curves(folder, ["val/error"])["val/error"]


def test_points_after_the_checkpoint_are_dropped_when_a_run_is_resumed(write, tmp_path):
    folder = tmp_path / "run"
    # stopped at update 40 with a checkpoint at 20, resumed from there, and later from 30
    write(folder, 0, [0.9, 0.8, 0.7, 0.6, 0.5])
    write(folder, 21, [0.3, 0.2])
    write(folder, 31, [0.1])
    curves = read_curves(folder, ["val/error", "train/none"])
    assert curves == {"val/error": {0: 0.9, 10: 0.8, 20: 0.7, 30: 0.3, 40: 0.1}, "train/none": {}}
    shown = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload().Scalars("val/error")
    assert curves["val/error"] == pytest.approx({point.step: point.value for point in shown})


def test_the_file_of_a_resumed_run_equals_that_of_an_uninterrupted_one(write, tmp_path):
    write(tmp_path / "undisturbed", 0, [0.9, 0.8, 0.7, 0.6, math.nan])
    for lost in (b"", b'{"update": 30, "val/er', b"\x00\xff garbage\n"):
        resumed = tmp_path / f"resumed after {len(lost)} bytes"
        write(resumed, 0, [0.9, 0.8, 0.7, 0.6])
        with open(resumed / METRICS, "ab") as file:
            file.write(lost)
        write(resumed, 21, [0.6, math.nan])
        assert (resumed / METRICS).read_bytes() == (tmp_path / "undisturbed" / METRICS).read_bytes()


def test_a_run_that_lost_its_last_updates_ends_with_the_curves_of_an_uninterrupted_one(train, tiny, tmp_path):
    tags = ["val/error", "val/nll", "train/loss", "test/error"]
    assert train(*tiny).status == 0
    (folder,) = (path.parent for path in tmp_path.glob("outputs/*/*/result.json"))
    undisturbed = read_curves(folder, tags)
    assert list(undisturbed["val/error"]) == [0, 3, 6]

    (folder / "result.json").unlink()
    newest = max((folder / "checkpoints").iterdir(), key=lambda path: path.name)
    newest.unlink()
    lines = (folder / METRICS).read_text().splitlines(keepends=True)
    (folder / METRICS).write_text("".join(lines[:-1]) + lines[-1][:10])
    assert train(*tiny).status == 0
    assert read_curves(folder, tags) == undisturbed


def test_a_truncated_file_is_read_up_to_its_last_complete_line(write, tmp_path):
    write(tmp_path, 0, [0.9, 0.8, 0.7])
    whole = (tmp_path / METRICS).read_bytes()
    recorded = {0: 0.9, 10: 0.8, 20: 0.7}
    seen = set()
    for length in range(len(whole) + 1):
        (tmp_path / METRICS).write_bytes(whole[:length])
        points = errors_of(tmp_path)
        assert points == dict(list(recorded.items())[: len(points)])
        seen.add(len(points))
    assert seen == {0, 1, 2, 3}


def test_a_run_can_be_read_while_it_is_being_written(tmp_path):
    written = {}
    with Curves(tmp_path, first_update=0) as curves:
        for update in range(0, 2000, 10):
            written[update] = 1 / (update + 1)
            curves.scalars("val", {"error": written[update]}, update)
            points = errors_of(tmp_path)  # those written to the file so far
            assert points == dict(list(written.items())[: len(points)])
            if update % 500 == 0:
                curves.flush()
                assert errors_of(tmp_path) == written
    assert errors_of(tmp_path) == written


def test_curves_are_on_the_disk_once_they_are_flushed(tmp_path, monkeypatch):
    on_disk = []
    with Curves(tmp_path, first_update=0) as curves:
        curves.scalars("val", {"error": 0.5}, 0)
        monkeypatch.setattr(os, "fsync", lambda descriptor: on_disk.append(os.fstat(descriptor)))
        curves.flush()
    written = (tmp_path / METRICS).stat()
    assert written.st_size > 0
    assert (written.st_ino, written.st_size) in [(status.st_ino, status.st_size) for status in on_disk]


@pytest.mark.parametrize(
    "damage", [b"garbage", b"{}{}", b"[1, 2]", b"7", b"\xff\xfe", b"", b'{"update": 10', b"[" * 10**5]
)
def test_the_other_lines_are_read_and_kept_where_one_is_damaged(write, tmp_path, damage):
    write(tmp_path, 0, [0.9, 0.8, 0.7])
    lines = (tmp_path / METRICS).read_bytes().splitlines()
    assert b'"val/error": 0.8' in lines[2]
    lines[2] = damage
    (tmp_path / METRICS).write_bytes(b"".join(line + b"\n" for line in lines))
    assert errors_of(tmp_path) == {0: 0.9, 20: 0.7}
    write(tmp_path, 30, [0.6])  # resumed
    assert errors_of(tmp_path) == {0: 0.9, 20: 0.7, 30: 0.6}
    assert damage not in (tmp_path / METRICS).read_bytes().splitlines()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_non_finite_number_is_null_in_the_file_and_read_as_nan(write, tmp_path, value):
    write(tmp_path, 0, [0.9, value, 0.7])
    records = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [record["val/error"] for record in records if "val/error" in record] == [0.9, None, 0.7]
    points = errors_of(tmp_path)
    assert math.isnan(points.pop(10))
    assert points == {0: 0.9, 20: 0.7}


def test_a_run_without_curves_has_no_points(tmp_path):
    assert read_curves(tmp_path / "nowhere", ["val/error"]) == {"val/error": {}}


def test_the_curves_of_several_runs_are_one_long_table(write, tmp_path):
    for name, errors in (("a", [0.5, 0.25]), ("b", [1.0]), ("c", [])):
        write(tmp_path / name, 0, errors)
    runs = [Run(name=name, settings={}) for name in ("b", "a", "c", "gone")]
    long = learning_curves(tmp_path, runs, "val/error")
    assert long.to_dict("list") == {"run": ["b", "a", "a"], "update": [0, 0, 10], "value": [1.0, 0.5, 0.25]}
    empty = learning_curves(tmp_path, [], "val/error")
    assert empty.empty
    assert list(empty.dtypes)[1:] == list(long.dtypes)[1:] == [int, float]
