"""Parts of the GPU check that fail on purpose: one hangs, the other crashes."""

import os
import signal
import time

from src.benchmarks.gpu.rows import Rows


def hangs(rows: Rows, device: str, tiny: bool) -> None:
    rows.add("before", "it hangs")
    time.sleep(1000)


def crashes(rows: Rows, device: str, tiny: bool) -> None:
    rows.add("before", "it crashes")
    os.kill(os.getpid(), signal.SIGSEGV)
