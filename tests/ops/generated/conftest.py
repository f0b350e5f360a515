"""As for the hand-written kernels: float64, and only with a compiler. Fixtures for recipes and for tracing."""

import pytest

from src.ops.generated import derive, recipe
from tests.ops.cpu.conftest import _compiled, _exact  # noqa: F401


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """Keep recipes in an empty folder, which is returned; compiled kernels stay where they are."""
    folder = tmp_path / "recipes"
    monkeypatch.setattr(recipe, "recipe_folder", lambda on: folder)
    return folder


@pytest.fixture
def traced(monkeypatch):
    """The list of the cores that have been traced so far."""
    cores, trace = [], derive.trace
    monkeypatch.setattr(derive, "trace", lambda core: cores.append(core) or trace(core))
    return cores
