"""The theory command: what it writes, prints and rejects."""

import csv
from types import SimpleNamespace
from typing import Annotated

import pytest
from annotated_types import Ge
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.theory import claims, run
from src.theory.base import Claim, Demonstration, num_wrong_in_print


@pytest.fixture
def command(tmp_path, capsys, monkeypatch):
    """Run the command in this process with an empty output folder; return its status, output and error."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        status = 0
        try:
            run.main([*arguments, "--output", str(tmp_path / "theory")])
        except SystemExit as ended:
            status = ended.code
        out, err = capsys.readouterr()
        return (1, out, f"{err}{status}") if isinstance(status, str) else (status or 0, out, err)

    return call


@pytest.fixture
def invented(monkeypatch, tmp_path):
    """A topic with one claim that holds if `answer` is 42."""

    def compute(
        answer: int = 42, run: str | None = None, seed: int = 0, noise: float = 0.5, digits: Annotated[int, Ge(2)] = 2
    ):
        if seed == 13:
            raise ValueError("unlucky")
        claim = claims.near("The answer [of all] | is 42", "Adams (1979)", 42, answer, 0.5, "by the book", f"{run}")
        return SimpleNamespace(claims=(claim,), noise=noise)

    def draw(result):
        if result.noise > 1:
            raise ValueError("too loud to draw")
        return Figure(figsize=(1, 1))

    quiet = Demonstration("first", lambda: SimpleNamespace(claims=(), noise=0.0), draw)
    topic = (quiet, Demonstration("answer", compute, draw))
    monkeypatch.setattr(run, "find_topics", lambda: {"invented": topic})
    monkeypatch.setattr(run, "demonstrations", lambda _: topic)
    monkeypatch.setattr(run, "PAGES", tmp_path)
    (tmp_path / "invented.md").write_text("# Invented\n\nText.\n")


@pytest.mark.usefixtures("invented")
def test_what_is_written_and_printed(command, tmp_path):
    status, out, _ = command("invented", "--tensorboard", "run=as printed")
    assert status == 0
    assert "The answer [of all] | is 42" in out
    assert "refuted as printed: as printed" in out
    assert "claims: 1, holding: 1; statements wrong in print: 1" in out
    folder = tmp_path / "theory"
    assert (folder / "answer.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "invented.md").read_text()
    assert page.startswith("# Invented\n\nText.\n")
    assert "![answer](answer.png)" in page
    assert "| The answer [of all] \\| is 42<br>*Refuted as printed:* as printed | Adams (1979) | 42 | 42 |" in page
    (row,) = csv.DictReader((folder / "claims.csv").read_text().splitlines())
    assert (row["topic"], row["measured"], row["holds"]) == ("invented", "42.0", "True")
    assert EventAccumulator(str(folder)).Reload().Tags()["images"] == ["invented/first", "invented/answer"]


def test_statements_wrong_in_print_are_counted_once_and_without_readings():
    claims = [
        Claim("", "", 0, 0, "", True, refuted)._replace(reading=reading)
        for refuted, reading in (("x", False), ("x", False), ("y", False), ("z", True), ("", False))
    ]
    assert num_wrong_in_print(claims) == 2


@pytest.mark.usefixtures("invented")
def test_a_claim_that_fails_ends_the_command_with_status_1(command, tmp_path):
    status, out, _ = command("answer=41")
    assert status == 1
    assert "NO" in out
    assert "| **no** |" in (tmp_path / "theory" / "invented.md").read_text()


@pytest.mark.usefixtures("invented")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inventd"], "error: inventd is not a topic; did you mean invented? legal: invented"),
        (
            ["answr=3"],
            "error: answr is not a setting of invented; did you mean answer? legal: answer, digits, noise, run, seed",
        ),
        (["run="], "error: run=: needs a value"),
        (["answer=many"], "error: answer=many: must be an integer, at least 1"),
        (["answer=0"], "error: answer=0: must be an integer, at least 1"),
        (["digits=1"], "error: digits=1: must be an integer, at least 2"),
        (["seed=-1"], "error: seed=-1: must be an integer, at least 0"),
        (["noise=loud"], "error: noise=loud: must be a number"),
        (["noise=nan"], "error: noise=nan: must be a number"),
        (["noise=-inf"], "error: noise=-inf: must be a number"),
        (["noise=2"], "error: invented noise=2.0: ValueError: too loud to draw"),
        (["seed=1", "seed=2"], "error: seed: given 2 times"),
        (["seed=13"], "error: invented seed=13: ValueError: unlucky"),
        (["--processes", "0"], "error: --processes 0: must be at least 1"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(command, arguments, message, tmp_path):
    assert command(*arguments) == (1, "", message)
    assert not list((tmp_path / "theory").glob("*"))


@pytest.fixture
def two_topics(invented, monkeypatch):
    """The invented topic under two names."""
    (topic,) = run.find_topics().values()
    monkeypatch.setattr(run, "find_topics", lambda: {"early": topic, "late": topic})
    monkeypatch.setattr(run, "text_of", lambda name: f"# {name}")


@pytest.mark.usefixtures("two_topics")
def test_rows_of_topics_that_are_not_run_again_stay(command, tmp_path):
    table = tmp_path / "theory" / "claims.csv"

    def measured():
        return [(row["topic"], row["measured"]) for row in csv.DictReader(table.read_text().splitlines())]

    assert command("late")[0] == 0
    assert measured() == [("late", "42.0")]
    assert command("early", 'run=with, a comma and a " in it')[0] == 0
    both = table.read_text()
    assert command("late", "answer=41")[0] == 1
    assert measured() == [("early", "42.0"), ("late", "41.0")]
    assert table.read_text().splitlines()[1] == both.splitlines()[1]
    table.write_text(both.replace("late,", "gone,"))
    assert command("early")[0] == 0
    assert measured() == [("early", "42.0")]


@pytest.mark.usefixtures("two_topics")
@pytest.mark.parametrize(
    "damaged", [b"", b"\xff\xfe", b"topic,claim\n", b'"topic', b"{header}\nlate,answer\n", b"a\0b"]
)
def test_a_table_that_this_command_did_not_write_is_left_alone(command, tmp_path, damaged):
    table = tmp_path / "theory" / "claims.csv"
    table.parent.mkdir()
    damaged = damaged.replace(b"{header}", ",".join(run.COLUMNS).encode())
    table.write_bytes(damaged)
    message = f"error: {table}: not a table of claims; remove it, or choose another --output"
    assert command("early") == (1, "", message)
    assert [path.name for path in table.parent.iterdir()] == ["claims.csv"]
    assert table.read_bytes() == damaged
    assert command("--processes", "1")[0] == 0, "nothing of it is needed if all topics are run"


@pytest.mark.slow
def test_real_topics_in_separate_processes(command, tmp_path):
    status, out, _ = command("hebbian_learning", "existence_and_uniqueness")
    assert status == 0
    assert out.index("claims: ") > out.index("Oja")
    written = {path.name for path in (tmp_path / "theory").iterdir()}
    pages = {"hebbian_learning.md", "existence_and_uniqueness.md"}
    assert written == pages | {"hebbian_growth.png", "existence_and_uniqueness.png", "claims.csv"}


def test_help_names_every_topic(command):
    status, out, _ = command("--help")
    assert status == 0
    for topic in run.find_topics():
        assert f"  {topic} " in out


def test_claims_decide_by_their_tolerance():
    assert claims.near("", "", 1.0, 1.1, 0.2, "why") == Claim("", "", 1.0, 1.1, "0.2: why", True)
    assert not claims.near("", "", 1.0, 1.3, 0.2, "why").holds
    assert not claims.near("", "", 1.0, float("nan"), 0.2, "why").holds
    assert claims.at_most("", "", 1.0, 1.0, "why").holds
    assert not claims.at_most("", "", 1.0, float("nan"), "why").holds
    assert not claims.at_least("", "", 1.0, 0.9, "why").holds
