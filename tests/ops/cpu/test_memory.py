"""A kernel that gets no memory says so instead of ending the process."""

import subprocess
import sys

import pytest

from src.config.paths import PROJECT
from src.ops.cpu.build import library

CALL = """
import resource, sys, torch
from src.ops.cpu import bindings
from src.ops.inputs import Inputs
torch.set_num_threads(int(sys.argv[1]))
weight, inputs = torch.zeros(4 * 2048, 2048), torch.zeros(32, 3, 4 * 2048)
bindings.lstm(Inputs(torch.zeros(32, 2, 32), None), None, None, torch.zeros(32, 8))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**22, used + 2**22))
try:
    bindings.lstm(Inputs(inputs, None), None, None, weight)
except MemoryError as error:
    print(error)
"""


@pytest.mark.skipif(library() is None or sys.platform != "linux", reason="no kernels, or no limit of memory")
@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_failed_allocation_is_an_error_with_the_sizes(threads):
    ended = subprocess.run([sys.executable, "-c", CALL, threads], cwd=PROJECT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "lstm: forward pass of 32 sequences of 3 steps with 2048 units: not enough memory\n"
