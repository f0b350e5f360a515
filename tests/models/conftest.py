"""Every test of a model runs in float64."""

import pytest
import torch

from src.ops.cpu import calls


@pytest.fixture
def uncompiled(monkeypatch):
    """No kernels: what is tested is the step, to which the contract holds its kernels."""
    monkeypatch.setattr(calls, "available", lambda inputs: False)


@pytest.fixture(autouse=True)
def _exact():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
