"""The notebooks run from the first cell to the last."""

import os
import subprocess
import sys

import pytest

from src.config.paths import PROJECT

NOTEBOOKS = sorted((PROJECT / "scripts" / "notebooks").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    command = [sys.executable, "-W", "error", str(path)]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_every_cell_of_a_notebook_is_marked():
    """In percent format, cells of code and text alternate; a text that is not marked would be shown as code."""
    assert len(NOTEBOOKS) == 3
    for path in NOTEBOOKS:
        text = path.read_text()
        assert text.startswith("# %% [markdown]\n# # ")
        assert text.count("# %%") > text.count("# %% [markdown]") >= 3
