"""A search spends its budget once, whatever happens, on the points that its seed determines."""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from pathlib import Path

import optuna
import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from src.config.errors import UserError, explain
from src.config.fingerprint import run_name
from src.config.paths import JOURNAL, PROJECT
from src.results.manifest import read_manifest
from src.running.load import read_config
from src.specs import Objective
from src.sweeping.search import Options, proposal, search, split
from src.sweeping.trial import NOTHING, Pruning, id_of, run_trial, storage_of, workers
from src.tasks.associative_retrieval import AssociativeRetrieval
from src.training.trainer import Trainer
from src.utils import supervisor
from tests.compose import compose

LR = "optimizer.lr=tag(log, interval(1e-4, 1e-2))"
WIDTH = "model.hidden_size=choice(4, 8)"


@pytest.fixture
def look(monkeypatch, tmp_path, tiny):
    """Run a short search in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("src.sweeping.trial.compose", compose)
    settings = [item for item in tiny if "hidden_size" not in item]

    def run(*ranges, trials=2, **options):
        torch.set_num_threads(1)
        return search(["name=s", "model=irnn", *settings, *ranges], Options(trials=trials, **options))

    return run


@pytest.fixture
def trained(monkeypatch):
    """The update at which each training starts, in order."""
    starts = []
    original = Trainer.updates

    def recorded(trainer, *arguments):
        starts.append(trainer.state.update)
        return original(trainer, *arguments)

    monkeypatch.setattr(Trainer, "updates", recorded)
    return starts


def rows():
    with open("outputs/s/summary.csv") as file:
        return [row | {"seconds": ""} for row in csv.DictReader(file)]


def ended(overrides, study):
    """Stands in for `run_trial`: the objective is the value of the last setting, or 0.5 if that is False."""
    _, _, value = overrides[-1].partition("=")
    return NOTHING | {"status": "finished", "objective": 0.5 if value == "False" else float(value)}


def studies():
    storage = storage_of(Path("outputs/s"))
    return [optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)]


def test_ranges_are_in_the_notation_of_hydra():
    fixed, space = split(
        [
            "model=lstm", LR, WIDTH, "a=interval(0, 1)", "b=int(interval(1, 5))", "c=range(1, 8, 3)", "d=x,y",
            "e=[1,2]", "f=int(tag(log, interval(2, 64)))", "++g=interval(0, 1)",
        ]
    )  # fmt: skip
    assert fixed == ["model=lstm", "e=[1,2]"]
    assert space == {
        "optimizer.lr": FloatDistribution(1e-4, 1e-2, log=True),
        "model.hidden_size": CategoricalDistribution(["4", "8"]),
        "a": FloatDistribution(0.0, 1.0),
        "b": IntDistribution(1, 5),
        "c": CategoricalDistribution(["1", "4", "7"]),
        "d": CategoricalDistribution(["x", "y"]),
        "f": IntDistribution(2, 64, log=True),
        "g": FloatDistribution(0.0, 1.0),
    }


def test_a_random_point_depends_only_on_the_seed_and_its_number():
    _, space = split([LR, WIDTH])
    points = [proposal(space, 0, index) for index in range(40)]
    assert points[7] == proposal(space, 0, 7)
    assert points[7] != proposal(space, 1, 7)
    assert len({point["optimizer.lr"] for point in points}) == 40
    assert all(1e-4 <= point["optimizer.lr"] <= 1e-2 for point in points)
    below = sum(point["optimizer.lr"] < 1e-3 for point in points)
    assert 10 < below < 30  # about half, on a logarithmic scale
    assert {point["model.hidden_size"] for point in points} == {"4", "8"}


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ([], "nothing to search"),
        (["seed=0,1"], "seed is in search.repeated, so it cannot be searched"),
        (["optimizer.lrr=interval(0,1)"], "optimizer.lrr"),
        (["optimizer.lr=tag(log, interval(0, 1))"], "a logarithmic interval must be above 0"),
        (["optimizer.lr=interval(1, 0)"], "an interval needs two finite ends, the lower one first"),
        (["optimizer.lr=interval(0, inf)"], "optimizer.lr=interval(0, inf): an interval needs two finite ends"),
        (["seed=range(0,0)"], "seed=range(0,0): gives no values"),
        (["model.hidden_size=range(1,2,0)"], "model.hidden_size=range(1,2,0): range() arg 3 must not be zero"),
        (["optimizer.lr=tag(lgo, interval(1e-4, 1e-2))"], "tag lgo has no effect; legal: log, of an interval"),
        (["model.hidden_size=tag(log, range(1, 9))"], "tag log has no effect; legal: log, of an interval"),
        (["optimizer=glob(*)"], "optimizer=glob(*): glob works only in sweeps; list the values, as in choice(a, b)"),
        ([LR, "search.columns=[nokey]"], "search.columns=[nokey]: no run has this setting"),
        (["optimizer.lr=interval(-1, 1)"], "optimizer.lr=-1.0: must be a number, at least 0"),
        (
            [WIDTH, "search.columns=[model.hidden_size]"],
            "model.hidden_size is in search.columns, so it cannot be searched",
        ),
        ([LR, "optimizer.lr=1e-3"], "(log, interval(1e-4, 1e-2)): optimizer.lr is given twice"),
        (["++optimizer.lr=1e-3", LR], "optimizer.lr is given twice"),
        ([LR, "run.fresh=true"], "set another name= to start over"),
        ([LR, "run.root=choice(a,b)"], "run.root: does not change the result of a run"),
        (["note=choice(a,b)"], "note: does not change the result of a run"),
        (["name=choice(a,b)"], "name is given twice"),
        (["task=choice(addition,copying)"], "task cannot be searched"),
        (["++run.together=1", LR], "run.together: has no effect in a search; --workers"),
        (["optimizer=choice(adam,adm)"], "optimizer=adm does not exist; did you mean adam?"),
        (["optimizer=choice(rmsprop,adam)", "optimizer.momentum=interval(0,1)"], "optimizer.momentum is not a setting"),
        ([LR, "hydra/launcher=joblib"], "hydra/launcher: has no effect in a search; --workers"),
        ([LR, "run.together=4"], "run.together: has no effect in a search; --workers"),
        ([LR, "run.retry_failed=true"], "run.retry_failed: has no effect in a search"),
        ([WIDTH, "search.columns=[optimizer.lr]"], "search.grid and search.columns both list optimizer.lr"),
    ],
)
def test_a_mistake_is_found_before_a_folder_is_created(look, ranges, message):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - in one line by src.config.errors
        look(*ranges)
    assert message in explain(caught.value)
    assert not Path("outputs").exists()


def test_the_runs_of_a_search_have_cores_for_all_of_their_threads(look, monkeypatch):
    monkeypatch.setattr("src.sweeping.search.num_cores", lambda: 4)
    with pytest.raises(UserError, match=r"^--workers 3: must be at most 2, with 4 cores here and trainer\.threads=2$"):
        look(LR, "trainer.threads=2", workers=3)
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_a_trial_that_was_never_begun_is_no_failure(look):
    assert look(LR, trials=2) == 0
    (study,) = studies()
    study.ask()  # as if killed before it drew its settings
    assert look(LR, trials=2) == 0
    assert look(LR, trials=3) == 0


@pytest.mark.slow
def test_a_sweep_in_the_folder_of_a_search_keeps_what_was_searched(look, train, tiny):
    assert look(LR, WIDTH, trials=2) == 0
    chosen = rows()[0]
    settings = [item for item in tiny if "hidden_size" not in item]
    fixed = [f"optimizer.lr={chosen['optimizer.lr']}", f"model.hidden_size={chosen['model.hidden_size']}"]
    assert train("-m", "name=s", "model=irnn", *settings, *fixed, "seed=0,1").status == 0
    assert read_manifest(Path("outputs/s")).search.grid == ["optimizer.lr", "model.hidden_size"]


def test_the_budget_is_spent_once_and_can_be_raised(look, trained):
    assert look(LR, WIDTH, trials=2) == 0
    assert trained == [0, 0]
    table = rows()
    _, space = split([LR, WIDTH])
    for index, row in enumerate(table):
        drawn = proposal(space, 0, index)
        assert (float(row["optimizer.lr"]), row["model.hidden_size"]) == tuple(drawn[key] for key in space)
        assert row["status"] == "finished"
        assert (Path("outputs/s") / row["run"] / ".hydra" / "config.yaml").exists()
        assert "starts" in (Path("outputs/s") / row["run"] / "train.log").read_text()
    (study,) = studies()
    assert [trial.value for trial in study.trials] == [float(row["val/error"]) for row in table]

    assert look(LR, WIDTH, trials=2) == 0
    assert len(trained) == 2
    assert rows() == table
    assert look(LR, WIDTH, trials=3) == 0
    assert len(trained) == 3
    assert rows()[:2] == table


def test_a_search_that_resumes_proposes_what_an_uninterrupted_one_does(look, monkeypatch):
    def proposed():
        (study,) = studies()
        return [trial.params["optimizer.lr"] for trial in study.trials]

    monkeypatch.setattr("src.sweeping.search.run_trial", ended)
    for trials in (2, 4, 12):
        look(LR, sampler="tpe", trials=trials)
    resumed = proposed()
    assert len(set(resumed)) == 12
    Path("outputs").rename("before")
    look(LR, sampler="tpe", trials=12)
    assert proposed() == resumed


def test_a_home_folder_or_an_environment_variable_may_be_the_root(look, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    for root, folder in (("~/x", "home/x"), ("${oc.env:OUT}", "out")):
        assert look(LR, f"run.root={root}", trials=1) == 0
        (run,) = (path.parent for path in (tmp_path / folder / "s").glob("*/result.json"))
        assert read_config(run).run.root == str(tmp_path / folder)


def test_an_interrupted_trial_resumes_with_the_same_settings(look, trained, monkeypatch):
    original = Trainer.do_update

    def interrupted(trainer):
        original(trainer)
        if trainer.state.update == 4 and len(trained) == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "do_update", interrupted)
        assert look(LR) == 130
    assert [row["status"] for row in rows()] == ["finished", "interrupted"]
    assert look(LR) == 0
    assert trained == [0, 0, 4]
    resumed = rows()
    (study,) = studies()
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2
    Path("outputs").rename("before")
    assert look(LR) == 0
    assert rows() == resumed


def test_ctrl_c_while_a_trial_finishes_ends_the_search_after_it(look, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("src.running.lifecycle.show_examples", lambda *_: signal.raise_signal(signal.SIGINT))
        assert look(LR) == 130
    assert [row["status"] for row in rows()] == ["finished"]
    assert look(LR) == 0
    assert [row["status"] for row in rows()] == ["finished"] * 2


def test_half_a_record_at_the_end_of_the_journal_is_left_out(look):
    assert look(LR, trials=1) == 0
    (journal,) = Path("outputs").rglob(JOURNAL)
    whole = journal.read_bytes()
    with open(journal, "ab") as file:
        file.write(whole.splitlines()[-1][:20])
    assert look(LR) == 0
    assert [row["status"] for row in rows()] == ["finished"] * 2
    assert journal.read_bytes().startswith(whole)


def test_a_damaged_journal_is_kept_up_to_the_damage_and_the_runs_are_found_again(look, trained, caplog):
    assert look(LR) == 0
    (journal,) = Path("outputs").rglob(JOURNAL)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:-1], b"[1]\n", *lines[-1:]]))
    assert look(LR) == 0
    assert f"{journal} is damaged from line {len(lines)} on" in caplog.text
    assert len(trained) == 2
    (study,) = studies()
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2
    journal.write_text("{}\n")
    with pytest.raises(UserError, match=rf"{journal} is damaged \(KeyError: 'op_code'\); remove it"):
        look(LR)
    journal.unlink()
    assert look(LR) == 0
    assert len(trained) == 2


def test_ctrl_c_is_passed_on_to_workers_which_take_it_in_a_trial_even_if_it_came_before():
    told = []

    def interrupted():
        with workers(2, here=False) as start:
            told.append(start(signal.sigtimedwait, [signal.SIGINT], 60))
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert told[0].result().si_signo == signal.SIGINT
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    signal.raise_signal(signal.SIGINT)
    assert run_trial([], None)["status"] == "interrupted"
    assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def test_failed_and_diverged_trials_count_toward_the_budget(look, trained, monkeypatch):
    original = Trainer.do_update

    def fails(trainer):
        if len(trained) == 1:
            raise RuntimeError("broken on purpose")
        if len(trained) == 2:
            trainer.update.gradient.fill_(math.nan)
            trainer.update.weights.data.fill_(math.nan)
        original(trainer)

    monkeypatch.setattr(Trainer, "do_update", fails)
    assert look(LR, trials=3) == 1
    assert [row["status"] for row in rows()] == ["failed", "diverged", "finished"]
    (study,) = studies()
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert study.trials[1].value == math.inf
    assert study.best_trial.number == 2
    assert study.trials[0].user_attrs["reason"] == "RuntimeError: broken on purpose"
    assert look(LR, trials=3) == 1
    assert len(trained) == 3
    assert "RuntimeError: broken on purpose" in Path("outputs/s/summary.md").read_text()


def test_an_illegal_value_in_a_range_is_a_failed_trial_and_the_others_go_on(look, trained, capsys):
    pairs = "task.num_pairs=choice(2, 40)"
    drawn = [proposal(split([pairs])[1], 0, index)["task.num_pairs"] for index in range(6)]
    assert set(drawn) == {"2", "40"}
    assert look(pairs, trials=6) == 1
    assert len(trained) == 1  # the same run each time
    (study,) = studies()
    states = {"2": TrialState.COMPLETE, "40": TrialState.FAIL}
    assert [trial.state for trial in study.trials] == [states[value] for value in drawn]
    reason = "task.num_pairs=40: must be an integer, at least 1, at most 26"
    assert study.trials[drawn.index("40")].user_attrs["reason"] == reason
    assert reason in capsys.readouterr().out
    assert look(pairs, trials=6) == 1
    assert len(trained) == 1


def test_a_trial_that_does_not_compose_fails_and_the_others_go_on(look, trained, capsys):
    kernels = """model.kernel=choice(auto, "\\"a'")"""
    assert look(kernels, trials=4) == 1
    (study,) = studies()
    states = [TrialState.FAIL if "'" in trial.params["model.kernel"] else TrialState.COMPLETE for trial in study.trials]
    assert len(set(states)) == 2
    assert [trial.state for trial in study.trials] == states
    assert look(kernels, trials=4) == 1
    assert len(trained) == 1


def test_a_trial_with_another_objective_fails(look, monkeypatch):
    monkeypatch.setattr("src.sweeping.search.run_trial", ended)
    patterns = "task.real_patterns=choice(false,true)"
    assert look("task=variable_binding", patterns, trials=4) == 1
    (study,) = studies()
    states = {"False": TrialState.COMPLETE, "True": TrialState.FAIL}
    values = [trial.params["task.real_patterns"] for trial in study.trials]
    assert set(values) == set(states)
    assert [trial.state for trial in study.trials] == [states[value] for value in values]
    failed = study.trials[values.index("True")]
    assert failed.user_attrs["reason"] == "its objective is mse, that of this search is error"


def test_where_a_higher_objective_is_better_a_diverged_trial_is_the_worst(look, monkeypatch):
    monkeypatch.setattr(AssociativeRetrieval, "objective", Objective("return", higher_is_better=True))
    trials = iter([("finished", 1.0), ("diverged", math.nan), ("finished", 2.0)])

    def made_up(*_):
        status, objective = next(trials)
        return NOTHING | {"status": status, "objective": objective}

    monkeypatch.setattr("src.sweeping.search.run_trial", made_up)
    look(LR, trials=3)
    (study,) = studies()
    assert [trial.value for trial in study.trials] == [1.0, -math.inf, 2.0]
    assert study.best_value == 2.0


def test_a_trial_whose_folder_is_locked_for_ever_or_holds_another_run_fails(look, composed, tiny, capsys):
    for width in (4, 8):
        folder = Path("outputs/s", run_name(composed("model=irnn", *tiny, f"model.hidden_size={width}")))
        (folder / ".lock").mkdir(parents=True)
    (folder / ".lock").rmdir()
    other = {"status": "failed", "reason": "", "metrics": {}, "config": {}, "fingerprint": "00000000"}
    (folder / "result.json").write_text(json.dumps(other))
    assert look(WIDTH, trials=4) == 1
    said = capsys.readouterr().out
    assert "failed, " in said
    assert ".lock: Is a directory" in said
    assert f"{folder} holds another run (00000000, this is " in said
    (study,) = studies()
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 4


def test_a_finished_run_is_proposed_again_after_the_process_that_looked_at_it_has_died(look, monkeypatch):
    rates = "optimizer.lr=choice(0.1,0.01)"
    drawn = [proposal(split([rates])[1], 2, index)["optimizer.lr"] for index in range(4)]
    assert drawn == ["0.1", "0.1", "0.01", "0.1"]
    assert look(rates, trials=2, seed=2) == 0
    (path,) = Path("outputs/s").glob("*/result.json")
    before = path.read_text()
    death = supervisor.Death(os.getpid(), "it died")
    monkeypatch.setattr(supervisor, "_deaths", [death])
    monkeypatch.setattr(supervisor, "_explained", {death})
    assert look(rates, trials=4, seed=2) == 0
    assert path.read_text() == before


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_trial_whose_folder_cannot_be_written_fails_and_the_others_go_on(look, workers, capsys):
    assert look(WIDTH, "seed=5", trials=2) == 0
    (name, *others) = sorted(path.parent.name for path in Path("outputs/s").glob("*/result.json"))
    shutil.rmtree("outputs/s")
    Path("outputs/s").mkdir()
    Path("outputs/s", name).write_text("a file")
    capsys.readouterr()
    assert look(WIDTH, "seed=5", trials=2, workers=workers) == 1
    said = capsys.readouterr().out
    assert f"failed, outputs/s/{name}/.hydra: Not a directory" in said
    assert [path.parent.name for path in Path("outputs/s").glob("*/result.json")] == others


def test_a_trial_whose_process_dies_fails_and_the_others_go_on(look, trained, monkeypatch):
    def in_a_pool(number, here):
        def start(function, overrides, study):
            future = Future()
            if "model.hidden_size=8" in overrides:
                future.set_exception(BrokenProcessPool())
            else:
                future.set_result(function(overrides, study))
            return future

        return nullcontext(start)

    monkeypatch.setattr("src.sweeping.search.workers", in_a_pool)
    assert look(WIDTH, LR, trials=4, workers=2) == 1
    (study,) = studies()
    widths = [trial.params["model.hidden_size"] for trial in study.trials]
    assert set(widths) == {"4", "8"}
    states = {"4": TrialState.COMPLETE, "8": TrialState.FAIL}
    assert [trial.state for trial in study.trials] == [states[width] for width in widths]


def test_a_pruned_run_is_shown_with_its_reason_and_not_resumed(look, trained, monkeypatch):
    monkeypatch.setattr(
        "optuna.pruners.MedianPruner", lambda **_: optuna.pruners.ThresholdPruner(upper=0, n_warmup_steps=3)
    )
    assert look(LR, prune=True, sampler="tpe") == 0
    assert [(row["status"], row["reason"]) for row in rows()] == [
        ("interrupted", "pruned at update 3: worse than the median of the other trials at that update")
    ] * 2
    (study,) = studies()
    assert [trial.state for trial in study.trials] == [TrialState.PRUNED] * 2
    assert look(LR, prune=True, sampler="tpe") == 0
    assert len(trained) == 2


def test_pruning_compares_with_the_median_of_the_other_trials(tmp_path):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=storage_of(tmp_path), study_name="study")
    for value in (0.1, 0.2, 0.3, 0.4):
        trial = study.ask()
        for update in (0, 100, 200):
            trial.report(value, update)
        study.tell(trial, value)
    better, worse = (Pruning(tmp_path, "study", id_of(study.ask()), first_update=100) for _ in range(2))
    assert [better(update, 0.24) for update in (0, 100, 200)] == [None] * 3
    assert worse(0, 0.26) is None
    assert worse(100, 0.26).startswith("pruned at update 100")


def test_a_run_that_is_resumed_before_what_it_has_told_tells_it_once(tmp_path, recwarn):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    number = id_of(optuna.create_study(storage=storage_of(tmp_path), study_name="study").ask())
    for updates in ((0, 100), (100, 200)):  # killed after the second evaluation, resumed from before it
        run = Pruning(tmp_path, "study", number, first_update=0)
        assert [run(update, update / 1000) for update in updates] == [None, None]
    (trial,) = optuna.load_study(study_name="study", storage=storage_of(tmp_path)).trials
    assert trial.intermediate_values == {0: 0.0, 100: 0.1, 200: 0.2}
    assert not recwarn.list


@pytest.mark.slow
def test_searches_in_one_folder_are_compared(look, trained):
    assert look(LR) == 0
    assert look(LR, "model=rnn") == 0
    assert len(studies()) == 2
    assert [row["model"] for row in rows()] == ["irnn", "irnn", "rnn", "rnn"]
    selection = Path("outputs/s/summary.md").read_text().partition("## Runs")[0]
    assert [line.split(" | ")[0] for line in selection.splitlines() if line.startswith("| ")][2:] == ["| irnn", "| rnn"]


def test_a_search_with_another_sampler_or_seed_is_another_one(look, monkeypatch):
    monkeypatch.setattr("src.sweeping.search.run_trial", ended)
    for options in ({}, {"seed": 1}, {"sampler": "tpe"}, {"seed": 1}):
        look(LR, trials=1, **options)
    assert [len(study.trials) for study in studies()] == [1, 1, 1]


@pytest.mark.slow
def test_what_another_search_in_the_folder_compares_is_not_searched(look):
    assert look(LR, WIDTH, trials=1) == 0
    assert look(LR, "model.hidden_size=5", "search.columns=[model.hidden_size]", trials=1) == 0
    plan = read_manifest(Path("outputs/s")).search
    assert (plan.grid, plan.columns) == (["optimizer.lr"], ["model.hidden_size"])
    plan.check_roles()


@pytest.mark.slow
def test_a_killed_search_with_two_workers_ends_like_an_uninterrupted_one(tmp_path, tiny):
    settings = [item for item in tiny if "hidden_size" not in item and "max_updates" not in item]
    command = [sys.executable, str(PROJECT / "scripts" / "search.py"), "model=irnn", LR, WIDTH, *settings]
    command += ["trainer.max_updates=600", "trainer.checkpoint_every=100", "--trials", "5", "--workers", "2"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    quiet["env"] = os.environ | {"PYTHONPATH": str(PROJECT)}

    def results(name):
        return len(list(tmp_path.glob(f"outputs/{name}/*/result.json")))

    for least in (1, 3):
        process = subprocess.Popen([*command, "name=killed"], **quiet)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if results("killed") >= least and list(tmp_path.glob("outputs/killed/*/checkpoints/*")):
                break
            time.sleep(0.02)
        assert process.poll() is None
        process.kill()
        process.wait()
        time.sleep(1)
    for name in ("killed", "calm"):
        assert subprocess.run([*command, f"name={name}"], **quiet).returncode == 0
    killed, calm = (
        sorted(
            (path.parent.name, path.read_text().partition('"fingerprint"')[0])
            for path in tmp_path.glob(f"outputs/{name}/*/result.json")
        )
        for name in ("killed", "calm")
    )
    assert len(calm) == 5
    assert killed == calm
