"""Every test of a model runs in float64."""

import pytest
import torch

from src.ops.cpu import calls


@pytest.fixture
def uncompiled(monkeypatch):
    """Switch the kernels off to test the step itself; the contract tests compare the kernels with it."""
    monkeypatch.setattr(calls, "available", lambda inputs: False)


@pytest.fixture(autouse=True)
def _exact():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
