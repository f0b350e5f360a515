"""Sweeps of every launcher are killed: the same command resumes them, and no worker outlives its sweep."""

import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import pytest
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from src.config.errors import UserError, explain
from src.config.paths import PROJECT
from src.results.manifest import MANIFEST
from src.sweeping import launchers

PLUGINS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}
SHORT = [
    "task.train_size=256",
    "task.val_size=64",
    "task.test_size=64",
    "model.hidden_size=8",
    "trainer.batch_size=8",
    "trainer.max_updates=300",
    "trainer.eval_every=100",
    "trainer.checkpoint_every=20",
]
FOUR = ["model=irnn,lstm", "seed=0,1"]


def target(name):
    return f"hydra_plugins.anything.{name}"


def test_processes_times_threads_stay_within_the_cores(monkeypatch):
    monkeypatch.setattr(launchers, "num_cores", lambda: 8)

    def n_jobs(asked, threads):
        settings = OmegaConf.create({"_target_": target("JoblibLauncher"), "n_jobs": asked})
        assert launchers.fit(settings, threads) is None
        return settings.n_jobs

    assert [n_jobs(-1, 1), n_jobs(-1, 3), n_jobs(-1, 16), n_jobs(5, 1), n_jobs(50, 2)] == [8, 2, 1, 5, 4]
    assert launchers.fit(OmegaConf.create({"_target_": target("LocalLauncher")}), 2) == 4
    assert launchers.fit(OmegaConf.create({"_target_": "hydra._internal.BasicLauncher"}), 2) is None

    slurm = OmegaConf.create({"_target_": target("SlurmLauncher"), "cpus_per_task": None})
    launchers.fit(slurm, 2)
    assert slurm.cpus_per_task == 2
    assert launchers.outlives_the_sweep(slurm)


@pytest.mark.parametrize("asked", [0, -2])
def test_a_number_of_processes_that_joblib_would_read_otherwise_is_refused(asked):
    settings = OmegaConf.create({"_target_": target("JoblibLauncher"), "n_jobs": asked})
    with pytest.raises(UserError, match=f"hydra.launcher.n_jobs={asked}: must be at least 1, or -1 for all cores"):
        launchers.fit(settings, 1)


def test_ray_on_this_machine_and_on_a_cluster():
    ray = OmegaConf.create({"_target_": target("RayLauncher"), "ray": {"init": {"address": None}, "remote": {}}})
    launchers.fit(ray, 2)
    assert ray.ray == {"init": {"address": None, "include_dashboard": False}, "remote": {"num_cpus": 2}}
    ray = OmegaConf.create({"_target_": target("RayLauncher"), "ray": {"init": {"address": "auto"}, "remote": {}}})
    launchers.fit(ray, 1)
    assert ray.ray.init == {"address": "auto", "object_store_memory": None}
    assert not launchers.outlives_the_sweep(ray)


@pytest.mark.parametrize("launcher", PLUGINS)
def test_a_launcher_without_its_plugin_names_what_to_install(launcher):
    error = MissingConfigException("no such file", f"hydra/launcher/{launcher}", ["basic"])
    expected = f"hydra/launcher={launcher} needs a plugin: pip install -e '.[{PLUGINS[launcher]}]'"
    assert explain(error) == expected
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert PLUGINS[launcher] in extras


def installed(launcher):
    try:
        return importlib.util.find_spec(f"hydra_plugins.hydra_{PLUGINS[launcher]}_launcher") is not None
    except ModuleNotFoundError:
        return False


def test_the_command_without_a_plugin(train, tiny):
    if installed("ray"):
        pytest.skip("the plugin is installed")
    ended = train("-m", "hydra/launcher=ray", *tiny)
    assert (ended.status, ended.err) == (1, "error: hydra/launcher=ray needs a plugin: pip install -e '.[ray]'\n")


def require(launcher):
    """Skip the test if the plugin of the launcher or the SLURM queue is missing."""
    if launcher != "basic" and not installed(launcher):
        pytest.skip(f"hydra-{PLUGINS[launcher]}-launcher is not installed")
    if launcher == "submitit_slurm":
        sinfo = shutil.which("sinfo")
        if not sinfo or subprocess.run([sinfo], capture_output=True, timeout=60).returncode:
            pytest.skip("there is no SLURM here: see scripts/slurm_one_node.sh")


started = []


@pytest.fixture(autouse=True)
def _no_sweep_is_left():
    yield
    for sweep in started:
        sweep.kill()
        sweep.wait()
    started.clear()


def start(root, name, launcher, *arguments):
    """Start a sweep in `root/name` that logs to `root/name.log`."""
    command = [sys.executable, "-m", "src.train", "-m", f"run.root={root}", f"name={name}"]
    with open(root / f"{name}.log", "a") as log:
        sweep = subprocess.Popen(
            [*command, f"hydra/launcher={launcher}", *arguments], cwd=PROJECT, stdout=log, stderr=log
        )
    started.append(sweep)
    return sweep


def finished(folder):
    """The metrics and the selected update of every finished run, and when its result was written."""
    results = {path: json.loads(path.read_text()) for path in folder.glob("*/result.json")}
    return {
        path.parent.name: (result["metrics"], result["selected_update"], path.stat().st_mtime_ns)
        for path, result in results.items()
        if result["status"] == "finished"
    }


def metrics(folder):
    return {name: outcome[:2] for name, outcome in finished(folder).items()}


def table(folder):
    """The summary table without the columns of times."""
    header, *rows = [line.split(",") for line in (folder / "summary.csv").read_text().splitlines()]
    kept = [index for index, key in enumerate(header) if "second" not in key]
    return [[row[index] for index in kept] for row in (header, *rows)]


def processes(folder):
    """The ids of the processes started by a sweep in this folder, except two agents of Ray.

    The agents are idle, and take a minute or two to notice that Ray has gone.
    """
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            told = (path / "environ").read_bytes()
            agent = (path / "cmdline").read_bytes().startswith((b"ray::DashboardAgent", b"ray::RuntimeEnvAgent"))
            zombie = (path / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue
        if f"{folder}/.sweep.lock".encode() in told and not zombie and not agent:
            found.append(int(path.name))
    return found


def workers(folder):
    """The ids of the processes that hold the lock of a run."""
    pids = {int(path.read_text() or 0) for path in folder.glob("*/.lock")}
    return sorted(pids.intersection(processes(folder)))


def wait_for(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def checkpoints(folder):
    return list(folder.glob("*/checkpoints/*.pt"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of four runs that were trained one after another without interruption."""
    root = tmp_path_factory.mktemp("undisturbed")
    assert start(root, "four", "basic", *FOUR, *SHORT).wait() == 0
    return root / "four"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", PLUGINS)
def test_four_runs_and_then_nothing_left_to_do(launcher, undisturbed, tmp_path):
    require(launcher)
    assert start(tmp_path, "four", launcher, *FOUR, *SHORT).wait() == 0
    folder = tmp_path / "four"
    assert metrics(folder) == metrics(undisturbed)
    assert table(folder) == table(undisturbed)
    assert "4 of 4 done, 0 running, 0 failed, 0 left; best val/error" in (tmp_path / "four.log").read_text()
    before = finished(folder)
    assert start(tmp_path, "four", launcher, *FOUR, *SHORT).wait() == 0
    assert finished(folder) == before
    wait_for(lambda: not processes(folder), 60, "a worker is left")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local", "ray"])
def test_a_killed_sweep_leaves_no_worker_and_resumes(launcher, undisturbed, tmp_path):
    require(launcher)
    folder = tmp_path / "four"
    sweep = start(tmp_path, "four", launcher, *FOUR, *SHORT)
    wait_for(lambda: checkpoints(folder) or sweep.poll() is not None, 600, "no run has started")
    assert sweep.poll() is None
    sweep.kill()
    sweep.wait()
    wait_for(lambda: not processes(folder), 60, "a worker is left")
    assert start(tmp_path, "four", launcher, *FOUR, *SHORT).wait() == 0
    assert metrics(folder) == metrics(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_workers_of_joblib_save_their_runs_before_the_sweep_ends(number, status, tmp_path):
    require("joblib")
    folder = tmp_path / "two"
    long = [*SHORT[:-3], "trainer.max_updates=100000", "trainer.eval_every=50000", "trainer.checkpoint_every=100000"]
    sweep = start(tmp_path, "two", "joblib", "model=rnn", "seed=0,1", *long)
    wait_for(lambda: len(list(folder.glob("*/metrics.jsonl"))) == 2, 600, "no runs have started")
    time.sleep(1)
    sweep.send_signal(number)
    assert sweep.wait(120) == status
    assert len({path.parent for path in checkpoints(folder)}) == 2
    assert all("interrupted" in row for row in table(folder)[1:])
    wait_for(lambda: not processes(folder), 60, "a worker is left")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_after_a_killed_worker_the_same_command_resumes(launcher, undisturbed, tmp_path):
    require(launcher)
    folder = tmp_path / "four"
    sweep = start(tmp_path, "four", launcher, *FOUR, *SHORT)
    wait_for(lambda: checkpoints(folder) or sweep.poll() is not None, 600, "no run has started")
    os.kill(workers(folder)[0], signal.SIGKILL)
    if sweep.wait():
        assert "a worker was killed" in (tmp_path / "four.log").read_text()
    wait_for(lambda: not processes(folder), 60, "a worker is left")
    assert start(tmp_path, "four", launcher, *FOUR, *SHORT).wait() == 0
    assert metrics(folder) == metrics(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_diverged_and_a_failed_run_are_in_the_table_and_the_rest_is_complete(launcher, tmp_path):
    require(launcher)
    folder = tmp_path / "grid"
    grid = ["model=irnn,lstm", "optimizer=sgd", "trainer.clip_norm=null", "optimizer.lr=1e-2,1e6", *SHORT]
    assert start(tmp_path, "grid", launcher, *grid).wait() == 0
    (broken,) = (path.parent for path in folder.glob("lstm*lr0.01*/result.json"))
    shutil.rmtree(broken)
    broken.mkdir()
    (broken / "checkpoints").write_text("not a folder")
    assert start(tmp_path, "grid", launcher, *grid).wait() == 1
    header, *rows = [line.split(",") for line in (folder / "summary.csv").read_text().splitlines()]
    rows = [dict(zip(header, row, strict=True)) for row in rows]
    ended = {(row["model"], float(row["optimizer.lr"])): (row["status"], row["reason"]) for row in rows}
    assert ended["irnn", 0.01] == ("finished", "")
    assert ended["irnn", 1e6][0] == "diverged"
    assert "not finite" in ended["irnn", 1e6][1]
    assert ended["lstm", 0.01][0] == "failed"
    assert "checkpoints" in ended["lstm", 0.01][1]
    assert len(ended) == 4
    assert start(tmp_path, "grid", launcher, *grid, "run.retry_failed=false").wait() == 1
    (broken / "checkpoints").unlink()
    assert start(tmp_path, "grid", launcher, *grid).wait() == 0


@pytest.mark.slow
def test_a_two_stage_search_killed_in_both_stages(tmp_path):
    require("joblib")
    folder = tmp_path / "search"
    grid = ["model=irnn,lstm", "optimizer.lr=1e-3,1e-2", "seed=0,1,2", "search.two_stage=true", *SHORT]
    assert start(tmp_path, "whole", "basic", *grid).wait() == 0
    for num_runs in (2, 6):
        sweep = start(tmp_path, "search", "joblib", *grid)
        wait_for(lambda: len(finished(folder)) >= num_runs, 600, "too slow")  # noqa: B023
        sweep.kill()
        sweep.wait()
    assert start(tmp_path, "search", "joblib", *grid).wait() == 0
    assert len(metrics(folder)) == 8  # 4 points of the grid, then 2 more seeds for the best point of each model
    assert metrics(folder) == metrics(tmp_path / "whole")
    assert sorted(json.loads((folder / MANIFEST).read_text())["runs"]) == sorted(metrics(folder))


@pytest.mark.slow
def test_a_sweep_killed_five_times_at_random_equals_an_uninterrupted_one(tmp_path):
    require("joblib")
    grid = ["model=irnn,lstm,gru", "optimizer.lr=1e-4,1e-3,3e-3,1e-2", "seed=0,1", *SHORT]
    assert start(tmp_path, "whole", "joblib", *grid).wait() == 0

    folder = tmp_path / "killed"
    ended = threading.Event()
    broken = []

    def read():
        while not ended.wait(0.005):
            for path in [*folder.glob("*/result.json"), *folder.glob(MANIFEST)]:
                try:
                    json.loads(path.read_text())
                except ValueError:
                    broken.append(path)

    reading = threading.Thread(target=read)
    reading.start()
    moments = random.Random(0)
    before = {}
    try:
        for kill in range(5):
            sweep = start(tmp_path, "killed", "joblib", *grid)
            wait_for(lambda: len(finished(folder)) > len(before), 600, "too slow")  # noqa: B023
            time.sleep(moments.uniform(0, 3))
            assert sweep.poll() is None
            victim = sweep.pid
            if kill % 2:
                wait_for(lambda: workers(folder), 600, "no worker")
                victim = moments.choice(workers(folder))
            os.kill(victim, signal.SIGKILL)
            sweep.kill()  # it would continue without the worker
            sweep.wait()
            now = finished(folder)
            assert before.items() <= now.items(), "a finished run was trained again"
            before = now
        assert start(tmp_path, "killed", "joblib", *grid).wait() == 0
    finally:
        ended.set()
        reading.join()
    assert broken == []
    assert before.items() <= finished(folder).items()
    assert len(metrics(folder)) == 24
    assert metrics(folder) == metrics(tmp_path / "whole")
    assert table(folder) == table(tmp_path / "whole")
