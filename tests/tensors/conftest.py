"""Every test of a bilinear map runs in float64."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _exact():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
