"""From runs to a report, and from the report back to its runs."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from src.errors import UserError
from src.papers import check as checking
from src.papers import command
from src.papers.base import Claim, Finding, Reproduction
from src.papers.check import check
from src.papers.record import RECORD, read_record, restore
from src.papers.report import make_report
from src.papers.reproduce import evidence_of_runs

EXPERIMENT = "ba2016/time_to_two_percent"
QUICK = "ba2016-time-to-two-percent-quick"


@pytest.fixture
def reproduction(monkeypatch, tiny):
    """An experiment of three short runs, the learning rate chosen on validation, as the only reproduction."""

    def error(evidence):
        errors = evidence.values("test/error", model="fastweights")
        return Finding(f"{errors.mean():.6f}", bool(errors.mean() <= 1))

    made = Reproduction(
        title="A title",
        experiments=(EXPERIMENT,),
        claims=(Claim("It errs.", "Section 1", "at most 1", error),),
        table=lambda evidence: evidence.runs[["model", "optimizer.lr", "seed", "test/error"]],
        quick=(*tiny, "optimizer.lr=1e-3,1e-2", "seed=0"),
        checked=({"model": "fastweights", "seed": 0}, {"model": "lstm"}),
    )
    monkeypatch.setattr("src.papers.reproduce.reproductions", lambda: {"paper/table": made})
    monkeypatch.setattr("src.papers.command.reproductions", lambda: {"paper/table": made})
    return made


@pytest.fixture
def report(reproduction, train, tmp_path, monkeypatch):
    """Its runs, their report, and that report in the place of the committed one."""
    name = f"name={QUICK}"
    assert train("-m", f"experiment={EXPERIMENT}", name, *reproduction.quick).status == 0
    folder = tmp_path / "reference" / "paper" / "table"
    make_report("paper/table", "quick", folder)
    readme = tmp_path / "README.md"
    readme.write_text("Nothing yet.\n")
    monkeypatch.setattr("src.papers.readme.README", readme)
    for module in ("readme", "check", "report"):
        monkeypatch.setattr(f"src.papers.{module}.REFERENCE", tmp_path / "reference")
    return folder


def test_a_report_holds_its_numbers_and_where_they_come_from(report):
    runs = pd.read_csv(report / "runs.csv")
    assert len(runs) == 1, "the seeds at the learning rate that was chosen on validation"
    result = json.loads((Path("outputs") / QUICK / runs["run"][0] / "result.json").read_text())
    assert runs["test/error"][0] == pytest.approx(result["metrics"]["test/error"], rel=1e-6)
    curves = pd.read_csv(report / "curves.csv")
    assert curves["update"].tolist() == [0, 3, 6]
    assert curves["val/error"].min() == pytest.approx(result["metrics"]["val/error"], rel=1e-6)
    text = (report / "report.md").read_text()
    for part in ("# A title", "--budget quick", "It errs.", "reproduced", result["provenance"]["processor"]):
        assert part in text


def test_where_all_runs_diverged_they_are_the_evidence(report):
    for path in (Path("outputs") / QUICK).glob("*/result.json"):
        path.write_text(path.read_text().replace('"status": "finished"', '"status": "diverged"'))
    evidence = evidence_of_runs("paper/table", "quick")
    assert evidence.runs["status"].tolist() == ["diverged"] * 2, "both points of the grid, of which none is chosen"
    assert evidence.runs["grid_points"].tolist() == [2, 2]
    assert "2 of 2 diverged" in evidence.errors(model="fastweights")


def test_all_runs_are_recorded_and_can_be_restored(report, monkeypatch, tmp_path):
    before = evidence_of_runs("paper/table", "quick")
    recorded = read_record(report / RECORD)
    assert len(recorded) == 2, "those that were not chosen too"
    assert json.loads((report / "provenance.json").read_text())["runs"] == 2

    monkeypatch.chdir(tmp_path / "reference")  # another machine
    folder = Path("outputs") / QUICK
    assert len(restore(recorded, {folder.name: folder})) == 2
    assert not restore(recorded, {folder.name: folder}), "they are there"
    after = evidence_of_runs("paper/table", "quick")
    pd.testing.assert_frame_equal(before.runs, after.runs)
    pd.testing.assert_frame_equal(before.curves, after.curves, rtol=1e-5)


def test_restored_runs_are_not_run_again(report, reproduction, train, tmp_path, monkeypatch):
    name = QUICK
    elsewhere = tmp_path / "elsewhere"
    restored = restore(read_record(report / RECORD)[:1], {name: elsewhere / name})
    command = ["-m", f"experiment={EXPERIMENT}", f"name={name}", f"run.root={elsewhere}", *reproduction.quick]
    assert train(*command).status == 0
    made = sorted(path.parent for path in (elsewhere / name).glob("*/train.log"))
    assert len(made) == 1
    assert restored[0] not in made


def test_a_record_is_restored_by_command(report, reproduction, capsys, monkeypatch):
    shutil.rmtree("outputs")
    monkeypatch.setattr("src.papers.command.folders_of", lambda *_: {EXPERIMENT: Path("outputs") / QUICK})
    assert command.run_command(command.parser("").parse_args(["restore", "paper/table"])) == 0
    assert "2 of 2 recorded runs restored" in capsys.readouterr().out
    assert len(list((Path("outputs") / QUICK).glob("*/result.json"))) == 2


def test_a_check_repeats_the_recorded_runs(report, capsys):
    looked_at = list(check("paper/table"))
    assert len(looked_at) == 3
    assert all(agrees for _, agrees in looked_at), looked_at
    assert command.run_command(command.parser("").parse_args(["check"])) == 0
    assert capsys.readouterr().out.count("agrees") == 3 + 1  # and the README


@pytest.mark.parametrize("file", ["table.csv", "claims.csv", "beginnings.csv", RECORD])
def test_a_check_fails_where_something_disagrees(report, file):
    path = report / file
    if file == "beginnings.csv":
        curves = pd.read_csv(path)
        curves["val/nll"] += checking.TOLERANCE * 1.1
        curves.to_csv(path, index=False)
    elif file == RECORD:
        path.write_text(re.sub(r'"lr":[\d.]+', '"lr":0.3', path.read_text()))
    else:
        path.write_text(path.read_text().replace("0.", "0.1"))
    agreeing = dict(check("paper/table"))
    assert list(agreeing.values()).count(False) == 1, agreeing
    assert command.run_command(command.parser("").parse_args(["check", "paper/table"])) == 1


def test_the_list_says_what_has_been_run(report, capsys):
    capsys.readouterr()
    assert command.run_command(command.parser("").parse_args(["list"])) == 0
    out = capsys.readouterr().out
    assert "paper/table\n    A title" in out
    assert "quick: 2 of 2 runs have ended; full: not run" in out


def test_mistakes_are_named(reproduction, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, says in (
        (["report", "paper/tabel"], "did you mean paper/table?"),
        (["report", "paper/table"], "no run has finished"),
        (["run", "nothing"], "legal: paper/table"),
        (["check", "paper/table"], "holds no report"),
    ):
        monkeypatch.setattr("src.papers.check.REFERENCE", tmp_path)
        with pytest.raises(UserError, match=says.replace("?", r"\?")):
            command.run_command(command.parser("").parse_args(arguments))


def test_the_readme_has_the_tables_of_the_committed_results(report, capsys, tmp_path):
    path = tmp_path / "README.md"
    path.write_text(
        "Before\n<!-- table paper/table -->\nold\n<!-- end -->\nbetween\n<!-- claims paper/table -->\n<!-- end -->\n"
    )

    def run(*arguments):
        return command.run_command(command.parser("").parse_args(arguments))

    assert run("check") == 1
    assert "DISAGREES  README.md" in capsys.readouterr().out
    assert run("readme") == 0
    assert run("check") == 0
    text = path.read_text()
    assert "old" not in text
    assert "| fastweights | 0.001 | 0 |" in text
    assert "| It errs. | " in text
    path.write_text(text.replace("paper/table", "paper/other"))
    with pytest.raises(UserError, match=r"paper/other -->: .* holds no report"):
        run("readme")
