"""As for the kernels written by hand: float64, and a compiler. Recipes are kept in a folder of their own."""

import pytest

from src.ops.generated import derive, recipe
from tests.ops.cpu.conftest import _compiled, _exact  # noqa: F401


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """The folder of the recipes, empty; what is compiled stays where it is."""
    folder = tmp_path / "recipes"
    monkeypatch.setattr(recipe, "recipe_folder", lambda on: folder)
    return folder


@pytest.fixture
def traced(monkeypatch):
    """The cores that are traced."""
    cores, trace = [], derive.trace
    monkeypatch.setattr(derive, "trace", lambda core: cores.append(core) or trace(core))
    return cores
