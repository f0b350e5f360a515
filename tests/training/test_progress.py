"""The progress bar on a narrow terminal."""

import io

import pytest
from rich.console import Console

from src.training import progress


@pytest.mark.parametrize("width", [60, 80])
def test_no_number_of_the_bar_is_cut(width, monkeypatch):
    console = Console(width=width, force_terminal=True, color_system=None, file=io.StringIO())
    monkeypatch.setattr(progress, "get_console", lambda: console)
    with progress.RunProgress(10000, 6500) as shown:
        shown.evaluated(6500, {"error": 0.1234, "nll": 0.5678})
        shown.advance(6501, {"loss": 1.2345})
        console.print(shown.bar.get_renderable())
    text = console.file.getvalue()
    for part in ("6501/10000", "loss 1.2345", "val/error 0.1234"):
        assert part in text
    assert "…" not in text
