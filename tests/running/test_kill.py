"""After kill -9 at any moment, then the same command, nothing is lost and nothing is duplicated."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.config.paths import PROJECT

MAX_UPDATES = 600
SETTINGS = [
    f"trainer.max_updates={MAX_UPDATES}",
    "trainer.batch_size=16",
    "trainer.eval_every=100",
    "trainer.checkpoint_every=10",
    "trainer.log_every=7",
    "trainer.weight_noise=0.001",
    "network.input_dropout=0.1",
    "model.hidden_size=10",
    "task.val_size=500",
    "task.test_size=500",
]


def arguments(folder, name):
    return [f"name={name}", f"run.root={folder}", *SETTINGS]


def start(folder, name):
    command = [sys.executable, "-W", "error", "-m", "src.train", *arguments(folder, name)]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, env=dict(os.environ, COLUMNS="200"))


def updates_done(folder):
    """The update of the newest checkpoint."""
    return max((int(path.name[7:15]) for path in folder.glob("*/checkpoints/update-*.pt")), default=0)


def num_event_files(folder):
    """How many attempts have started to write."""
    return len(list(folder.glob("*-s*-*/events*")))


def contents(folder):
    (run,) = folder.glob("*-s*-*/")
    last = torch.load(max((run / "checkpoints").glob("*.pt")), weights_only=True)
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    curves = {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return run, json.loads((run / "result.json").read_text()), last, curves


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_kills_change_nothing(kills, train, tmp_path):
    """The run that is not killed needs no process of its own."""
    assert train(*arguments(tmp_path, "whole")).status == 0

    moments = random.Random(0)
    for number, update in enumerate(sorted(moments.sample(range(MAX_UPDATES - 400), kills)), start=1):
        process = start(tmp_path, "killed")
        while updates_done(tmp_path / "killed") < update or num_event_files(tmp_path / "killed") < number:
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert train(*arguments(tmp_path, "killed")).status == 0

    whole_run, whole_result, whole, whole_curves = contents(tmp_path / "whole")
    killed_run, killed_result, killed, killed_curves = contents(tmp_path / "killed")
    assert killed_run.name == whole_run.name
    assert num_event_files(tmp_path / "killed") == kills + 1
    assert (killed_run / "metrics.jsonl").read_bytes() == (whole_run / "metrics.jsonl").read_bytes()
    assert killed_result["metrics"] == whole_result["metrics"]
    assert killed_result["selected_update"] == whole_result["selected_update"]
    assert all(torch.equal(killed["model"][name], whole["model"][name]) for name in whole["model"])
    assert killed_curves == whole_curves
    for points in killed_curves.values():
        steps = [step for step, _ in points]
        assert steps == sorted(set(steps))
    assert [step for step, _ in killed_curves["train/loss"]][:-1] == list(range(7, MAX_UPDATES, 7))
