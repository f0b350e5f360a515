"""The report on a folder: its files, its figures, its page in TensorBoard, and how long it takes."""

import csv
import importlib.util
import json
import os
import shutil
import time
from itertools import product
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from torch import nn

from src.reports.hparams import update_hparams_page
from src.reports.style import style_of, styles_of
from src.utils.tensorboard import EVENT_FILES, Curves

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "report.py"


@pytest.fixture(scope="module")
def report():
    """The command: `report("outputs/compare", "--no-figures")`."""
    spec = importlib.util.spec_from_file_location("report", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main([str(argument) for argument in arguments])


def write_curves(folder, model, last=10_000, every=250, level=0.1):
    """The event file of a run with a point of each curve, and histograms, at every evaluation."""
    curves = Curves(folder, 0)
    curves.describe("seed: 0", {"seed": 0}, ["error"])
    for update in range(0, last + 1, every):
        error = level + (0.9 - level) * 0.5 ** (update / last * 10)
        curves.scalars("val", {"error": error, "nll": 2 * error}, update)
        curves.floors({"chance": {"error": 0.9}, "knows the digits": {"error": 0.62}}, update)
        curves.weights(model, update)
        for step in range(update, update + every, 50):
            curves.scalars("train", {"loss": error, "error": error, "gradient_norm": 1.0, "lr": 1e-3}, step)
    curves.writer.close()


@pytest.fixture
def small(folder):
    """Two models, two widths, two learning rates, two seeds; one run diverged, one is missing."""
    for model, width, lr, seed in product(("lstm", "irnn"), (20, 50), (0.001, 0.003), (0, 1)):
        missing = (model, width, lr, seed) == ("irnn", 50, 0.003, 1)
        status = None if missing else "diverged" if (model, width, lr) == ("irnn", 20, 0.003) else "finished"
        name = folder.add(model, lr, seed, val=width / 100 - lr, test=width / 100, status=status, width=width)
        if status is not None:
            write_curves(folder.path / name, nn.Linear(2, 2), last=100, every=50)
    folder.expect_all()
    return folder


def page(folder):
    """The columns of the HParams page, and the images beside it."""
    (path,) = folder.glob(EVENT_FILES)
    events = EventAccumulator(str(path)).Reload()
    content = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    images = {tag: events.Images(tag)[0] for tag in events.Tags()["images"]}
    return [info.name for info in experiment.hparam_infos], [info.name.tag for info in experiment.metric_infos], images


def test_a_report_writes_tables_and_figures_that_tensorboard_shows_too(small, report, capsys):
    report(small.path, "--columns", "model.hidden_size")
    markdown = (small.path / "summary.md").read_text()
    assert markdown.index("## Selection") < markdown.index("## Runs") < markdown.index("## Not finished")
    assert "| model | 20 units | 50 units |\n| --- | --- | --- |\n| lstm | 0.2 ± 0 | 0.5 ± 0 |\n" in markdown
    assert "mean ± standard deviation over n finished runs (seed)" in markdown
    with open(small.path / "summary.csv") as file:
        assert len(list(csv.DictReader(file))) == 16
    with open(small.path / "selection.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["model.hidden_size"], row["optimizer.lr"], row["n"]) for row in rows] == [
        ("lstm", "20", "0.003", "2"), ("lstm", "50", "0.003", "2"),
        ("irnn", "20", "0.001", "2"), ("irnn", "50", "0.003", "1"),
    ]  # fmt: skip
    assert [row["notes"] for row in rows] == ["", "", "2 diverged at lr 0.003", "1 missing at lr 0.003"]

    figures = {"against_hidden_size", "against_lr", "learning_curves"}
    assert {path.stem for path in (small.path / "figures").iterdir()} == figures
    hparams, metrics, images = page(small.path)
    assert set(hparams) == {"model", "model.hidden_size", "optimizer.lr", "seed"}
    assert set(metrics) == {"val_selected/error", "val_selected/nll", "test/error", "test/nll"}
    assert set(images) == {f"figures/{name}" for name in figures}
    assert all(image.width > 500 and image.height > 300 for image in images.values())
    assert "irnn20-lr0.003-s0: diverged" in capsys.readouterr().out

    update_hparams_page(small.path)  # as at the end of every run
    assert page(small.path)[:2] == (hparams, metrics)
    assert set(page(small.path)[2]) == set(images)


def test_a_report_without_figures_leaves_those_that_are_there(small, report):
    (small.path / "figures").mkdir()
    (small.path / "figures" / "old.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x07\0\0\0\x05")
    report(small.path, "--no-figures")
    assert [path.name for path in (small.path / "figures").iterdir()] == ["old.png"]
    (image,) = page(small.path)[2].values()
    assert (image.width, image.height) == (7, 5)
    report(small.path)
    assert "old.png" not in os.listdir(small.path / "figures")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is neither a folder nor an experiment; legal: ba2016/"),
        (["ba2016/tabel1"], "did you mean ba2016/table1?"),
        (["ba2016/table1"], "ba2016/table1 has no runs yet, there is no folder outputs/ba2016-table1"),
        (["empty"], "empty: there are no runs in it"),
        (
            ["made-up", "--grid", "optimizer.lrr"],
            "grid: no run has a setting optimizer.lrr; did you mean optimizer.lr?",
        ),
    ],
)
def test_a_mistake_is_one_line(arguments, message, folder, report, monkeypatch, tmp_path):
    folder.add(lr=1)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        report(*arguments)
    assert message in str(ended.value)
    assert "\n" not in str(ended.value)


def test_an_experiment_names_its_folder(folder, report, monkeypatch, tmp_path):
    for model, lr in product(("irnn", "lstm"), (1, 2)):
        folder.add(model, lr=lr)
    (tmp_path / "outputs").mkdir()
    folder.path.rename(tmp_path / "outputs" / "ba2016-table1")
    monkeypatch.chdir(tmp_path)
    report("ba2016/table1", "--no-figures")
    assert "2 points tied" in Path("outputs/ba2016-table1/selection.csv").read_text()


def test_a_model_looks_the_same_everywhere_and_models_differ():
    names = ["fastweights", "lstm", "irnn", "alstm", "gru", "rnn", "nprnn", "a_new_one"]
    styles = styles_of({name: name for name in names})
    assert styles == {name: style_of(name) for name in names}
    for part in ("color", "linestyle", "marker"):
        assert len({str(style_of(name)[part]) for name in names[:7]}) == 7
    variants = styles_of({f"fastweights, decay {decay}": "fastweights" for decay in range(12)})
    assert len({str(style) for style in variants.values()}) == 12


@pytest.mark.slow
def test_a_report_on_a_thousand_runs_takes_seconds(folder, report):
    model = nn.Sequential(nn.Embedding(37, 100), nn.LSTM(100, 20), nn.Linear(20, 100), nn.Linear(100, 10))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    templates = []
    grid = product(("irnn", "lstm", "gru", "fastweights"), (20, 50, 100, 200, 400), (1e-4, 3e-4, 1e-3, 3e-3, 1e-2))
    for number, ((name, width, lr), seed) in enumerate(product(grid, range(10))):
        error = 20 / width * (1 + abs(lr - 0.003)) + seed / 1000
        run = folder.path / folder.add(name, lr, seed, val=error, test=error, width=width)
        if number < 8:
            write_curves(run, model, level=error)
            templates += run.glob(EVENT_FILES)
        else:
            shutil.copy(templates[number % 8], run)
    assert templates[0].stat().st_size > 400_000
    (folder.path / "sweep.json").unlink(missing_ok=True)
    started = time.process_time(), time.perf_counter()
    report(folder.path)
    seconds = time.process_time() - started[0], time.perf_counter() - started[1]
    print(json.dumps({"processor seconds": seconds[0], "seconds": seconds[1]}))
    assert seconds[0] < 20
    with open(folder.path / "summary.csv") as file:
        assert len(list(csv.DictReader(file))) == 1000
