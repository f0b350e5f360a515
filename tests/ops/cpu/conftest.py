"""float64 unless a test says otherwise, and compiled kernels, without which there would be nothing to compare."""

import os
import shlex
import shutil

import pytest
import torch

from src.ops.cpu import build


@pytest.fixture(scope="session", autouse=True)
def _compiled():
    compiler = (shlex.split(os.environ.get("CXX", "")) or ["c++"])[0]
    if shutil.which(compiler) is None:
        pytest.skip(f"no C++ compiler: {compiler} is not on the path")
    assert build.library() is not None


@pytest.fixture(autouse=True)
def _exact():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(1)
