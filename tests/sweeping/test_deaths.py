"""A run whose process dies without an exception is one failed run; the others continue, and a repeated command ends."""

import csv
import os
import shutil
import subprocess
import sys

import pytest

from src.config.paths import PROJECT
from src.results.result import read_result
from tests.sweeping.test_launchers import require

DYING = """
import os, signal
replace = os.replace
def dying(source, target):
    replace(source, target)
    if "/{of}" in str(target) and "/checkpoints/" in str(target):
        os.kill(os.getpid(), signal.{number})
os.replace = dying
"""


@pytest.fixture
def command(tmp_path, tiny):
    """Run a command in `tmp_path` where every run whose name starts with `of` is killed at its first checkpoint."""

    def run(*arguments, number="SIGKILL", of="lstm"):
        (tmp_path / "sitecustomize.py").write_text(DYING.format(number=number, of=of))
        environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{PROJECT}", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *arguments, "name=s", *tiny]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    return run


def rows(folder):
    table = csv.DictReader((folder / "summary.csv").read_text().splitlines())
    return [(row["model"], row["status"], row["reason"]) for row in table]


KILLED = "its process died (Killed), perhaps for lack of memory"
WORKER = "a worker was killed, perhaps for lack of memory"
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("launcher", "reason"),
    [
        pytest.param("basic", KILLED, marks=SLOW),
        pytest.param("joblib", WORKER, marks=SLOW),
        pytest.param("submitit_local", WORKER, marks=SLOW),
        pytest.param("ray", WORKER, marks=SLOW),
    ],
)
def test_a_run_that_dies_in_a_sweep(command, tmp_path, launcher, reason):
    require(launcher)
    sweep = ["-m", "src.train", "-m", f"hydra/launcher={launcher}", "model=lstm,gru"]
    expected = [("lstm", "failed", reason), ("gru", "finished", "")]
    folder = tmp_path / "outputs" / "s"
    for _ in range(2):
        ended = command(*sweep)
        assert ended.returncode == 1, ended.stderr
        assert rows(folder) == expected
        assert "Traceback" not in ended.stdout + ended.stderr
    assert "Joblib.Parallel(" not in ended.stdout  # the line with all settings of the launcher
    (dead,) = folder.glob("lstm*")
    assert read_result(dead)["reason"] == reason
    assert not list(folder.glob(".*.tmp"))


@pytest.mark.parametrize(
    ("workers", "reason"), [(1, "its process died (Aborted), perhaps for lack of memory"), (2, WORKER)]
)
@pytest.mark.slow
def test_a_run_that_dies_in_a_search(command, tmp_path, workers, reason):
    search = [str(PROJECT / "scripts" / "search.py"), "model=choice(irnn,lstm)", "--trials=4", f"--workers={workers}"]
    search.append("optimizer.lr=interval(1e-3,1e-2)")
    folder = tmp_path / "outputs" / "s"
    for _ in range(2):
        ended = command(*search, number="SIGABRT")
        assert ended.returncode == 1, ended.stderr
        found = rows(folder)
        assert len(found) == 4
        assert set(found) == {("irnn", "finished", ""), ("lstm", "failed", reason)}
        assert "Traceback" not in ended.stdout + ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_runs_whose_program_dies_are_trained_by_themselves(command, tmp_path, launcher):
    require(launcher)
    name = "lstm8-associative_retrieval-lr0.01"
    sweep = ["-m", "src.train", "-m", f"hydra/launcher={launcher}", "model=lstm,irnn", "optimizer.lr=1e-3,1e-2"]
    ended = command(*sweep, "run.together=4", of=name)
    assert ended.returncode == 1, ended.stderr
    table = csv.DictReader((tmp_path / "outputs" / "s" / "summary.csv").read_text().splitlines())
    found = {(row["model"], row["optimizer.lr"]): row["status"] for row in table}
    assert found.pop(("lstm", "0.01")) == "failed"
    assert set(found.values()) == {"finished"}
    assert len(found) == 3


@pytest.mark.slow
def test_a_sweep_that_starts_over_does_so_once(command, tmp_path):
    sweep = ["-m", "src.train", "-m", "model=irnn,lstm,gru"]
    command(*sweep)
    shutil.rmtree(next((tmp_path / "outputs" / "s").glob("lstm*")))
    ended = command(*sweep, "run.fresh=true")
    assert ended.stdout.count("finished  val/error") == 2
