"""Output in any encoding and width, and to a reader that goes away."""

import os
import subprocess
import sys

import pytest
from rich.console import Console
from rich.table import Table

from src.config.paths import PROJECT
from src.utils import console

LONG = "0.1234 ± 0.5678"
PRINTING = """
from rich import get_console
from rich.table import Table
from src.config.errors import in_one_line
from src.utils.console import print_table, printing
with printing(), in_one_line():
    for _ in range({times}):
        table = Table("error ± deviation")
        table.add_row("1 ± 2")
        {show}
"""


def printed(show, times, **settings):
    environment = os.environ | settings
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PRINTING.format(show=show, times=times)],
        cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("show", ["print_table(table)", "print('1 ± 2')"])
def test_characters_that_the_output_cannot_show_are_replaced(show):
    out, err = printed(show, times=1, PYTHONIOENCODING="ascii").communicate(timeout=120)
    assert err == b""
    assert b"1 ? 2" in out


@pytest.mark.parametrize("show", ["print_table(table)", "print('1 ± 2')"])
def test_a_reader_that_goes_away_ends_the_command_quietly(show):
    process = printed(show, times=10_000)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=120) in (0, 1)
    process.stderr.close()


@pytest.mark.parametrize("width", [20, 60, 80])
@pytest.mark.parametrize("terminal", [False, True])
def test_no_number_of_a_table_is_cut(width, terminal, monkeypatch, capsys):
    monkeypatch.setattr(
        console, "get_console", lambda: Console(width=width, force_terminal=terminal, color_system=None)
    )
    table = Table(*"abcdefgh")
    table.add_row(*[LONG] * 8)
    console.print_table(table)
    assert capsys.readouterr().out.count(LONG) == 8
