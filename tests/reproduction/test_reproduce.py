"""From runs to a report, and from the report back to its runs."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scripts.reproduce import parse
from src.config.errors import UserError
from src.config.paths import EVENT_FILES
from src.reproduction import check as checking
from src.reproduction import command
from src.reproduction.base import Claim, Finding, Reproduction
from src.reproduction.check import check
from src.reproduction.effects import mean
from src.reproduction.record import RECORD, read_record, restore, write_record
from src.reproduction.replay import SIMD
from src.reproduction.report import FIRST_UPDATES, make_report, write_derived_files
from src.reproduction.reproduce import commands_of, edges_of, evidence_of_runs, find, folders_of
from src.results.curves import read_curves
from src.results.result import read_result
from src.results.runs import load_runs
from tests.compose import compose, jobs_of

EXPERIMENT = "ba2016/time_to_two_percent"
QUICK = "ba2016-time-to-two-percent-quick"


@pytest.fixture
def reproduction(monkeypatch, tiny):
    """The only reproduction: an experiment of two short runs, whose learning rate is chosen on the validation set."""

    def error(evidence):
        errors = evidence.values("test/error", model="fastweights")
        return Finding(f"{errors.mean():.6f}", [mean(errors).within(most=1)])

    made = Reproduction(
        title="A title",
        experiments=(EXPERIMENT,),
        claims=(Claim("It errs.", "Section 1", "at most 1", error),),
        table=lambda evidence: evidence.runs[["model", "optimizer.lr", "seed", "test/error"]],
        quick=(*tiny, "optimizer.lr=1e-3,1e-2", "seed=0"),
        replayed=({"model": "fastweights", "seed": 0}, {"model": "lstm"}),
    )
    monkeypatch.setattr("src.reproduction.reproduce.compose", compose)
    monkeypatch.setattr("src.reproduction.reproduce.jobs_of", jobs_of)
    monkeypatch.setattr("src.reproduction.reproduce.reproductions", lambda: {"paper/table": made})
    for module in ("command", "readme"):
        monkeypatch.setattr(f"src.reproduction.{module}.reproductions", lambda: {"paper/table": made})
    return made


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder that keeps the runs and their report, which take seconds to make, for later tests."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def report(reproduction, train, tmp_path, monkeypatch, kept):
    """The report on the runs of `reproduction`, in place of a committed one."""
    folder = tmp_path / "reference" / "paper" / "table"
    if (kept / "reference").exists():
        shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    else:
        assert train("-m", f"experiment={EXPERIMENT}", f"name={QUICK}", *reproduction.quick).status == 0
        make_report("paper/table", "quick", folder)
        for name in ("outputs", "reference"):
            shutil.copytree(tmp_path / name, kept / name)
    readme = tmp_path / "README.md"
    readme.write_text("Nothing yet.\n")
    monkeypatch.setattr("src.reproduction.readme.PROJECT", tmp_path)
    monkeypatch.setattr("src.reproduction.readme.PAGES", (readme,))
    for module in ("readme", "check", "command"):
        monkeypatch.setattr(f"src.reproduction.{module}.REFERENCE", tmp_path / "reference")
    return folder


def test_a_report_has_its_numbers_and_their_provenance(report):
    runs = pd.read_csv(report / "runs.csv")
    assert len(runs) == 1, "only the learning rate that was chosen on validation counts"
    result = json.loads((Path("outputs") / QUICK / runs["run"][0] / "result.json").read_text())
    assert runs["test/error"][0] == pytest.approx(result["metrics"]["test/error"], rel=1e-6)
    curves = pd.read_csv(report / "curves.csv")
    assert curves["update"].tolist() == [0, 3, 6]
    assert curves["val/error"].min() == pytest.approx(result["metrics"]["val/error"], rel=1e-6)
    text = (report / "report.md").read_text()
    for part in (
        "# A title",
        "--budget quick",
        "It errs.",
        "inconclusive, edge",
        "one seed",
        result["provenance"]["processor"],
    ):
        assert part in text


@pytest.mark.parametrize(("days", "when"), [((1, 2), "2020-01-01 to 2020-01-02"), ((1, 1), "2020-01-01")])
def test_a_report_says_what_the_runs_were_made_with(report, days, when):
    """Also if the runs are of an unknown commit, on a GPU, or with several threads."""
    assert ", one thread per run, " in (report / "report.md").read_text()
    for day, path in zip(days, (Path("outputs") / QUICK).glob("*/result.json"), strict=True):
        content = json.loads(path.read_text())
        content["provenance"] |= {"git_commit": None, "git_dirty": None, "card": "A card", "threads": 4}
        content["provenance"]["date"] = f"2020-01-0{day}" + content["provenance"]["date"][10:]
        path.write_text(json.dumps(content | {"seconds": 1800.0}))
    make_report("paper/table", "quick", report)
    text = (report / "report.md").read_text()
    assert f"1.0 hours of training, 4 threads per run, {when}, at commit unknown, on A card (" in text


def test_a_run_that_two_experiments_have_counts_with_the_same_results_in_both(report, monkeypatch):
    """It may have been trained twice, on different machines."""
    first, again = Path("outputs") / QUICK, Path("outputs") / "again"
    shutil.copytree(first, again)
    for path in again.glob("*/result.json"):
        content = json.loads(path.read_text())
        content["metrics"]["test/error"] = 0.123
        path.write_text(json.dumps(content))
    monkeypatch.setattr("src.reproduction.reproduce.folders_of", lambda *_: {"first": first, "again": again})
    monkeypatch.setattr("src.reproduction.reproduce.runs_of", lambda *arguments: (load_runs(arguments[-1]), []))
    monkeypatch.setattr("src.reproduction.reproduce.configuration", lambda _: compose(f"experiment={EXPERIMENT}"))

    def errors():
        evidence = evidence_of_runs("paper/table", "quick")
        assert not evidence.curves.duplicated(["run", "update"]).any()
        return evidence.runs["test/error"].tolist()

    (error,) = set(errors())
    assert error != 0.123
    for path in first.glob("*/result.json"):
        path.write_text(path.read_text().replace('"status": "finished"', '"status": "interrupted"'))
    assert errors() == [0.123, 0.123], "the copy that has ended"


def test_how_many_runs_are_trained_at_a_time_can_be_told():
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    main_job, further = find("ba2016/main_job"), ["hydra.launcher.n_jobs=1"]
    assert folders_of(main_job, "full", further) == folders_of(main_job, "full")
    (command_line,) = commands_of(main_job, main_job.experiments[0], "full", further)
    assert command_line.index("hydra/launcher=joblib") < command_line.index(*further)


def test_a_report_finds_the_runs_where_they_were_told_to_go(report, capsys, tmp_path):
    shutil.move("outputs", "elsewhere")
    arguments = ["report", "paper/table", "--output", str(tmp_path / "of_elsewhere")]
    with pytest.raises(UserError, match="no run has finished"):
        command.run_command(parse(arguments))
    assert command.run_command(parse([*arguments, "run.root=elsewhere"])) == 0
    assert (tmp_path / "of_elsewhere" / "runs.csv").read_text() == (report / "runs.csv").read_text()
    shutil.rmtree("elsewhere")
    with pytest.raises(UserError, match=r"start them with: .* --budget quick run.root=elsewhere"):
        command.run_command(parse([*arguments, "run.root=elsewhere"]))


def test_if_all_runs_diverged_those_at_one_grid_point_count(report):
    for path in (Path("outputs") / QUICK).glob("*/result.json"):
        path.write_text(path.read_text().replace('"status": "finished"', '"status": "diverged"'))
    evidence = evidence_of_runs("paper/table", "quick")
    assert evidence.runs["status"].tolist() == ["diverged"], "runs at several learning rates are not several seeds"
    assert evidence.runs["grid_points"].tolist() == [2]
    assert evidence.errors(model="fastweights") == "diverged at each of 2 grid points"


def test_the_next_value_is_offered_where_the_chosen_one_is_at_an_edge(report, reproduction):
    (line,) = edges_of(reproduction, EXPERIMENT, "quick", Path("outputs") / QUICK)
    lr = pd.read_csv(report / "runs.csv")["optimizer.lr"][0]
    beyond = {0.001: "0.0001", 0.01: "0.1"}[lr]
    assert line == (
        f"{EXPERIMENT}: lr {lr:g} is at the edge of the grid, try {beyond} next; "
        "add it to optimizer.lr in the grid and run this again"
    )


def test_all_runs_are_recorded_and_can_be_restored(report, monkeypatch, tmp_path):
    before = evidence_of_runs("paper/table", "quick")
    recorded = read_record(report / RECORD)
    assert len(recorded) == 2, "also the run that was not chosen"
    provenance = json.loads((report / "provenance.json").read_text())
    assert (provenance["runs"], provenance["runs_that_count"]) == (2, 1)

    monkeypatch.chdir(tmp_path / "reference")  # as on another machine
    folder = Path("outputs") / QUICK
    assert len(restore(recorded, {folder.name: folder})) == 2
    assert not restore(recorded, {folder.name: folder}), "nothing is overwritten"
    after = evidence_of_runs("paper/table", "quick")
    pd.testing.assert_frame_equal(before.runs, after.runs)
    pd.testing.assert_frame_equal(before.curves, after.curves, rtol=1e-5)


def test_the_curves_of_restored_runs_are_exactly_those_of_the_record(report, tmp_path):
    recorded = read_record(report / RECORD)
    assert set(recorded[0].curves) == {"val/error", "val/nll"}
    # curves of other tags, at other updates, with a non-finite value
    curves = recorded[0].curves | {"train/return": {2: -1.5, 3: math.nan, 1000: 1e-7}, "train/none": {}}
    sweep = tmp_path / "restored"
    restore([recorded[0]._replace(curves=curves), recorded[1]], {QUICK: sweep})
    for run, was in zip(recorded, (curves, recorded[1].curves), strict=True):
        folder = sweep / run.run
        np.testing.assert_equal(read_curves(folder, list(was)), was)
        assert list(read_curves(folder, ["val/nll"])["val/nll"]) == [0, 3, 6]
        assert read_result(folder) == run.result
        assert not list(folder.glob(EVENT_FILES))
    without_number = run._replace(
        result=run.result | {"metrics": {"test/error": math.inf}, "floors": {"chance": {"error": math.nan}}}
    )
    write_record(sweep / RECORD, [without_number])
    assert "Infinity" not in (sweep / RECORD).read_text(), "which JSON does not have"
    (read,) = read_record(sweep / RECORD)
    assert math.isnan(read.result["metrics"]["test/error"])
    assert math.isnan(read.result["floors"]["chance"]["error"])


def test_records_of_earlier_versions_are_read(report, monkeypatch, tmp_path):
    before = evidence_of_runs("paper/table", "quick")
    recorded = read_record(report / RECORD)
    for run in recorded:
        assert run.result.pop("higher_is_better") is False
        assert run.result.pop("objective") == "error"
    write_record(tmp_path / "old.jsonl", recorded)
    monkeypatch.chdir(tmp_path / "reference")
    restore(read_record(tmp_path / "old.jsonl"), {QUICK: Path("outputs") / QUICK})
    pd.testing.assert_frame_equal(before.runs, evidence_of_runs("paper/table", "quick").runs)


def test_restored_runs_are_not_run_again(report, reproduction, train, tmp_path, monkeypatch):
    name = QUICK
    elsewhere = tmp_path / "elsewhere"
    restored = restore(read_record(report / RECORD)[:1], {name: elsewhere / name})
    command = ["-m", f"experiment={EXPERIMENT}", f"name={name}", f"run.root={elsewhere}", *reproduction.quick]
    assert train(*command).status == 0
    made = sorted(path.parent for path in (elsewhere / name).glob("*/train.log"))
    assert len(made) == 1
    assert restored[0] not in made


@pytest.mark.parametrize("needs_weights", [True, False])
def test_restored_runs_are_measured_again_where_that_takes_no_weights(
    report, reproduction, needs_weights, capsys, monkeypatch
):
    shutil.rmtree("outputs")
    assert len(restore(read_record(report / RECORD), {QUICK: Path("outputs") / QUICK})) == 2
    made = replace(
        reproduction, measure=lambda folder, runs: runs[["run"]].assign(found=1), measure_needs_weights=needs_weights
    )
    monkeypatch.setattr("src.reproduction.reproduce.reproductions", lambda: {"paper/table": made})
    evidence = evidence_of_runs("paper/table", "quick")
    assert evidence.measured["run"].tolist() == ([] if needs_weights else evidence.runs["run"].tolist())
    assert ("not measured for lack of weights: 1 restored runs" in capsys.readouterr().out) == needs_weights


def test_a_half_restored_run_is_restored_and_one_under_way_is_left_alone(report):
    shutil.rmtree("outputs")
    runs, folders = read_record(report / RECORD), {QUICK: Path("outputs") / QUICK}
    half, under_way = restore(runs, folders)
    (half / "result.json").unlink()
    (under_way / "result.json").unlink()
    (under_way / "checkpoints").mkdir()
    assert restore(runs, folders) == [half]
    assert read_result(half)["metrics"]
    assert read_result(under_way) is None


def test_a_damaged_record_is_named_in_one_line(report):
    path = report / RECORD
    path.write_text(path.read_text().splitlines()[0] + '\n{"sweep": 1\n')
    with pytest.raises(UserError, match=r"results.jsonl: line 2 is damaged"):
        read_record(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda line: line.update(run="../elsewhere"), "line 1 is damaged: run: string should match"),
        (lambda line: line.update(sweep=".."), "line 1 is damaged: sweep: string should match"),
        (lambda line: line.update(sweep="other"), f"recorded in an unknown folder, other; legal: {QUICK}"),
        (lambda line: line["result"].update(status="perfect"), "line 1 is damaged: status: input should be"),
        (lambda line: line["result"]["config"].pop("search"), "line 1 is damaged: result.config.search: field"),
        (lambda line: line["result"].pop("updates"), "line 1 is damaged: finished without updates"),
        (lambda line: line["curves"].update({"val/nll": {"first": 1}}), "line 1 is damaged: curves.val/nll"),
    ],
)
def test_nothing_is_restored_from_a_record_that_is_not_one(report, tmp_path, change, says):
    line = json.loads((report / RECORD).read_text().splitlines()[0])
    change(line)
    (tmp_path / "changed.jsonl").write_text(json.dumps(line) + "\n")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=re.escape(says)):
        restore(read_record(tmp_path / "changed.jsonl"), {QUICK: tmp_path / "restored"})
    assert sorted(tmp_path.rglob("*")) == before


def test_the_restore_command_restores_a_record(report, reproduction, capsys, monkeypatch):
    shutil.rmtree("outputs")
    monkeypatch.setattr("src.reproduction.command.folders_of", lambda *_: {EXPERIMENT: Path("outputs") / QUICK})
    assert command.run_command(parse(["restore", "paper/table"])) == 0
    assert "2 of 2 recorded runs restored" in capsys.readouterr().out
    assert len(list((Path("outputs") / QUICK).glob("*/result.json"))) == 2


def test_a_check_repeats_the_recorded_runs(report, capsys):
    found = list(check("paper/table"))
    assert len(found) == 5
    assert all(agrees for _, agrees in found), found
    assert command.run_command(parse(["check"])) == 0
    assert capsys.readouterr().out.count("agrees") == 5 + 1  # and the README


@pytest.mark.parametrize("file", ["table.csv", "claims.csv", "report.md", FIRST_UPDATES, RECORD])
def test_a_check_fails_if_something_disagrees(report, file):
    path = report / file
    if file == FIRST_UPDATES:
        curves = pd.read_csv(path)
        curves["val/nll"] += checking.TOLERANCE * 1.1
        curves.to_csv(path, index=False)
    elif file == RECORD:
        path.write_text(re.sub(r'"lr":[\d.]+', '"lr":0.3', path.read_text()))
    else:
        path.write_text(path.read_text().replace("0.", "0.1"))
    found = dict(check("paper/table"))
    assert list(found.values()).count(False) == 1, found
    assert command.run_command(parse(["check", "paper/table"])) == 1


@pytest.mark.parametrize("lost", ["the file", "all runs", "the curve", "an update", "a number"])
def test_a_check_fails_if_first_updates_are_missing(report, lost):
    path = report / FIRST_UPDATES
    recorded = pd.read_csv(path)
    if lost == "a number":
        recorded.loc[1, "val/nll"] = math.nan
    remaining = {
        "all runs": recorded[:0],
        "the curve": recorded.drop(columns="val/nll"),
        "an update": recorded[:-1],
        "a number": recorded,
    }
    if lost == "the file":
        path.unlink()
    else:
        remaining[lost].to_csv(path, index=False)
    found = dict(check("paper/table"))
    assert list(found.values()).count(False) == 1, found
    assert command.run_command(parse(["check", "paper/table"])) == 1


@pytest.mark.parametrize(
    ("simd", "point", "change", "agrees"),
    [
        (SIMD, -1, 0.05, False),
        ("another", -1, 5.0, True),
        ("another", 0, 0.05, True),
        ("another", 0, 0.2, False),
        (None, 0, 0.2, False),
    ],
)
def test_on_a_processor_that_rounds_differently_only_the_first_points_are_compared(
    report, simd, point, change, agrees, monkeypatch
):
    monkeypatch.setattr(checking, "EVERY", 0)
    path = report / FIRST_UPDATES
    recorded = pd.read_csv(path)
    assert (recorded.pop("simd") == SIMD).all()
    recorded.loc[recorded.index[point], "val/nll"] += change
    if simd:  # otherwise a record that does not say
        recorded["simd"] = simd
    recorded.to_csv(path, index=False)
    what, found = list(check("paper/table"))[-1]
    assert found == agrees
    assert (f"(recorded with another, not {SIMD})" in what) == (simd == "another")


def test_a_check_fails_if_a_replayed_run_is_not_in_the_first_updates(report):
    # the reproduction also replays an LSTM, if there is one
    runs = pd.read_csv(report / "runs.csv")
    runs = pd.concat([runs, runs.assign(run="an-lstm", model="lstm")])
    runs.to_csv(report / "runs.csv", index=False)
    write_derived_files("paper/table", report)
    found = dict(check("paper/table"))
    assert [what for what, agrees in found.items() if not agrees] == [
        f"{FIRST_UPDATES} contains all runs that are repeated except an-lstm"
    ]


def test_a_reproduction_chooses_the_curves_that_are_recorded_and_replayed(report, reproduction, monkeypatch):
    other = replace(reproduction, curves=("val/nll", "train/loss"), replayed_curve="val/error")
    monkeypatch.setattr("src.reproduction.reproduce.reproductions", lambda: {"paper/table": other})
    (run,) = pd.read_csv(report / "runs.csv")["run"]
    assert dict(check("paper/table"))[f"{FIRST_UPDATES} contains all runs that are repeated except {run}"] is False
    make_report("paper/table", "quick", report)
    assert list(pd.read_csv(report / "curves.csv")) == ["run", "update", "val/nll", "train/loss"]
    assert set(read_record(report / RECORD)[0].curves) == {"val/nll", "train/loss"}
    assert list(pd.read_csv(report / FIRST_UPDATES)) == ["update", "val/error", "run", "simd"]
    found = list(check("paper/table"))
    assert all(agrees for _, agrees in found), found
    assert "val/error within 0.0000" in found[-1][0]


def test_the_list_says_how_many_runs_have_ended(report, capsys):
    capsys.readouterr()
    assert command.run_command(parse(["list"])) == 0
    out = capsys.readouterr().out
    assert "paper/table\n    A title" in out
    assert "quick: 2 of 2 runs have ended; full: not run" in out


def test_a_list_without_runs_composes_each_experiment_once(reproduction, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    composed = []
    monkeypatch.setattr("src.reproduction.reproduce.compose", lambda *words: composed.append(words) or compose(*words))
    assert command.run_command(parse(["list"])) == 0
    assert "quick: not run; full: not run" in capsys.readouterr().out
    assert [words[0] for words in composed] == [f"experiment={name}" for name in reproduction.experiments]


def test_mistakes_are_explained(reproduction, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, says in (
        (["report", "paper/tabel"], "did you mean paper/table?"),
        (["report", "paper/table"], "no run has finished"),
        (["run", "nothing"], "legal: paper/table"),
        (["check", "paper/table"], "contains no report"),
    ):
        monkeypatch.setattr("src.reproduction.check.REFERENCE", tmp_path)
        with pytest.raises(UserError, match=says.replace("?", r"\?")):
            command.run_command(parse(arguments))


def test_the_readme_has_the_tables_of_the_committed_results(report, capsys, tmp_path):
    path = tmp_path / "README.md"
    path.write_text(
        "Before\n<!-- table paper/table -->\nstale\n<!-- end -->\nbetween\n<!-- claims paper/table -->\n<!-- end -->\n"
        "<!-- index -->\n<!-- end -->\n"
    )

    def run(*arguments):
        return command.run_command(parse(arguments))

    assert run("check") == 1
    assert "DISAGREES  README.md" in capsys.readouterr().out
    assert run("renew") == 0
    assert run("check") == 0
    text = path.read_text()
    assert "stale" not in text
    assert "| fastweights | 0.001 | 0 |" in text
    assert "| It errs. | " in text
    assert "Of 1 claims, 1 are inconclusive." in text
    assert "| [paper/table](paper/table/report.md) | A title | 1 inconclusive (1 at an edge) | 2 | 0.0 |" in text
    path.write_text(text.replace("paper/table", "paper/other"))
    with pytest.raises(UserError, match=r"paper/other -->: .* contains no report"):
        run("renew")


def test_only_runs_of_the_experiment_count(report, reproduction, train, capsys):
    """A run in the same folder with another setting is named, and counts neither in the report nor in the list."""
    before = (report / "table.csv").read_text()
    other = [f"experiment={EXPERIMENT}", f"name={QUICK}", *reproduction.quick[:-2], "optimizer.lr=1e-3", "seed=0"]
    assert train(*other, "trainer.max_updates=3").status == 0
    assert len(list(Path("outputs", QUICK).glob("*/result.json"))) == 3
    make_report("paper/table", "quick", report)
    assert re.search(r"runs with other settings do not count: fastweights8-\S+-s0-\w{8}\n", capsys.readouterr().out)
    assert (report / "table.csv").read_text() == before
    assert len(read_record(report / RECORD)) == 2
    command._list()
    assert "quick: 2 of 2 runs have ended" in capsys.readouterr().out
