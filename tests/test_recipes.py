"""The model, the task and the lines of Python printed in the README run in a copy of the project."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from src.config.paths import PROJECT

FILE = re.compile(r"`((?:src|configs)/[\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)^```", re.DOTALL | re.MULTILINE)


def recipes():
    return dict(FILE.findall((PROJECT / "README.md").read_text()))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the project with the files of the README."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("src", "configs", "tests"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "local"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(PROJECT / name, folder / name)
    for name, content in recipes().items():
        assert not (folder / name).exists(), f"{name} exists already"
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    return folder


def python(folder, *arguments):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_model_and_a_task_are_two_files_each():
    assert sorted(name for name in recipes() if "experiment" not in name) == [
        "configs/model/mine.yaml", "configs/task/first.yaml", "src/models/mine.py", "src/tasks/first.py",
    ]  # fmt: skip


def test_an_experiment_is_one_file(checkout):
    (name,) = (name for name in recipes() if "experiment" in name)
    experiment = name.removeprefix("configs/experiment/").removesuffix(".yaml")
    sweep = ["model.hidden_size=8", "optimizer.lr=1e-3,1e-2", "seed=0,1", "trainer.max_updates=2"]
    small = ["task.train_size=64", "task.val_size=64", "task.test_size=64", "trainer.batch_size=8"]
    ended = python(checkout, "-m", "src.train", f"experiment={experiment}", *sweep, *small)
    assert ended.returncode == 0, ended.stderr
    assert len(list(checkout.glob("outputs/widths/*/result.json"))) == 3  # of two rates, the chosen one with both seeds


@pytest.fixture(scope="module")
def run(checkout):
    """A run of the model on the task."""
    overrides = ["model=mine", "task=first", "task.sequence_length=3", "task.val_size=200", "task.test_size=200"]
    ended = python(checkout, "-m", "src.train", *overrides, "trainer.max_updates=200", "trainer.eval_every=100")
    assert ended.returncode == 0, ended.stderr
    (folder,) = checkout.glob("outputs/runs/mine50-first-*")
    return folder


def test_they_train(run):
    assert json.loads((run / "result.json").read_text())["metrics"]["test/error"] < 0.3


def test_they_pass_the_contract_tests(checkout):
    """The contract tests of models, tasks and configuration files."""
    folders = ["tests/models/test_contract.py", "tests/models/test_lengths.py", "tests/tasks", "tests/config"]
    ended = python(checkout, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "-k", "mine or first", *folders)
    assert ended.returncode == 0, ended.stdout[-5000:]
    assert int(re.search(r"(\d+) passed", ended.stdout)[1]) > 60


IMPORTS = "from src.config.compose import compose; from src.config.fingerprint import run_name"


def run_names(folder, *overrides):
    """The run names of some commands, each given as overrides separated by spaces."""
    prints = (f"print(run_name(compose(*{one.split()!r})))" for one in overrides)
    ended = python(folder, "-c", "; ".join([IMPORTS, *prints]))
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split()


def test_a_key_can_be_added_and_a_class_moved_without_renaming_a_run(checkout, run):
    """In the copy, add a key with a neutral value and move the optimizers to another module."""
    models = ["model=mine", "model=lstm", "model=fastweights"]
    before = run_names(checkout, *models)

    key = "forget_bias: float = 1.0,"
    path = checkout / "src/models/lstm.py"
    text = path.read_text().replace(key, f"{key}\n        peepholes: Annotated[bool, Neutral(False)] = False,")
    path.write_text(text.replace("from src.models.base", "from src.config.schema import Neutral\nfrom src.models.base"))
    with open(checkout / "configs/model/lstm.yaml", "a") as file:
        file.write("# a new key\npeepholes: false\n")
    moved = checkout / "src/training/updates"
    moved.mkdir()
    (checkout / "src/training/optimizers.py").rename(moved / "optimizers.py")
    for path in (checkout / "configs/optimizer").glob("*.yaml"):
        path.write_text(path.read_text().replace("src.training.optimizers.", "src.training.updates.optimizers."))
    assert run_names(checkout, *models) == before
    assert not {*run_names(checkout, "model=lstm model.peepholes=true")} & {*before}

    evaluated = python(checkout, "-m", "src.evaluate", f"run={run}", "examples=0")
    assert evaluated.returncode == 0, evaluated.stderr


def test_the_lines_of_python_run(checkout, run):
    (snippet,) = re.findall(r"## From Python\n\n```python\n(.*?)^```", (PROJECT / "README.md").read_text(), re.S | re.M)
    code = snippet.replace("outputs/runs/<run>", str(run))
    code += "\nprint(output.prediction.shape, attention.shape, memory.shape, loss.item() > 0)"
    ended = python(checkout, "-c", code)
    assert ended.returncode == 0, ended.stderr
    *_, last = ended.stdout.splitlines()
    assert last == "torch.Size([128, 10]) torch.Size([128, 14]) torch.Size([128, 50, 50]) True"
