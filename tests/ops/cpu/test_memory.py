"""A kernel that cannot allocate memory raises an error instead of ending the process."""

import os
import subprocess
import sys

import pytest

from src.config.paths import PROJECT

CALL = """
import resource, sys, torch
from src.models.lstm import LSTM
torch.set_num_threads(int(sys.argv[1]))
core = LSTM(1, hidden_size=512, kernel="fused").requires_grad_(False)
inputs = torch.zeros(32, 3, 4 * 512)
core(inputs[:, :1])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**20, used + 2**20))
try:
    core(inputs)
except MemoryError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="no limit of memory")
@pytest.mark.parametrize("threads", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_failed_allocation_is_an_error_with_the_sizes(threads):
    environment = dict(os.environ, MALLOC_MMAP_THRESHOLD_="65536")  # so that memory freed before is given back
    command = [sys.executable, "-c", CALL, threads]
    ended = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "LSTM: not enough memory for 32 sequences of 3 steps\n"
