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


def train(*overrides):
    """The lines of a program that do what `python -m src.train` does."""
    return f"sys.argv[1:] = {overrides!r}\nmain()"


def print_run_names(*commands):
    """The lines of a program that print the run names of some commands, each given as overrides, in one line."""
    return f"print(*[run_name(compose(*one.split())) for one in {commands!r}])"


START = """
import sys
from pathlib import Path
from src.config.compose import compose
from src.config.fingerprint import run_name
from src.train import main
"""
MODELS = ["model=mine", "model=lstm", "model=fastweights"]


@pytest.fixture(scope="module")
def ran(checkout):
    """The lines printed by one process that trains the model on the task and then runs the lines of Python.

    Separate processes would spend most of their time importing torch.
    """
    mine = ["model=mine", "task=first", "task.sequence_length=3", "task.val_size=200", "task.test_size=200"]
    (snippet,) = re.findall(r"## From Python\n\n```python\n(.*?)^```", (PROJECT / "README.md").read_text(), re.S | re.M)
    program = [
        START,
        train(*mine, "trainer.max_updates=200", "trainer.eval_every=100"),
        "(folder,) = Path('outputs/runs').glob('mine50-first-*')",
        f"exec({snippet!r}.replace('outputs/runs/<run>', str(folder)))",
        "print(output.prediction.shape, attention.shape, memory.shape, loss.item() > 0)",
        print_run_names(*MODELS),
    ]
    ended = python(checkout, "-c", "\n".join(program))
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


@pytest.fixture
def run(checkout, ran):
    """The folder of the run of the model on the task."""
    (folder,) = checkout.glob("outputs/runs/mine50-first-*")
    return folder


@pytest.mark.slow
def test_an_experiment_is_one_file(checkout):
    (name,) = (name for name in recipes() if "experiment" in name)
    experiment = name.removeprefix("configs/experiment/").removesuffix(".yaml")
    sweep = ["model.hidden_size=8", "optimizer.lr=1e-3,1e-2", "seed=0,1", "trainer.max_updates=2"]
    small = ["task.train_size=64", "task.val_size=64", "task.test_size=64", "trainer.batch_size=8"]
    ended = python(checkout, "-m", "src.train", f"experiment={experiment}", *sweep, *small)
    assert ended.returncode == 0, ended.stderr
    assert len(list(checkout.glob("outputs/widths/*/result.json"))) == 3  # one seed for each rate, both for the best


def test_they_train(run):
    assert json.loads((run / "result.json").read_text())["metrics"]["test/error"] < 0.3


@pytest.mark.slow
def test_they_pass_the_contract_tests(checkout):
    """The contract tests of models, tasks and configuration files."""
    of_models = ["tests/models/test_contract.py", "tests/models/test_lengths.py"]
    of_tasks = ["tests/tasks/test_contract.py", "tests/tasks/test_metrics.py", "tests/config/test_configs.py"]
    options = ["-q", "-n0", "-p", "no:cacheprovider", "-k", "mine or first"]
    ended = python(checkout, "-m", "pytest", *options, *of_models, *of_tasks)
    assert ended.returncode == 0, ended.stdout[-5000:]
    assert int(re.search(r"(\d+) passed", ended.stdout)[1]) > 60


def test_a_key_can_be_added_and_a_class_moved_without_renaming_a_run(checkout, ran, run):
    """In the copy, add a key with a neutral value and move the optimizers to another module."""
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
    evaluate = f"import src.evaluate\nsys.argv[1:] = ['run={run}', 'examples=0']\nsrc.evaluate.main()"
    names = print_run_names(*MODELS, "model=lstm model.peepholes=true")
    ended = python(checkout, "-c", "\n".join([START, names, evaluate]))
    assert ended.returncode == 0, ended.stderr
    *same, other = ended.stdout.splitlines()[0].split()
    before = ran[-1].split()
    assert len(before) == len(MODELS)
    assert same == before
    assert other not in before


def test_the_lines_of_python_run(ran):
    assert ran[-2] == "torch.Size([128, 10]) torch.Size([128, 14]) torch.Size([128, 50, 50]) True"
