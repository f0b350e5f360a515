"""Runs of version 0.1 are found, resumed and reported after an upgrade."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.config.paths import EVENT_FILES
from src.results.curves import read_curves
from src.results.manifest import read_manifest
from src.results.runs import load_runs
from src.running.upgrade import _write_metrics, upgrade
from src.training import checkpoint
from src.utils.events import event_writer

TAGS = ("train/loss", "val/error", "val_selected/error", "test/error")


def with_tags_of_version_0_1(folder):
    """Rewrite the scalars of a run under the tags of version 0.1; TensorBoard shows some under other tags today."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    scalars = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    for path in folder.glob(EVENT_FILES):
        path.unlink()
    with event_writer(folder) as writer:
        for tag, points in scalars.items():
            for point in points:
                old = tag.replace("val_selected/test/", "test/").replace("weight_updates/", "train/")
                writer.add_scalar(old, point.value, point.step)


def as_of_version_0_1(folder):
    """Turn a run into what version 0.1 would have left."""
    old = folder.with_name(folder.name.rpartition("-")[0] + "-0123abcd")
    folder.rename(old)
    (old / "metrics.jsonl").unlink()
    with_tags_of_version_0_1(old)
    for path in (old / "result.json", old / ".hydra" / "config.yaml"):
        if path.exists():
            text = re.sub(r"src\.training\.(optimizers|schedulers)", r"src.\1", path.read_text())
            path.write_text(re.sub(r'"fingerprint": "\w+"', '"identity": "0123abcd"', text))
    for path in (old / "checkpoints").glob("*.pt"):
        content = torch.load(path, weights_only=True)
        del content["fingerprint"], content["sum_of_norms"]
        path.unlink()
        checkpoint.write(old / "checkpoints", content["update"], content | {"identity": "0123abcd"})
    return old


@pytest.fixture
def sweep(train_once, train, tiny):
    """A folder with two finished runs of a sweep, and one that was interrupted, as version 0.1 left them."""
    train_once("-m", "name=old", "seed=0,1", "model=lstm", *tiny)
    assert train("name=old", "seed=2", "model=lstm", *tiny).status == 0
    folder = Path("outputs/old")
    names = sorted(path.parent.name for path in folder.glob("*/result.json"))
    curves = {name: read_curves(folder / name, TAGS) for name in names}
    results = {name: json.loads((folder / name / "result.json").read_text()) for name in names}
    old = {name: as_of_version_0_1(folder / name) for name in names}
    (old[names[2]] / "result.json").unlink()
    manifest = json.loads((folder / "sweep.json").read_text())
    manifest["runs"] = {old[name].name: settings for name, settings in manifest["runs"].items()}
    (folder / "sweep.json").write_text(json.dumps(manifest))
    return folder, names, curves, results


def test_upgraded_runs_are_what_they_would_be_today(sweep, monkeypatch, caplog):
    folder, names, curves, results = sweep
    assert not {path.name for path in folder.iterdir()} & set(names)
    (folder / "lstm0" / ".hydra").mkdir(parents=True)
    (folder / "lstm0" / ".hydra" / "config.yaml").write_text("model: 1\n")
    upgraded = []

    def stopped(run):
        if len(upgraded) == 1:
            raise KeyboardInterrupt
        upgraded.append(_write_metrics(run))

    with monkeypatch.context() as patched:
        patched.setattr("src.running.upgrade._write_metrics", stopped)
        with pytest.raises(KeyboardInterrupt):
            upgrade(folder)
    assert len(set(read_manifest(folder).runs) & set(names)) == 1
    assert [message.partition(": ")[0] for message in caplog.messages] == ["outputs/old/lstm0 cannot be upgraded"]
    assert len(upgrade(folder)) == 2
    shutil.rmtree(folder / "lstm0")
    assert sorted(read_manifest(folder).runs) == names[:2]
    for name in names[:2]:
        assert json.loads((folder / name / "result.json").read_text()) == results[name]
    for name in names:
        for tag, points in read_curves(folder / name, TAGS).items():
            assert points == pytest.approx(curves[name][tag], rel=1e-6)
    assert [run.status for run in load_runs(folder)] == ["finished", "finished", "interrupted"]
    assert upgrade(folder) == {}
    assert sorted(path.name for path in folder.glob("lstm*")) == names


def test_the_same_command_finds_upgraded_runs_and_resumes_the_interrupted_one(sweep, train, tiny):
    folder, names, _, results = sweep
    upgrade(folder)
    assert "2 of 2 runs have ended already" in train("-m", "name=old", "seed=0,1", "model=lstm", *tiny).out
    resumed = train("name=old", "seed=2", "model=lstm", *tiny)
    assert (resumed.status, "resumes from update 6" in resumed.out) == (0, True)
    assert json.loads((folder / names[2] / "result.json").read_text())["metrics"] == results[names[2]]["metrics"]
