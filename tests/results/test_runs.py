"""Every run of a folder is loaded, whatever its status."""

import fcntl
import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from src.config.paths import JOURNAL
from src.config.schema import SearchSettings
from src.results.manifest import read_manifest, rename_runs, trial_name, with_searched
from src.results.runs import DEFAULT_SEARCH, load_runs, search_settings, varied_settings
from src.specs import Objective
from tests.results.made_up import Folder


def test_runs_of_every_status_are_loaded_in_sweep_order(folder):
    folder.add(seed=3, val=0.25, test=0.26)
    folder.add(seed=2, status="diverged", reason="the gradient is not finite")
    folder.add(seed=1, status="failed", reason="RuntimeError: broken")
    folder.add(seed=0, status=None)
    killed = folder.add(seed=5, status=None)
    in_progress = folder.add(seed=6, status=None)
    folder.expect_all()
    for name in (killed, in_progress):
        (folder.path / name).mkdir()
        (folder.path / name / ".lock").write_text("123")
    with open(folder.path / in_progress / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        runs = load_runs(folder.path)
    assert varied_settings(runs) == ["seed"]
    assert [(run.settings["seed"], run.status, run.reason) for run in runs] == [
        (3, "finished", ""),
        (2, "diverged", "the gradient is not finite"),
        (1, "failed", "RuntimeError: broken"),
        (0, "missing", ""),
        (5, "interrupted", "ended without a result"),
        (6, "running", ""),
    ]
    assert [run.finished for run in runs] == [True] + [False] * 5
    assert [run.ended for run in runs] == [True, True] + [False] * 4
    first = runs[0]
    assert (first.metrics["val/error"], first.metrics["test/error"]) == (0.25, 0.26)
    assert (first.updates, first.selected_update, first.seconds) == (100, 90, 1.25)
    assert (first.num_parameters, first.state_size, first.name) == (7, 5, "lstm50-lr0.01-s3")
    assert first.floors == {"chance": {"error": 0.9, "nll": 2.3}}
    assert all(run.metrics == {} for run in runs[2:])


def test_runs_are_found_at_any_depth_and_sorted_by_the_numbers_in_their_names(folder):
    for width in (100, 20, 3):
        folder.add(width=width)
    assert [run.name for run in load_runs(folder.path.parent)] == [
        f"made-up/lstm{width}-lr0.01-s0" for width in (3, 20, 100)
    ]
    assert load_runs(folder.path / "nothing") == []


def test_a_result_that_is_being_written_does_not_count(folder):
    name = folder.add()
    (folder.path / name / "result.json").write_text('{"status": "fini')
    folder.expect_all()
    assert [run.status for run in load_runs(folder.path)] == ["missing"]


def test_a_configuration_that_is_being_written_does_not_prevent_loading_other_runs(folder):
    name = folder.add(seed=7, val=0.25)
    result = json.loads((folder.path / name / "result.json").read_text())
    started = folder.path / "started"
    (started / ".hydra").mkdir(parents=True)
    text = OmegaConf.to_yaml(OmegaConf.create(result["config"]))
    whole = None
    for length in range(len(text) + 1):
        (started / ".hydra" / "config.yaml").write_text(text[:length])
        first, second = load_runs(folder.path)
        assert first.metrics["val/error"] == 0.25
        assert second.status == "missing"
        whole = second.settings
    assert whole == first.settings


def test_runs_outside_the_manifest_come_after_those_in_it(folder):
    folder.add(seed=9)
    folder.expect_all()
    folder.add(seed=1)
    assert [run.settings["seed"] for run in load_runs(folder.path)] == [9, 1]
    assert [run.settings["seed"] for run in load_runs(folder.path, folder.expected)] == [9, 1]
    only = {name: settings for name, settings in folder.expected.items() if settings["seed"] == 1}
    assert [run.settings["seed"] for run in load_runs(folder.path, only)] == [1]


def test_search_settings_are_read_from_the_manifest_or_else_from_a_result(folder):
    name = folder.add()
    runs = load_runs(folder.path)
    assert search_settings(folder.path, runs) == folder.search
    config = json.loads((folder.path / name / "result.json").read_text())["config"]
    other = {"grid": ["model.decay"], "repeated": [], "columns": ["seed"], "two_stage": True}
    folder.change(name, config=config | {"search": other})
    assert search_settings(folder.path, runs).grid == ["model.decay"]
    folder.expect_all(two_stage=True)
    assert read_manifest(folder.path).search == search_settings(folder.path, runs)
    assert search_settings(folder.path, runs).two_stage is True
    assert search_settings(folder.path, runs).grid == ["optimizer.lr"]
    assert search_settings(folder.path / "nothing", []) == DEFAULT_SEARCH


def test_a_run_knows_the_metric_it_was_selected_on_and_its_direction(folder):
    folder.add(val=-3.0, test=-2.5, objective="return", higher_is_better=True)
    (run,) = load_runs(folder.path)
    assert run.objective == Objective("return", higher_is_better=True)
    assert run.objective_tag == "val/return"
    assert run.validation_objective == -3.0


@pytest.mark.parametrize("status", ["diverged", "failed", "missing"])
def test_only_a_finished_run_has_a_validation_objective(folder, status):
    folder.add(val=0.1, status=None if status == "missing" else status)
    folder.expect_all()
    (run,) = load_runs(folder.path)
    assert run.status == status
    assert run.validation_objective is None


def test_the_results_of_earlier_versions_are_read(folder):
    name = folder.add(val=0.25)
    folder.change(name, higher_is_better=None)
    (run,) = load_runs(folder.path)
    assert run.objective == Objective("error", higher_is_better=False)
    assert run.validation_objective == 0.25

    # the oldest results do not name their objective either: it is the error, or else the first metric
    folder.change(name, objective=None)
    assert load_runs(folder.path)[0].objective == Objective("error")
    folder.change(name, metrics={"val/mse": 0.5, "val/nll": 2.0, "test/mse": 0.75})
    (run,) = load_runs(folder.path)
    assert (run.objective, run.validation_objective) == (Objective("mse"), 0.5)


def test_a_run_in_two_folders_counts_once(tmp_path, caplog):
    """The same sweep under two names, in a report on the folder above; a copy that has ended is preferred."""
    for name in ("x", "y"):
        made = Folder(tmp_path / name)
        for seed in (0, 1):
            run = made.add(seed=seed)
            (tmp_path / name / run).rename(tmp_path / name / f"{run}-0123456{seed}")
    Folder(tmp_path / "x").change("lstm50-lr0.01-s1-01234561", status="interrupted")
    runs = load_runs(tmp_path)
    assert [run.name for run in runs] == ["x/lstm50-lr0.01-s0-01234560", "y/lstm50-lr0.01-s1-01234561"]
    assert [record.message for record in caplog.records] == [
        f"lstm50-lr0.01-s{seed}-0123456{seed} is in x and y, and counts once" for seed in (0, 1)
    ]


def test_a_run_also_in_a_folder_with_a_name_of_the_users_own_counts_once(tmp_path, caplog):
    """As with `hydra.run.dir=chosen`: the fingerprint in its result identifies the run."""
    for path in ("chosen", "again", "other", "x/lstm50-lr0.01-s0-01234560"):
        made = Folder((tmp_path / path).parent)
        made.path.joinpath(made.add()).rename(tmp_path / path)
        made.change(Path(path).name, fingerprint="89abcdef" if path == "other" else "01234560")
    assert [run.name for run in load_runs(tmp_path)] == ["other", "x/lstm50-lr0.01-s0-01234560"]
    (record,) = caplog.records
    assert record.message == "lstm50-lr0.01-s0-01234560 is in x and again and chosen, and counts once"


def test_a_result_of_another_run_does_not_count(folder):
    run = folder.add()
    renamed = (folder.path / run).rename(folder.path / f"{run}-01234567")
    result = json.loads((renamed / "result.json").read_text())
    (renamed / "result.json").write_text(json.dumps(result | {"fingerprint": "89abcdef"}))
    (found,) = load_runs(folder.path)
    assert (found.status, found.reason) == ("missing", "its result belongs to another run (89abcdef)")


def test_what_was_searched_stays_searched_unless_it_has_another_role_now(folder):
    folder.expect_all(grid=["model", "optimizer.lr", "task"])
    plan = SearchSettings(grid=["seed"], repeated=["model"], columns=["task"], two_stage=False)
    assert with_searched(plan, folder.path) == plan  # for a sweep, which has a grid of its own
    (folder.path / JOURNAL).touch()
    assert with_searched(plan, folder.path).grid == ["optimizer.lr", "seed"]


def test_the_names_of_trials_are_in_the_order_of_their_sweep(folder):
    names = [folder.add(seed=seed, status=None) for seed in range(11)]
    folder.expect_all()
    trials = [trial_name(folder.path / name, "2bec7a16") for name in names]
    assert (trials, trials[7]) == (sorted(trials), "07 2bec7a16")
    assert trial_name(folder.path / "other", "2bec7a16") == "2bec7a16"


def test_renamed_runs_keep_their_place_and_a_failure_keeps_the_manifest(folder, monkeypatch):
    rename_runs(folder.path, {"a": "b"})
    assert not (folder.path / "sweep.json").exists()
    names = [folder.add(seed=seed, val=0.25, test=0.26) for seed in range(3)]
    folder.expect_all()
    before = read_manifest(folder.path)
    rename_runs(folder.path, {names[1]: "new"})
    after = read_manifest(folder.path)
    assert (list(after.runs), after.search) == ([names[0], "new", names[2]], before.search)
    assert after.runs["new"] == before.runs[names[1]]

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("src.results.manifest.write_whole", full)
    with pytest.raises(OSError, match="no space"):
        rename_runs(folder.path, {"new": "other"})
    assert read_manifest(folder.path) == after
