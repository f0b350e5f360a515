"""The GPU check, run on a CPU with tiny sizes: its parts run, and one that hangs or crashes does not affect others."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from src.benchmarks.gpu import check
from src.benchmarks.gpu.rows import GOOD, Rows, read_rows
from src.config.errors import UserError

PARTS = "tests.benchmarks.gpu.parts"
BROKEN = (check.Part("hangs", 4, f"{PARTS}.hangs"), check.Part("crashes", 60, f"{PARTS}.crashes"))


def verdicts(rows):
    return {row.what: row.verdict for row in rows}


def test_without_a_gpu_it_says_so_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu_check.py", "--out", "out"])
    with pytest.raises(SystemExit) as ended:
        check.main()
    assert ended.value.code == "error: torch finds no CUDA GPU, which the check needs (see --help)"
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_part_that_hangs_or_crashes_leaves_what_it_found_before(tmp_path):
    deadline = time.monotonic() + 100
    with ThreadPoolExecutor(2) as pool:
        hung, crashed = pool.map(lambda part: check.run_part(part, "cpu", True, tmp_path, deadline), BROKEN)
    assert verdicts(hung) == verdicts(crashed) == {"before": "measured", "the part": "failed"}
    assert hung[-1].found == "did not finish within 4 s"
    assert crashed[-1].found.startswith("Segmentation fault")


def test_without_time_left_a_part_is_not_started(tmp_path):
    (row,) = check.run_part(check.ALONE[0], "cpu", True, tmp_path, deadline=0.0)
    assert (row.found, row.verdict) == ("the time limit of all parts was already reached", "not run")


@pytest.mark.slow
def test_it_takes_nothing_else_with_it(tmp_path, monkeypatch, capsys):
    sanitizer = next(part for part in check.TOGETHER if part.name == "sanitizer")
    monkeypatch.setattr(check, "TOGETHER", BROKEN)
    monkeypatch.setattr(check, "ALONE", (sanitizer,))
    rows = check.check(["hangs", "crashes", "sanitizer"], "cpu", True, tmp_path)
    assert [row.verdict for row in rows if row.part in ("hangs", "crashes")] == ["measured", "failed"] * 2
    assert rows[-1][1:] == ("compute-sanitizer", "not found on the PATH", "no error", "not run")
    assert "hangs: the part: did not finish within 4 s\n" in capsys.readouterr().out
    stored = json.loads((tmp_path / "report.json").read_text())
    assert [list(row.values()) for row in stored["rows"]] == [list(row) for row in rows]
    assert "| the part | did not finish within 4 s |  | failed |" in (tmp_path / "report.md").read_text()


@pytest.mark.slow
def test_all_parts_run_on_a_cpu_with_tiny_sizes(tmp_path):
    names = [part.name for part in (*check.TOGETHER, *check.ALONE)]
    rows = check.check(names, "cpu", True, tmp_path)
    assert [row for row in rows if row.verdict not in GOOD] == []
    assert {row.part for row in rows} == {"card", *names}


@pytest.mark.slow
def test_a_gpu_that_does_not_work_is_one_error(tmp_path):
    for name in ("speed.jsonl", "metrics.jsonl"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"^--device nothing does not work: exit status 1; last line of its log: "):
        check.check(["speed"], "nothing", True, tmp_path)
    assert not (tmp_path / "speed.jsonl").exists(), "left by an earlier check"
    assert (tmp_path / "metrics.jsonl").exists(), "not of a check"


def test_findings_are_read_without_damaged_ones(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = Rows("a part", path, judge=True)
    rows.target("a", "1 ms", "2 ms", reached=False)
    with rows.trying("b"):
        raise UserError("in vain")
    rows.right("c", "0", "0", True)
    found = read_rows(path)
    assert [(row.what, row.verdict) for row in found] == [("a", "missed"), ("b", "failed"), ("c", "ok")]
    with open(path, "a") as file:
        file.write('{"part": 1}\n{"part"\n')
    rows.right("d", "0", "0", True)
    assert [row.what for row in read_rows(path)] == ["a", "b", "c", "d"]
