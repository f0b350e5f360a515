"""Triton's interpreter in place of a GPU, in float64, without the kernels in C++ that would be taken on a CPU."""

import pytest
import torch

from src.ops.cpu import calls
from src.ops.triton import fastweights


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch):
    pytest.importorskip("triton", reason="pip install -e '.[gpu]'")
    monkeypatch.setattr(fastweights, "INTERPRETED", True)
    monkeypatch.setattr(calls, "library", lambda: None)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)
