"""Runs of a sweep that are trained together: each leaves the same files as if it were trained alone."""

import csv
import json
import logging
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from src.config.fingerprint import run_name
from src.running import groups, together
from src.running.groups import group, others_of_group, write_group
from src.running.together import _Runs
from src.specs import Batch
from src.training import checkpoint
from src.training.population import Stacked
from src.training.trainer import Trainer
from tests.compose import compose

GRID = ["-m", "model=irnn", "optimizer.lr=1e-3,1e-2", "seed=0,1"]
SLOW = pytest.mark.slow
IN_TURN, STACKED = "model.kernel=auto", "model.kernel=vectorized"


def folders(name):
    return sorted(Path("outputs", name).glob("*-s*-*/"))


def result(folder):
    return json.loads((folder / "result.json").read_text())


def newest(folder):
    return checkpoint.load_newest(folder / "checkpoints", torch.device("cpu"), lambda content: content)


def points(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same_runs(one, other, exactly):
    """Assert that the runs of two sweeps have the same results, curves and checkpoints."""
    assert [folder.name for folder in folders(one)] == [folder.name for folder in folders(other)]
    assert folders(one)
    tolerance = {"rtol": 0, "atol": 0} if exactly else {"rtol": 1e-4, "atol": 1e-5}
    for ours, theirs in zip(folders(one), folders(other), strict=True):
        kept, found = result(ours), result(theirs)
        for key in ("status", "reason", "selected_update", "updates", "fingerprint", "num_parameters"):
            assert kept[key] == found[key]
        assert found["metrics"] == (kept["metrics"] if exactly else pytest.approx(kept["metrics"], rel=1e-4))
        for mine, yours in zip(points(ours), points(theirs), strict=True):
            assert yours == (mine if exactly else pytest.approx(mine, rel=1e-3, abs=1e-6, nan_ok=True))
        own, back = newest(ours), newest(theirs)
        assert own.keys() == back.keys()
        assert own["optimizer"]["param_groups"] == back["optimizer"]["param_groups"]
        assert own["scheduler"] == back["scheduler"]
        assert torch.equal(own["rng"], back["rng"])
        for name, tensor in own["model"].items():
            torch.testing.assert_close(back["model"][name], tensor, **tolerance)
        for name, tensor in own["optimizer"]["state"][0].items():
            torch.testing.assert_close(back["optimizer"]["state"][0][name], tensor, **tolerance)


def stop_at(update, patch):
    """Send a signal once, when a run has reached an update."""
    original, pending = Trainer.updates, [True]

    def interrupted(trainer, *arguments):
        for _ in original(trainer, *arguments):
            if trainer.state.update == update and pending:
                pending.clear()
                signal.raise_signal(signal.SIGTERM)
            yield

    patch.setattr(Trainer, "updates", interrupted)


@pytest.mark.parametrize("kernel", [IN_TURN, pytest.param(STACKED, marks=SLOW)])
def test_a_sweep_gives_the_same_runs_and_table_however_many_are_trained_together(train, tiny, kernel):
    tables = []
    for name, number in (("alone", 1), ("together", 3)):
        assert train(*GRID, *tiny, kernel, f"name={name}", f"run.together={number}").status == 0
        markdown = Path("outputs", name, "summary.md").read_text()
        tables.append([line for line in markdown.splitlines() if line.startswith("|") and "run" not in line][:4])
        rows = list(csv.DictReader(Path("outputs", name, "summary.csv").read_text().splitlines()))
        assert [row["status"] for row in rows] == ["finished"] * 4
    assert tables[0] == tables[1]
    same_runs("alone", "together", exactly=kernel == IN_TURN)
    assert [result(folder)["provenance"]["together"] for folder in folders("alone")] == [1] * 4
    assert sorted(result(folder)["provenance"]["together"] for folder in folders("together")) == [1, 3, 3, 3]
    for folder in folders("together"):
        log = (folder / "train.log").read_text()
        assert log.count(" starts") == log.count("update 6  val/error") == 1
        assert f"{folder} starts" in log
        assert list(folder.glob("events*"))


def test_a_population_of_one_is_the_run_to_the_last_bit(train, tiny):
    for name, number in (("alone", 1), ("together", 20)):
        assert train("-m", "model=irnn", "seed=1", *tiny, STACKED, f"name={name}", f"run.together={number}").status == 0
    same_runs("alone", "together", exactly=True)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (4, 4)])
def test_runs_go_on_together_alone_or_in_other_company(train, tiny, monkeypatch, before, after):
    run = [*GRID, *tiny, STACKED]
    assert train(*run, "name=whole").status == 0
    with monkeypatch.context() as patch:
        stop_at(4, patch)
        stopped = train(*run, "name=stopped", f"run.together={before}")
    assert stopped.status == 128 + signal.SIGTERM
    statuses = [result(folder)["status"] for folder in folders("stopped") if (folder / "result.json").exists()]
    assert statuses == ["interrupted"] * before
    assert train(*run, "name=stopped", f"run.together={after}").status == 0
    same_runs("whole", "stopped", exactly=False)


def test_a_run_of_a_population_can_be_finished_by_its_own_command(train, tiny, monkeypatch):
    settings = [*tiny, STACKED, "model=irnn"]
    with monkeypatch.context() as patch:
        stop_at(3, patch)
        train("-m", "seed=0,1", *settings, "run.together=2")
    ended = train(*settings, "seed=1")
    assert "resumes from update 3" in ended.out
    assert ended.status == 0
    assert train("-m", "seed=0,1", *settings, "run.together=2", "name=whole").status == 0
    assert train("-m", "seed=0,1", *settings, "run.together=2").status == 0
    same_runs("whole", "runs", exactly=False)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [IN_TURN, STACKED])
def test_a_run_that_diverges_is_a_result_and_the_others_go_on(train, tiny, kernel):
    run = ["-m", "optimizer.lr=1e-2,1e30", "seed=0,1", "model=irnn", "optimizer=sgd", "trainer.clip_norm=null", kernel]
    ended = train(*run, *tiny, "run.together=4")
    assert ended.status == 0
    statuses = {folder.name.split("-lr")[1][:5]: result(folder)["status"] for folder in folders("runs")}
    assert set(statuses.values()) == {"finished", "diverged"}
    assert train(*run, *tiny, "name=alone").status == 0
    for ours, theirs in zip(folders("alone"), folders("runs"), strict=True):
        assert result(ours)["metrics"] == pytest.approx(result(theirs)["metrics"], rel=1e-4)
        assert result(ours)["reason"] == result(theirs)["reason"]


@pytest.mark.parametrize("kernel", [pytest.param(IN_TURN, marks=SLOW), STACKED])
def test_a_run_that_fails_leaves_the_others(train, tiny, kernel, monkeypatch):
    original = Trainer.save

    def fails(trainer, curves):
        if "-s1-" in trainer.checkpoints.folder.name and trainer.state.update == 4:
            raise OSError("broken on purpose")
        return original(trainer, curves)

    monkeypatch.setattr(Trainer, "save", fails)
    ended = train("-m", "model=irnn", "seed=0,1,2", *tiny, kernel, "run.together=3")
    assert ended.status == 1
    assert [result(folder)["status"] for folder in folders("runs")] == ["finished", "failed", "finished"]
    (failed,) = Path("outputs/runs").glob("*-s1-*")
    assert "broken on purpose" in (failed / "train.log").read_text()


@pytest.mark.slow
def test_runs_take_turns_if_one_program_fails(train, tiny, monkeypatch):
    monkeypatch.setattr(Stacked, "__call__", lambda stacked: 1 / 0)
    ended = train("-m", "seed=0,1", *tiny, STACKED, "run.together=2")
    assert ended.status == 0
    assert "2 runs cannot be trained as one program, so they take turns: ZeroDivisionError" in ended.out


@pytest.mark.slow
def test_a_few_at_a_time_if_not_all_fit(train, tiny, monkeypatch):
    monkeypatch.setattr(together, "bytes_of_one", lambda trainer: 4)
    monkeypatch.setattr(together, "bytes_left", lambda device: 10)
    begun = []
    original = Stacked.__init__
    monkeypatch.setattr(Stacked, "__init__", lambda one, runs: begun.append(len(runs)) or original(one, runs))
    assert train("-m", "seed=0,1,2,3", *tiny, STACKED, "run.together=4").status == 0
    assert begun[1:] == [2, 2]  # after a trial with a single run
    assert len(folders("runs")) == 4


def configs(*overrides):
    """The configurations of a grid, by their settings."""
    found = {"": []}
    for override in overrides:
        key, _, values = override.partition("=")
        found = {
            f"{name} {key}={value}": [*given, f"{key}={value}"]
            for name, given in found.items()
            for value in values.split("|")
        }
    return {name: compose(*given) for name, given in found.items()}


def test_runs_that_differ_in_numbers_are_a_group(tiny):
    alike = configs("run.together=20", "seed=0|1", "model.decay=0.9|0.95", "trainer.clip_norm=null|1.0", *tiny)
    assert [len(names) for names in group(alike)] == [8]
    few = dict(list(alike.items())[:7])
    for config in few.values():
        config.run.together = 3
    assert [len(names) for names in group(few)] == [3, 3, 1]
    assert [name for names in group(few) for name in names] == list(few)


@pytest.mark.parametrize(
    "override",
    [
        "model=lstm|gru", "model.fast_lr=0.0|0.5", "task.train_size=100|200", "trainer.batch_size=4|8",
        "optimizer=adam|sgd", "trainer.overfit_one_batch=true|false", "task=copying trainer.norm_stabilizer=0.0|0.1",
    ],
)  # fmt: skip
def test_runs_that_differ_in_structure_are_not(override):
    assert [len(names) for names in group(configs("run.together=20", "seed=0|1", *override.split()))] == [2, 2]


@pytest.mark.parametrize(
    "override", ["trainer.weight_noise=0.1", "network.input_dropout=0.1", "trainer.profile_updates=3", "run.together=1"]
)
def test_runs_that_have_to_be_alone(override):
    assert [len(names) for names in group(configs("run.together=20", override, "seed=0|1"))] == [1, 1]


def test_a_run_that_cannot_be_built_is_alone():
    """It fails with its own reason, and the others are trained."""
    runs = configs("run.together=20", "task=addition", "task.sequence_length=9|10", "seed=0|1")
    for name, config in runs.items():
        if "=10" in name:
            config.task.sequence_length = 0
    assert sorted(len(names) for names in group(runs)) == [1, 1, 2]


@pytest.mark.usefixtures("made_up_data")
@pytest.mark.parametrize(("model", "sizes"), [("ttt_linear", [1, 1]), ("gru", [2])])
def test_what_cannot_carry_a_state_as_one_program_is_alone(model, sizes):
    runs = configs("run.together=20", "task=language_model", f"model={model}", "seed=0|1")
    assert [len(names) for names in group(runs)] == sizes


def test_auto_is_one_on_a_cpu(monkeypatch):
    runs = configs("seed=0|1")
    assert [len(names) for names in group(runs)] == [1, 1]
    monkeypatch.setattr(groups, "choose_device", lambda config: torch.device("cuda"))
    assert [len(names) for names in group(runs)] == [2]


@pytest.mark.slow
def test_a_damaged_list_or_configuration_is_left_out(train, tiny, caplog):
    train("-m", "seed=0,1,2", *tiny, "run.together=3")
    first = next(path for path in folders("runs") if (path / "group.json").exists())
    others = list(others_of_group(first))
    assert len(others) == 2
    shutil.copy(first / ".hydra" / "config.yaml", others[0] / ".hydra" / "config.yaml")
    with caplog.at_level(logging.WARNING):
        assert list(others_of_group(first)) == others[1:]
    assert f"{others[0]} is skipped: its configuration is that of {first.name}" in caplog.text
    (first / "group.json").write_text('["../elsewhere"]')
    assert others_of_group(first) == {}


def test_a_run_that_is_alone_from_now_on_takes_no_others_with_it(tmp_path, composed):
    runs = {run_name(config): ([], config) for config in (composed("model=rnn", f"seed={seed}") for seed in (0, 1))}
    first, second = runs
    write_group(tmp_path, runs)
    assert list(others_of_group(tmp_path / first)) == [tmp_path / second]
    write_group(tmp_path, {first: runs[first]})
    assert others_of_group(tmp_path / first) == {}


def test_a_log_that_cannot_be_written_is_in_no_ones_way(tmp_path):
    before = together._speaking.set(tmp_path / "missing")
    try:
        together._LogOfEach().emit(logging.makeLogRecord({"msg": "update 3"}))
    finally:
        together._speaking.reset(before)


def test_a_group_whose_settings_come_from_the_environment(train, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "default.yaml").write_text("# @package _global_\nrun:\n  root: ${oc.env:OUT}\n")
    assert train(f"--config-dir={tmp_path}", *GRID, *tiny, "run.together=4").status == 0
    assert len(list(tmp_path.glob("out/runs/*/result.json"))) == 4


def test_wrong_numbers_of_runs(train, tiny):
    ended = train("-m", "seed=0,1", *tiny, "run.together=0")
    legal = "must be auto, or an integer, at least 1, at most 256"
    assert (ended.status, ended.err) == (1, f"error: run.together=0: {legal}\n")


@pytest.fixture
def runs():
    """A function that makes six runs, which can be started, on a device of a given type."""

    def life(trainer):
        yield trainer

    def make(device):
        trainer = SimpleNamespace(device=torch.device(device), update=None, state=SimpleNamespace())
        return _Runs({Path(str(number)): life(trainer) for number in range(6)}, {})

    return make


def test_any_number_fits_on_a_cpu(runs):
    begun = runs("cpu")
    begun.begin()
    assert len(begun.going) == 6


class Measured:
    """Stands in for the population of one run whose memory is measured."""

    recurrent = ()

    def __init__(self, updates):
        pass

    def next_batches(self):
        return [Batch(torch.zeros(1), torch.zeros(1))]

    def gradients(self, batch, recurrent):
        pass

    def close(self):
        pass


@pytest.fixture
def measured(monkeypatch):
    """Measurements as on a GPU with 100 bytes: each run takes 15, and torch uses 30 of the 70 that it has reserved."""
    found = []
    bytes_of = {"memory_allocated": 30, "memory_reserved": 70, "max_memory_allocated": 45, "mem_get_info": (30, 100)}
    for name, value in bytes_of.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", found.append)
    monkeypatch.setattr(together, "Stacked", Measured)
    return found


def test_as_many_are_begun_as_fit_into_what_is_not_used_and_one_is_measured(runs, measured):
    """They fit into four fifths of 70 bytes."""
    begun = runs("cuda")
    begun.begin()
    assert len(begun.going) == 4
    assert len(measured) == 2


@pytest.mark.usefixtures("measured")
def test_runs_that_cannot_be_measured_are_trained_one_at_a_time(runs, monkeypatch, caplog):
    def fails(updates):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(together, "Stacked", fails)
    begun = runs("cuda")
    begun.begin()
    assert len(begun.going) == 1
    says = "runs are trained one at a time, since the memory of one cannot be measured: OutOfMemoryError: full"
    assert caplog.messages == [says]


def test_a_program_of_several_runs_is_closed_at_its_end(runs, monkeypatch):
    closed = []
    monkeypatch.setattr(Measured, "close", lambda stacked: closed.append(1))
    monkeypatch.setattr(together, "Stacked", Measured)
    begun = runs("cpu")
    begun.begin()
    assert not begun._train_stacked(list(begun.going.values()))  # since it cannot be called
    assert len(closed) == 1


def test_the_seconds_of_the_runs_of_a_program_add_up_to_its_time(runs, monkeypatch):
    begun, clock = runs("cpu"), iter([0.0, 12.0])
    begun.begin()
    trainers = list(begun.going.values())  # six times the same one
    trainers[0].state.seconds, trainers[0].wait = 0.0, lambda: None
    monkeypatch.setattr(Measured, "__call__", lambda stacked: None, raising=False)
    monkeypatch.setattr(together, "Stacked", Measured)
    monkeypatch.setattr(together, "time", SimpleNamespace(perf_counter=lambda: next(clock), monotonic=lambda: 0.0))
    assert begun._train_stacked(trainers)
    assert trainers[0].state.seconds == 12.0
