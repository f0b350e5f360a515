"""The progress of a sweep, read from its folder, and the end of its workers when the sweep is gone."""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from src.config.paths import PROJECT, RESULT
from src.sweeping.progress import SweepProgress
from src.training.progress import ConsoleHandler
from src.utils import lifeline
from src.utils.files import FolderInUseError, is_locked, locked, write_whole


def write(folder, status, value, higher_is_better=False):
    folder.mkdir(exist_ok=True)
    metrics = {"val/error": value} if value is not None else {}
    result = {"status": status, "reason": "", "objective": "error", "metrics": metrics, "config": {}, "floors": {}}
    result |= dict.fromkeys(["updates", "selected_update", "seconds", "num_parameters", "state_size"], 1)
    result |= {"higher_is_better": higher_is_better}
    write_whole(folder / RESULT, json.dumps(result).encode())


@pytest.fixture
def clock(monkeypatch):
    """The clock that the progress of a sweep reads; it stands still unless a test changes `now`."""
    made = SimpleNamespace(now=0)
    monkeypatch.setattr("src.sweeping.progress.time", SimpleNamespace(monotonic=lambda: made.now))
    return made


@pytest.fixture
def progress(tmp_path, clock):
    write(tmp_path / "a", "finished", 0.5)
    write(tmp_path / "b", "failed", None)
    progress = SweepProgress(tmp_path, seconds_between_looks=60)
    progress.expect(["a"], ["b", "c", "d", "e"], num_later=3)
    yield progress
    progress.end()


def test_the_line_counts_the_runs_of_the_folder(progress, tmp_path, clock):
    assert progress.line() == "1 of 8 done, 0 running, 0 failed, 7 left; best val/error 0.5: a"
    for name in "cde":
        (tmp_path / name).mkdir()
    write(tmp_path / "c", "diverged", None)
    write(tmp_path / "d", "finished", 0.25)
    with locked(tmp_path / "e"):
        clock.now += 48
        assert progress.look()
        line = progress.line()
    # two runs took 48 s, so the other five take 120 s
    assert line == "3 of 8 done (1 diverged), 1 running, 0 failed, 4 left, about 2 min to go; best val/error 0.25: d"
    write(tmp_path / "b", "failed", None)
    write(tmp_path / "e", "interrupted", None)
    assert progress.look()
    assert progress.line().startswith("3 of 8 done (1 diverged), 0 running, 1 failed, 4 left")


def test_the_best_run_has_the_highest_objective_where_that_is_better(tmp_path, clock):
    for name, value in (("a", 1.0), ("b", 3.0), ("c", 2.0)):
        write(tmp_path / name, "finished", value, higher_is_better=True)
    progress = SweepProgress(tmp_path, seconds_between_looks=60)
    progress.expect("abc", [])
    assert progress.line().endswith("; best val/error 3: b")
    progress.end()


def test_the_time_left_goes_by_all_runs_that_the_sweep_has_trained(progress, tmp_path, clock):
    for name in "bcde":
        write(tmp_path / name, "finished", 0.25)
    progress.look()
    progress.expect("abcde", "fgh")
    clock.now += 160
    # four runs took 160 s, so the other three take 120 s
    assert progress.line().startswith("5 of 8 done, 0 running, 0 failed, 3 left, about 2 min to go")


def test_a_line_is_printed_when_a_run_has_ended_but_not_too_often(tmp_path, capsys, clock):
    all_written = threading.Event()

    class Looks(threading.Event):
        """Stands in for the event that ends the thread: each wait is a second in which one run ends, until all have."""

        def wait(self, _):
            if clock.now == 8:
                all_written.set()
                return super().wait()
            write(tmp_path / str(clock.now), "finished", 1.0 - clock.now / 10)
            clock.now += 1
            return False

    progress = SweepProgress(tmp_path, seconds_between_lines=3)
    progress._ended = Looks()
    progress.expect([], map(str, range(8)))
    all_written.wait()
    progress.end()
    assert capsys.readouterr().out.splitlines() == [
        "3 of 8 done, 0 running, 0 failed, 5 left, about 5 s to go; best val/error 0.8: 2",
        "6 of 8 done, 0 running, 0 failed, 2 left, about 2 s to go; best val/error 0.5: 5",
        "8 of 8 done, 0 running, 0 failed, 0 left; best val/error 0.3: 7",
    ]


def test_runs_may_be_added_while_the_folder_is_read(progress, monkeypatch):
    monkeypatch.setattr("src.sweeping.progress._written", lambda folder: progress.before.setdefault("f", 0))
    assert not progress.look()
    assert "f" in progress.before


def test_a_thread_that_has_died_is_not_started_again(tmp_path):
    progress = SweepProgress(tmp_path)
    progress._thread = threading.Thread(target=list)
    progress.expect([], "a")
    progress._thread.join()
    progress.expect([], "b")
    assert set(progress.before) == {"a", "b"}


def test_testing_a_lock_never_blocks_its_owner(tmp_path):
    ended = threading.Event()

    def look():
        while not ended.wait(0.001):
            is_locked(tmp_path)

    watching = threading.Thread(target=look)
    watching.start()
    try:
        for _ in range(300):
            with locked(tmp_path, patience=60):
                assert is_locked(tmp_path)
    finally:
        ended.set()
        watching.join()
    assert not is_locked(tmp_path)
    assert not is_locked(tmp_path / "missing")
    with locked(tmp_path), pytest.raises(FolderInUseError), locked(tmp_path):
        pass


def test_a_reader_sees_whole_files_only(tmp_path):
    ended = threading.Event()

    def rewrite():
        while not ended.is_set():
            write(tmp_path, "finished", [0.5] * 5000)

    write(tmp_path, "finished", [0.5])
    writing = threading.Thread(target=rewrite)
    writing.start()
    try:
        for _ in range(300):
            assert json.loads((tmp_path / RESULT).read_text())["status"] == "finished"
    finally:
        ended.set()
        writing.join()


def test_workers_print_how_their_runs_end_but_not_their_progress(monkeypatch, capsys):
    handler = ConsoleHandler()
    said = [logging.LogRecord(name, logging.INFO, "", 0, name, (), None) for name in ("src.training.progress", "other")]
    monkeypatch.setenv(lifeline.VARIABLE, f"{os.getpid()}:0:/nowhere")
    list(map(handler.emit, said))
    assert capsys.readouterr().out == "src.training.progress\nother\n"
    monkeypatch.setenv(lifeline.VARIABLE, "0:0:/nowhere")
    list(map(handler.emit, said))
    assert capsys.readouterr().out == "other\n"


@pytest.mark.parametrize(("error", "passed_on"), [(OSError(errno.ENOSPC, "full"), False), (BrokenPipeError(), True)])
def test_a_line_that_cannot_be_printed_ends_a_run_only_if_nobody_reads(error, passed_on, monkeypatch):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("src.training.progress.get_console", lambda: SimpleNamespace(print=refuse))
    with pytest.raises(BrokenPipeError) if passed_on else nullcontext():
        ConsoleHandler().emit(logging.makeLogRecord({"msg": "update 3", "levelno": logging.INFO}))


PARENT = """
import subprocess, sys, time
from pathlib import Path
from src.utils import lifeline
lifeline.hold(Path(sys.argv[1]))
assert not lifeline.in_worker()
between = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
subprocess.Popen([sys.executable, "-c", between, sys.argv[2]])
time.sleep(60)
"""
WORKER = """
import os, time
from pathlib import Path
from src.utils import lifeline
assert lifeline.in_worker()
lifeline.follow()
Path("{folder}", "alive").write_text(str(os.getpid()))
time.sleep(60)
"""


def test_a_worker_that_is_not_a_child_of_its_sweep_ends_with_it(tmp_path):
    worker = WORKER.format(folder=tmp_path)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path), worker], cwd=PROJECT)
    alive = tmp_path / "alive"
    while not (alive.exists() and alive.read_text()):
        assert parent.poll() is None
        time.sleep(0.01)
    process = Path("/proc", alive.read_text())
    time.sleep(0.2)
    assert process.exists()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 120
    while process.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_worker_ends_if_the_folder_of_its_sweep_has_been_removed_before_it_began(tmp_path):
    environment = os.environ | {lifeline.VARIABLE: f"0:0:{tmp_path}/removed/.sweep.lock"}
    worker = [sys.executable, "-c", WORKER.format(folder=tmp_path)]
    assert subprocess.run(worker, cwd=PROJECT, env=environment, timeout=50).returncode == 1
