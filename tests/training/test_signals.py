"""A second signal ends a run at once, with the status of the signal and without a traceback."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from src.config.paths import PROJECT
from src.training.signals import ONE_REQUEST, exit_status, passing_on, stopping_on_signals

RUN = """
import hashlib
from types import SimpleNamespace
from src.training.signals import stopping_on_signals
with stopping_on_signals(SimpleNamespace(stop_requested=False)):
    print("begun", flush=True)
    {work}
"""
IN_COMPILED_CODE = 'hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)'
IN_PYTHON = "while True: pass"


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
@pytest.mark.parametrize("work", [IN_COMPILED_CODE, pytest.param(IN_PYTHON, marks=pytest.mark.slow)])
def test_a_second_signal_ends_the_process(number, work):
    command = [sys.executable, "-c", RUN.format(work=work)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            process.send_signal(number)
            time.sleep(0.1)
        process.kill()
        assert process.stderr.read() == ""
    assert process.returncode in (-number, 128 + number)


def test_signals_that_belong_to_one_request_stop_the_run_once():
    trainer = SimpleNamespace(stop_requested=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with stopping_on_signals(trainer) as came:
            for _ in range(5):
                os.kill(os.getpid(), signal.SIGTERM)
        assert {signal.getsignal(number) for number in handlers} == {signal.SIG_DFL}  # another signal ends what is left
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert trainer.stop_requested
    assert set(came) == {signal.SIGTERM}
    assert exit_status() == 143


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_passed_on_is_passed_on_once_for_each_request_and_ends_what_is_done_meanwhile(number, monkeypatch):
    passed_on, now = [], [0.0]
    monkeypatch.setattr("src.training.signals.time", SimpleNamespace(monotonic=lambda: now[0]))
    with passing_on(lambda: passed_on.append(number)):
        with pytest.raises(KeyboardInterrupt, match=str(128 + number)):
            os.kill(os.getpid(), number)
        now[0] = ONE_REQUEST
        os.kill(os.getpid(), number)
        now[0] = 2.1 * ONE_REQUEST
        os.kill(os.getpid(), number)
    assert passed_on == [number] * 2
