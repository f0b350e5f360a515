"""A supervised command survives the death of its process, ends with its status, and never runs forever."""

import os
import signal
import subprocess
import sys
import time

import pytest

from src.config.paths import PROJECT
from src.utils import supervisor
from src.utils.supervisor import Death

COMMAND = """
import os, signal, sys, time
from pathlib import Path
from src.utils import supervisor
from src.config.errors import in_one_line
with in_one_line():
    supervisor.supervise()
    print(os.getpid(), flush=True)
    {work}
"""
RUN = """death = supervisor.death_in(Path("run"), "result.json")
    reason = death and death.reason
    print(reason, flush=True)
    supervisor.check_explained()
    if reason is None:
        Path("run").mkdir()
        Path("run", ".lock").write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.{number})
"""


def start(work, folder):
    command = [sys.executable, "-c", COMMAND.format(work=work)]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, **pipes)


def ended(work, folder):
    with start(work, folder) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out.splitlines(), err


def test_the_status_is_that_of_the_child(tmp_path):
    assert ended("sys.exit(3)", tmp_path)[0] == 3
    assert ended("os.kill(os.getpid(), signal.SIGTERM)", tmp_path)[0] == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("SIGKILL", "its process died (Killed), perhaps for lack of memory"),
        ("SIGABRT", "its process died (Aborted), perhaps for lack of memory"),
        ("SIGSEGV", "its process died (Segmentation fault)"),
    ],
)
def test_the_next_child_knows_which_run_the_last_one_died_in(tmp_path, number, reason):
    status, out, err = ended(RUN.format(number=number), tmp_path)
    assert (status, out[1], out[3], err) == (0, "None", reason, "")
    assert out[0] != out[2]


def test_a_death_outside_of_a_run_ends_the_command(tmp_path):
    status, out, err = ended("supervisor.check_explained(); os.abort()", tmp_path)
    assert (status, len(out)) == (1, 2)
    assert err == (
        "error: its process died (Aborted), perhaps for lack of memory, while no run was in progress; "
        "run the same command again to resume\n"
    )


def test_a_run_with_a_result_that_is_newer_than_its_lock_has_not_died(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "_deaths", [Death(12, "it died")])
    result, lock = tmp_path / "result.json", tmp_path / ".lock"
    result.write_text("{}")
    lock.write_text("12")
    os.utime(result, (1, 1))
    assert supervisor.death_in(tmp_path, "result.json").reason == "it died"
    os.utime(lock, (1, 1))
    for moment in (1, 2):  # both may have been written within one tick of the clock
        os.utime(result, (moment, moment))
        assert supervisor.death_in(tmp_path, "result.json") is None
    assert supervisor.held(tmp_path)
    lock.write_text("13")
    assert supervisor.held(tmp_path) is None


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_signals_are_passed_on_and_the_child_ends_with_its_parent(tmp_path):
    wait = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print('ready', flush=True); time.sleep(100)"
    with start(wait, tmp_path) as process:
        assert [process.stdout.readline(), process.stdout.readline()][1] == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 7
    with start("time.sleep(100)", tmp_path) as process:
        child = int(process.stdout.readline())
        process.kill()
        process.wait(60)
        deadline = time.monotonic() + 60
        while is_alive(child):
            assert time.monotonic() < deadline
            time.sleep(0.01)
