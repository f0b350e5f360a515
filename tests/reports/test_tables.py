"""How numbers and titles of tables are printed."""

import pytest

from src.reports.tables import show_metrics, to_markdown


def test_a_zero_is_not_mistaken_for_a_small_number():
    rows = [{"error": value} for value in (0.0, 5e-05, 0.25, 12.5, 1234.5)]
    assert to_markdown(rows).replace("|", "").split()[2:] == ["0", "5e-05", "0.2500", "12.50", "1.2e+03"]


@pytest.mark.parametrize("width", [40, 200])
def test_a_title_is_one_line(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    title = f"{'a-long-name' * 10}, weights of update 500"
    show_metrics({"test": {"error": 0.5}}, {}, title)
    assert capsys.readouterr().out.splitlines()[0] == title
