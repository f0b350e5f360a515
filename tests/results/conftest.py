import pytest

from tests.results.made_up import Folder


@pytest.fixture
def folder(tmp_path):
    """A folder of made-up runs, empty."""
    return Folder(tmp_path / "made-up")
