"""Fixtures: the command, run in this process and in an empty folder; its configuration; settings for a short run."""

import gc
import logging
import os
import pickle
import shutil
import signal
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from hydra._internal.hydra import Hydra
from omegaconf import OmegaConf
from rich import get_console

os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported, wherever that is
os.environ.pop("COLUMNS", None)  # rich keeps the value found when its console is created, below

from src.config import errors
from src.train import command as train_here
from src.utils import lifeline
from tests.compose import compose
from tests.data import made_up
from tests.precompiled import use_precompiled_headers

get_console()  # before a test sets COLUMNS for itself

# Without a GPU, `torch.manual_seed` would store a stack trace for each kind of device, in every test.
seed = torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed
SET_A_MODE = ("experiment=", "hydra.mode=", "--config-")
"""Prefixes of arguments that can set Hydra's mode to a sweep; `-m` works without a mode."""
load, loaded = OmegaConf.load, {}


def load_once(file):
    """Load each YAML text only once per process: Hydra reads the same files for each of some thousand commands."""
    if isinstance(file, str | Path):
        return load(file)
    text = file.read()
    file.seek(0)  # loaded from the file below, so that an error names it
    if text not in loaded:
        loaded[text] = pickle.dumps(load(file))
    return pickle.loads(loaded[text])


def pytest_configure(config):
    """Called before xdist starts its worker processes, which inherit the environment."""
    OmegaConf.load = load_once
    if not hasattr(config, "workerinput"):
        use_precompiled_headers()


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Keep the garbage collector from repeatedly traversing half a million objects that live until the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@dataclass
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _reproducible():
    """Use one thread, since networks are small and tests run in parallel; seed the random numbers of every test."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)  # a run leaves it enabled
    before = torch.get_rng_state()
    seed(0)
    yield
    torch.set_rng_state(before)


@pytest.fixture(scope="session")
def folder_of_data(tmp_path_factory):
    """A folder for made-up data sets."""
    return tmp_path_factory.mktemp("made-up")


@pytest.fixture
def made_up_data(folder_of_data, monkeypatch):
    """Change to a folder whose `data` contains made-up data sets in place of the published ones."""
    made_up.install(folder_of_data / "data", monkeypatch)
    monkeypatch.chdir(folder_of_data)
    return folder_of_data / "data"


@pytest.fixture
def composed():
    """The configuration of a command without running it: `composed("model=lstm", "seed=1")`."""
    return compose


@pytest.fixture
def tiny():
    """Overrides that make a run short; it still logs, evaluates and checkpoints more than once."""
    return [
        "task.train_size=256",
        "task.val_size=64",
        "task.test_size=64",
        "model.hidden_size=8",
        "trainer.batch_size=8",
        "trainer.max_updates=6",
        "trainer.eval_every=3",
        "trainer.log_every=2",
        "trainer.checkpoint_every=2",
    ]


@pytest.fixture
def drawn():
    """Draw the figures of runs, see `train`."""


@pytest.fixture
def train(monkeypatch, tmp_path, capsys, request):
    """Run the command in `tmp_path`: `train("model=lstm", "seed=1")`. It may be called repeatedly.

    Figures are drawn only with the fixture `drawn`, since they take half the time of a short run.
    """
    monkeypatch.chdir(tmp_path)
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_figure", lambda *_, close: None)
        for name in ("figures.attention_figure", "figures.memory_figure", "film.film_figure"):
            monkeypatch.setattr(f"src.reports.{name}", lambda *_: None)
    monkeypatch.setattr(errors, "_user_wants_tracebacks", False)
    root, get_mode = logging.getLogger(), Hydra.get_mode

    def command(*arguments):
        monkeypatch.setattr("sys.argv", ["src/train.py", *arguments])
        # Hydra would compose the configuration once more, only to look for a mode in it.
        sets_a_mode = any(argument.startswith(SET_A_MODE) for argument in arguments)
        monkeypatch.setattr(Hydra, "get_mode", get_mode if sets_a_mode else lambda *_, **__: None)
        handlers, level = list(root.handlers), root.level
        capsys.readouterr()
        code = None
        try:
            train_here()
        except SystemExit as ended:
            code = ended.code
        finally:
            # Hydra configures the root logger for every run and leaves the last run's file open.
            for handler in set(root.handlers) - set(handlers):
                handler.close()
            root.handlers[:] = handlers
            root.setLevel(level)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            lifeline.release()  # otherwise a command in a later test would be a worker of this sweep
            torch.set_num_threads(1)
            torch.use_deterministic_algorithms(False)
            torch.autograd.set_detect_anomaly(False)
        out, err = capsys.readouterr()
        return Ended(1, out, f"{err}{code}\n") if isinstance(code, str) else Ended(code or 0, out, err)

    return command


@pytest.fixture(scope="session")
def folder_of_outputs(tmp_path_factory):
    """The outputs of `train_once` so far."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture
def train_once(train, folder_of_outputs, request):
    """Run a command that several tests begin with and that must succeed; later tests get a copy of its outputs."""

    def command(*arguments):
        key = repr((arguments, "drawn" in request.fixturenames))
        made = folder_of_outputs / sha256(key.encode()).hexdigest()
        if made.exists():
            shutil.copytree(made, "outputs")
            return
        assert not Path("outputs").exists()
        ended = train(*arguments)
        assert ended.status == 0, ended.err
        shutil.copytree("outputs", made)

    return command
