"""Triton's interpreter instead of a GPU, in float64, without the C++ kernels that would be chosen on a CPU."""

import pytest
import torch

from src.ops.cpu import calls as cpu
from src.ops.triton import calls


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch):
    pytest.importorskip("triton", reason="pip install -e '.[gpu]'")
    monkeypatch.setattr(calls, "INTERPRETED", True)
    monkeypatch.setattr(cpu, "library", lambda: None)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)
