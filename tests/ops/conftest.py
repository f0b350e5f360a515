"""float64 unless a test says otherwise, and compiled kernels: without them every comparison would be an empty one."""

import pytest
import torch

from src.ops import build


@pytest.fixture(scope="session", autouse=True)
def _compiled():
    assert build.library() is not None, "the tests of the kernels need a C++ compiler"


@pytest.fixture(autouse=True)
def _exact():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(1)
