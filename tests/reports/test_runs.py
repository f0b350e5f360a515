"""All runs of a folder are in the table, whatever became of them."""

import fcntl

import pandas as pd

from src.reports.runs import load_runs, search_settings, varied_settings


def test_every_kind_of_run_has_a_row_in_the_order_of_the_sweep(folder):
    folder.add(seed=3, val=0.25, test=0.26)
    folder.add(seed=2, status="diverged", reason="the gradient is not finite")
    folder.add(seed=1, status="failed", reason="RuntimeError: broken")
    folder.add(seed=0, status=None)
    killed = folder.add(seed=5, status=None)
    at_work = folder.add(seed=6, status=None)
    folder.expect_all()
    for name in (killed, at_work):
        (folder.path / name).mkdir()
        (folder.path / name / ".lock").write_text("123")
    with open(folder.path / at_work / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        runs = load_runs(folder.path)
    assert varied_settings(runs) == ["seed"]
    assert list(zip(runs["seed"], runs["status"], runs["reason"], strict=True)) == [
        (3, "finished", ""),
        (2, "diverged", "the gradient is not finite"),
        (1, "failed", "RuntimeError: broken"),
        (0, "missing", ""),
        (5, "interrupted", "ended without a result"),
        (6, "running", ""),
    ]
    first = runs.iloc[0]
    assert (first["val/error"], first["test/error"], first["updates"], first["seconds"]) == (0.25, 0.26, 100, 1.25)
    assert (first["num_parameters"], first["state_size"], first["run"]) == (7, 5, "lstm50-lr0.01-s3")
    assert runs.loc[2:, "val/error"].isna().all()


def test_runs_are_found_at_any_depth_and_sorted_by_their_numbers(folder):
    for width in (100, 20, 3):
        folder.add(width=width)
    runs = load_runs(folder.path.parent)
    assert list(runs["run"]) == [f"made-up/lstm{width}-lr0.01-s0" for width in (3, 20, 100)]
    assert load_runs(folder.path / "nothing").empty


def test_a_result_that_is_being_written_is_no_result(folder):
    name = folder.add()
    (folder.path / name / "result.json").write_text('{"status": "fini')
    folder.expect_all()
    assert list(load_runs(folder.path)["status"]) == ["missing"]


def test_runs_beside_those_of_the_manifest_come_after_them(folder):
    folder.add(seed=9)
    folder.expect_all()
    folder.add(seed=1)
    assert list(load_runs(folder.path)["seed"]) == [9, 1]
    assert list(load_runs(folder.path, folder.expected)["seed"]) == [9, 1]


def test_the_search_is_the_manifests_else_that_of_a_result(folder):
    folder.add()
    runs = load_runs(folder.path)
    assert search_settings(folder.path, runs)["two_stage"] is False
    folder.expect_all(two_stage=True)
    assert search_settings(folder.path, runs)["two_stage"] is True
    assert isinstance(runs, pd.DataFrame)
