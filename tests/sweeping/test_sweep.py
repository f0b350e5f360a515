"""A sweep is checked before it starts, completes whatever happens to a run, and ends with a table."""

import csv
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import pytest

from src.config.errors import UserError
from src.config.fingerprint import run_name
from src.config.paths import PROJECT
from src.results.manifest import read_manifest, write_manifest
from src.results.runs import DEFAULT_SEARCH
from src.sweeping.sweep import Sweep
from src.training.trainer import Trainer

THREE = ["-m", "model=irnn", "seed=0,1,2"]


@pytest.fixture
def trained(monkeypatch):
    """The names of the runs that were trained, in order."""
    names = []
    original = Trainer.updates

    def recorded(trainer, *arguments):
        names.append(trainer.checkpoints.folder.name)
        return original(trainer, *arguments)

    monkeypatch.setattr(Trainer, "updates", recorded)
    return names


def rows():
    return list(csv.DictReader(Path("outputs/runs/summary.csv").read_text().splitlines()))


def test_three_runs_and_a_table_then_nothing_then_only_the_missing_one(train, tiny, trained):
    ended = train(*THREE, *tiny)
    assert ended.status == 0
    assert len(trained) == len(set(trained)) == 3
    table = rows()
    assert [(row["seed"], row["status"]) for row in table] == [(seed, "finished") for seed in "012"]
    for row in table:
        kept = json.loads(Path("outputs/runs", row["run"], "result.json").read_text())
        assert float(row["test/error"]) == kept["metrics"]["test/error"]
    markdown = Path("outputs/runs/summary.md").read_text()
    assert all(row["run"] in markdown for row in table)
    errors = [float(row["test/error"]) for row in table]
    assert f"{fmean(errors):.4f} ± {stdev(errors):.4f}  3" in ended.out.splitlines()[-4]

    trained.clear()
    ended = train(*THREE, *tiny, "note=late")
    assert ended.status == 0
    assert "3 of 3 runs have ended already" in ended.out
    assert "warning: note=late is not stored with 3 runs, which have ended" in ended.out
    assert trained == []
    assert rows() == table

    missing = Path("outputs/runs", table[2]["run"])
    (missing / "result.json").unlink()
    for path in (missing / "checkpoints").iterdir():
        path.unlink()
    assert train(*THREE, *tiny).status == 0
    assert trained == [missing.name]
    assert [row | {"seconds": ""} for row in rows()] == [row | {"seconds": ""} for row in table]


@pytest.mark.slow
def test_the_columns_are_the_settings_that_vary(train, tiny):
    train("-m", "model=irnn,lstm", "optimizer.lr=1e-3,1e-2", *tiny)
    assert list(rows()[0]) == [
        "model", "optimizer.lr", "status", "val/error", "val/nll", "test/error", "test/nll", "updates",
        "selected_update", "seconds", "num_parameters", "state_size", "run",
    ]  # fmt: skip


def test_a_failure_is_in_the_table_and_the_other_runs_continue(train, tiny, monkeypatch):
    original = Trainer.do_update

    def fails_for_lstm(trainer):
        if "lstm" in trainer.checkpoints.folder.name:
            raise RuntimeError("broken on purpose")
        original(trainer)

    monkeypatch.setattr(Trainer, "do_update", fails_for_lstm)
    ended = train("-m", "model=irnn,lstm,gru", *tiny)
    assert ended.status == 1
    assert [(row["model"], row["status"], row["reason"]) for row in rows()] == [
        ("irnn", "finished", ""),
        ("lstm", "failed", "RuntimeError: broken on purpose"),
        ("gru", "finished", ""),
    ]
    assert "broken on purpose" in ended.out
    assert "Traceback" not in ended.out + ended.err


@pytest.mark.parametrize(("inside", "together"), [("", 1), (".hydra", 4)])
def test_the_others_go_on_where_the_folder_of_a_run_cannot_be_written(train, tiny, composed, inside, together):
    barred = Path("outputs/runs", run_name(composed("model=lstm", "seed=1", *tiny)), inside)
    barred.parent.mkdir(parents=True)
    barred.write_text("a file")
    ended = train("-m", "model=lstm", "seed=0,1,2", f"run.together={together}", *tiny)
    assert ended.status == 1
    assert f"warning: {barred} is not a folder, so this run is not started; the others continue" in ended.out
    assert [(row["seed"], row["status"]) for row in rows()] == [("0", "finished"), ("1", "missing"), ("2", "finished")]
    assert barred.read_text() == "a file"


def test_the_others_go_on_where_a_run_cannot_be_locked(train, tiny, composed):
    barred = Path("outputs/runs", run_name(composed("model=lstm", "seed=0", *tiny)), ".lock")
    barred.mkdir(parents=True)
    ended = train("-m", "model=lstm", "seed=0,1", *tiny)
    assert ended.status == 1
    assert f"{barred.parent.name}: failed" in ended.out
    assert [(row["seed"], row["status"]) for row in rows()] == [("0", "interrupted"), ("1", "finished")]


def test_a_diverged_run_is_a_result(train, tiny):
    ended = train("-m", "optimizer.lr=1e-2,1e30", "model=irnn", "optimizer=sgd", "trainer.clip_norm=null", *tiny)
    assert ended.status == 0
    assert [row["status"] for row in rows()] == ["finished", "diverged"]


def test_a_table_that_cannot_be_written_is_one_line(train, tiny):
    Path("outputs/runs/summary.md").mkdir(parents=True)
    ended = train("-m", "seed=0,1", *tiny)
    assert ended.status == 1
    assert ended.err.splitlines()[-1] == "error: outputs/runs/summary.md: Is a directory"


def test_ctrl_c_ends_the_sweep_and_the_same_command_resumes(train, tiny, trained, monkeypatch):
    original = Trainer.do_update

    def interrupted(trainer):
        original(trainer)
        if trainer.state.update == 5 and len(trained) == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "do_update", interrupted)
        ended = train(*THREE, *tiny)
    assert ended.status == 130
    assert [row["status"] for row in rows()] == ["finished", "interrupted", "missing"]
    trained.clear()
    assert train(*THREE, *tiny).status == 0
    assert len(trained) == 2
    assert {row["status"] for row in rows()} == {"finished"}


HELD = """
import os, time
from pathlib import Path
from src.utils.files import locked
with locked(Path("run")):
    try:
        print("held", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(0.2)
        Path("saved").touch()
time.sleep(60)
"""


def test_ctrl_c_waits_until_the_runs_in_workers_are_saved(tmp_path, monkeypatch):
    """It does not wait for what the workers do after saving, which here is to sleep for a minute."""
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    sweep = object.__new__(Sweep)
    sweep.folder, sweep.jobs = tmp_path, {"run": [], "other": []}

    def interrupted(jobs, initial_job_idx):
        signal.raise_signal(signal.SIGINT)

    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    with subprocess.Popen([sys.executable, "-c", HELD], stdout=subprocess.PIPE, env=environment) as worker:
        worker.stdout.readline()
        monkeypatch.setattr("src.sweeping.sweep.active_children", lambda: [worker])
        with pytest.raises(KeyboardInterrupt):
            sweep.launch(interrupted, [], 0)
        assert Path("saved").exists()
        assert worker.poll() is None
        worker.kill()


def test_ctrl_c_while_a_run_finishes_ends_the_sweep_after_it(train, tiny, monkeypatch):
    monkeypatch.setattr("src.running.lifecycle.show_examples", lambda *_: signal.raise_signal(signal.SIGINT))
    assert train(*THREE, *tiny).status == 130
    assert [row["status"] for row in rows()] == ["finished", "missing", "missing"]


def test_a_bad_job_is_found_before_the_first_one_starts(train, tiny):
    ended = train("-m", "model=irnn,lstm", "task.num_pairs=4,27", *[item for item in tiny if "pairs" not in item])
    assert ended.status == 1
    assert ended.err == "error: task.num_pairs=27: must be an integer, at least 1, at most 26\n"
    assert not Path("outputs").exists()


def test_a_single_run_is_reused_by_a_sweep(train, tiny, trained):
    train("model=irnn", "seed=1", *tiny)
    ended = train("-m", "model=irnn", "seed=0,1", *tiny)
    assert ended.status == 0
    assert len(trained) == 2


def test_the_manifest_lists_the_runs_of_all_sweeps_of_a_folder(train, tiny):
    assert read_manifest(Path("outputs/runs")) is None
    train("-m", "model=irnn,lstm", *tiny)
    train("-m", "model=lstm,gru", "search.columns=[model]", *tiny)
    manifest = read_manifest(Path("outputs/runs"))
    assert [settings["model"] for settings in manifest.runs.values()] == ["irnn", "lstm", "gru"]
    assert all(Path("outputs/runs", name).is_dir() for name in manifest.runs)
    assert manifest.search == replace(DEFAULT_SEARCH, columns=["model"])


def test_the_manifest_loses_no_run_of_sweeps_that_start_at_once(tmp_path):
    names = [f"run{number}" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:  # threads that open the file separately exclude each other, as processes do
        list(pool.map(lambda name: write_manifest(tmp_path / "sweep", DEFAULT_SEARCH, {name: {}}), names))
    assert sorted(read_manifest(tmp_path / "sweep").runs) == sorted(names)


def test_two_stages_run_the_grid_once_and_repeat_the_chosen_points(train, tiny, trained):
    grid = ["-m", "model=irnn", "optimizer.lr=1e-3,1e-1", "seed=0,1", "search.two_stage=true", *tiny]
    ended = train(*grid)
    assert ended.status == 0
    folder = Path("outputs/runs")
    manifest = read_manifest(folder)
    assert trained == list(manifest.runs)
    assert sorted(trained) == sorted(path.name for path in folder.glob("*-s*-*/"))
    points = [(settings["optimizer.lr"], settings["seed"]) for settings in manifest.runs.values()]
    assert points[:2] == [(1e-3, 0), (1e-1, 0)]
    results = [json.loads((folder / name / "result.json").read_text()) for name in trained[:2]]
    errors = [result["metrics"]["val/error"] for result in results]
    lr = points[errors.index(min(errors))][0]
    assert points[2:] == [(lr, 1)]
    assert f"chosen optimizer.lr={lr}" in ended.out
    assert "3 of 3 done, 0 running, 0 failed, 0 left; best val/error" in ended.out

    trained.clear()
    assert train(*grid).status == 0
    assert trained == []
    assert train(*grid, "search.two_stage=false").status == 0
    assert len(trained) == 1


def test_failures_are_retried_unless_told_otherwise(train, tiny, trained, monkeypatch):
    def fails(trainer):
        raise RuntimeError("broken on purpose")

    two = ["-m", "model=irnn,lstm", *tiny]
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "do_update", fails)
        ended = train(*two)
    assert ended.status == 1
    assert "0 of 2 done, 0 running, 2 failed, 0 left" in ended.out
    trained.clear()
    assert train(*two, "run.retry_failed=false").status == 1
    assert trained == []
    assert train(*two).status == 0
    assert len(trained) == 2


class TerminatedWorkerError(Exception):
    """Has the name of the error that joblib raises."""


def test_a_worker_that_dies_of_one_run_is_its_failure_and_the_others_go_on(train, tiny, trained, monkeypatch):
    launch, original = Sweep.launch, Trainer.do_update

    class Death(BaseException):
        pass

    def dies_of_lstm(trainer):
        if "lstm" in trainer.checkpoints.folder.name:
            raise Death
        original(trainer)

    def in_workers(sweep, launch_here, *jobs, **more):
        def launch_in_workers(*jobs, **more):
            try:
                return launch_here(*jobs, **more)
            except Death:
                raise TerminatedWorkerError from None

        return launch(sweep, launch_in_workers, *jobs, **more)

    monkeypatch.setattr(Trainer, "do_update", dies_of_lstm)
    monkeypatch.setattr(Sweep, "launch", in_workers)
    ended = train("-m", "model=irnn,lstm", "seed=0,1", *tiny)
    assert ended.status == 1
    assert "2 of 4 done, 0 running, 2 failed, 0 left" in ended.out
    reasons = {(row["model"], row["seed"]): row["reason"] for row in rows()}
    dead = "a worker was killed, perhaps for lack of memory"
    assert reasons == {(model, seed): dead * (model == "lstm") for model in ("irnn", "lstm") for seed in "01"}


def test_runs_that_have_ended_are_not_built_again_to_be_checked(train, tiny, monkeypatch):
    assert train("-m", "seed=0,1", *tiny).status == 0
    monkeypatch.setattr("src.sweeping.sweep.check", None)
    assert train("-m", "seed=0,1", *tiny).status == 0


@pytest.mark.parametrize(("fitting", "asked", "at_a_time"), [(3, 2, 2), (3, 8, 3)])
def test_as_many_jobs_are_launched_at_a_time_as_fit_and_were_asked_for(
    fitting, asked, at_a_time, train, tiny, monkeypatch
):
    def begin(folder, jobs, configs, settings, search, run, batch_size, *_):
        raise UserError(f"{batch_size} at a time, of {threads[0]} threads")

    threads = []
    monkeypatch.setattr("src.running.sizes.num_cores", lambda: 2)
    monkeypatch.setattr("src.sweeping.sweep.fit", lambda _, of_one: threads.append(of_one) or fitting)
    monkeypatch.setattr("src.sweeping.sweep.Sweep", begin)
    ended = train("-m", "trainer.threads=1,2", f"hydra.sweeper.max_batch_size={asked}", *tiny)
    assert ended.err == f"error: {at_a_time} at a time, of 2 threads\n"


def test_a_fixed_setting_of_a_group_that_varies_is_applied_to_each_run(train, tiny):
    assert train("-m", "optimizer=sgd,rmsprop", "optimizer.momentum=0.5", *tiny).status == 0
    assert {row["optimizer"] for row in rows()} == {"sgd", "rmsprop"}
    configs = [json.loads(path.read_text())["config"] for path in Path("outputs/runs").glob("*/result.json")]
    assert [config["optimizer"]["momentum"] for config in configs] == [0.5, 0.5]


@pytest.mark.slow
def test_the_line_of_a_run_says_what_varies_beyond_its_name(train, tiny):
    ended = train("-m", "model=rnn", "task.num_pairs=2,3", "seed=0,1", *tiny)
    assert ended.status == 0
    for pairs in (2, 3):
        assert (ended.out + ended.err).count(f" (num_pairs {pairs}): finished") == 2
