"""A finished run on any split, or on changed settings of its task."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from src.config.errors import UserError
from src.evaluate import EvaluateSettings, evaluate_run, main

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture
def run(train, tiny, tmp_path):
    """The folder of a finished run of a given model and task."""

    def folder(*overrides):
        assert train(*tiny, "model=rnn", "trainer.eval_every=2", *overrides).status == 0
        (result,) = tmp_path.glob("outputs/runs/*/result.json")
        return result.parent

    return folder


def evaluated(folder, *changes, **settings):
    return evaluate_run(EvaluateSettings(run=str(folder), **settings), OmegaConf.from_dotlist(list(changes)))


def test_a_run_is_evaluated_to_exactly_its_stored_metrics(run):
    folder = run("optimizer.lr=0.01")
    stored = json.loads((folder / "result.json").read_text())["metrics"]
    for split in ("val", "test"):
        metrics, _ = evaluated(folder, split=split)
        assert metrics == {name: stored[f"{split}/{name}"] for name in metrics}
        assert len(metrics) == 2


def test_a_run_whose_settings_follow_one_another_is_read_by_another_process(run):
    """An experiment's file may use resolvers of this project, and Hydra stores what it says."""
    folder = run()
    stored = folder / ".hydra" / "config.yaml"
    follows = "max_updates: ${by:${model.hidden_size},{16:12,8:${by:${model._target_},{src.models.rnn.RNN:3},6}}}"
    stored.write_text(stored.read_text().replace("max_updates: 6", follows))
    assert follows in stored.read_text()
    command = [sys.executable, "-m", "src.evaluate", f"run={folder}", "examples=0"]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "knows the digits" in ended.stdout


def test_changed_settings_split_and_seed_are_other_data(run, capsys):
    folder = run()
    same, examples = evaluated(folder, examples=3)
    longer, longer_examples = evaluated(folder, "num_pairs=6", examples=3)
    assert [len(line.split(" -> ")[0]) for line in examples] == [11] * 3
    assert [len(line.split(" -> ")[0]) for line in longer_examples] == [15] * 3
    others = [evaluated(folder, **settings)[0] for settings in ({"seed": 1}, {"split": "train"}, {"split": "val"})]
    assert len({metrics["nll"] for metrics in [same, longer, *others]}) == 5
    assert evaluated(folder)[0] == same
    assert "knows the digits, not the binding" in capsys.readouterr().out


def test_more_examples_of_the_test_set_agree_with_the_few(run):
    folder = run()
    assert evaluated(folder, "test_size=500", examples=0)[1] == []
    few, many = evaluated(folder)[0], evaluated(folder, "test_size=500")[0]
    assert few != many
    assert abs(few["nll"] - many["nll"]) < 0.5


def test_a_task_that_does_not_fit_the_weights_is_refused_in_one_line(run):
    folder = run("task=copying", "task.sequence_length=5")
    metrics, _ = evaluated(folder, "sequence_length=9")
    assert set(metrics) == {"error", "nll"}
    with pytest.raises(
        UserError, match=r"^the network was built for \w+ of 10\b.*, the changed task has \w+ of 6\b.*$"
    ):
        evaluated(folder, "num_symbols=4")


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["src/evaluate.py", *arguments])
    capsys.readouterr()
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    return code, capsys.readouterr().out


def test_the_command_prints_the_metrics_beside_the_floors_and_examples(run, monkeypatch, capsys):
    folder = run()
    code, out = command(monkeypatch, capsys, f"run={folder}", "task.num_pairs=6", "examples=3")
    assert code == 0
    for part in ("test", "chance", "knows the digits, not the binding", "predicted"):
        assert part in out
    assert out.count("predicted") == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("splitt=val", "splitt is not a setting; did you mean split? legal: device, examples, run, seed, split"),
        ("model.hidden_size=3", "model is not a setting;"),
        ("split=tst", "split=tst: must be train, val or test; did you mean test?"),
        ("examples=-1", "examples=-1: must be an integer, at least 0"),
        ("seed=x", "seed=x: must be an integer, at least 0"),
        ("device=cuda", "device=cuda: there is none here"),
        ("task=3", "task=3: must be a group of settings"),
        ("task.num_pair=6", "task.num_pair is not a setting of task; did you mean num_pairs?"),
        ("task.num_pairs=27", "task.num_pairs=27: must be an integer, at least 1, at most 26"),
        (
            "task.num_pairs=12 task.replace_digits=false",
            "task.num_pairs=12: must be at most 10 with replace_digits=false",
        ),
    ],
)
def test_a_mistake_is_one_line(arguments, says, tiny, composed, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(composed(*tiny), tmp_path / ".hydra" / "config.yaml")
    code, out = command(monkeypatch, capsys, f"run={tmp_path}", *arguments.split())
    assert code.startswith(f"error: {says}")
    assert "\n" not in code
    assert out == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["split=val"], "run is missing"),
        (["run=nowhere"], "run=nowhere: not the folder of a run"),
        (["run"], "run=null: must be a string"),
    ],
)
def test_a_run_has_to_be_named(arguments, says, monkeypatch, capsys):
    assert command(monkeypatch, capsys, *arguments) == (f"error: {says}", "")


def test_a_run_without_a_checkpoint_is_refused(tiny, composed, tmp_path):
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(composed(*tiny), tmp_path / ".hydra" / "config.yaml")
    with pytest.raises(UserError, match=r"^run=.*: has no checkpoint yet$"):
        evaluated(tmp_path)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["run=x", "-h"]], ids=str)
def test_the_help_names_every_setting(arguments, monkeypatch, capsys):
    code, out = command(monkeypatch, capsys, *arguments)
    assert code == 0
    for setting in [*EvaluateSettings.__dataclass_fields__, "task.*"]:
        assert f"\n    {setting} " in out
