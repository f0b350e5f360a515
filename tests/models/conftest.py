"""Every test of a model runs in float64 and from the same seed."""

import pytest
import torch

from src.ops.cpu import calls


@pytest.fixture
def uncompiled(monkeypatch):
    """No kernels: what is tested is the step, to which the contract holds its kernels."""
    monkeypatch.setattr(calls, "available", lambda inputs: False)


@pytest.fixture(autouse=True)
def _exact():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(threads)
