"""JSON Lines files."""

import json
import math
import os

from src.utils.jsonl import for_json, read_lines, to_line


def test_numbers_that_are_not_finite_become_null_wherever_they_are():
    value = {"a": math.inf, "b": [1.5, math.nan, {"c": (-math.inf, 2)}], "d": "nan", "e": True}
    assert for_json(value) == {"a": None, "b": [1.5, None, {"c": [None, 2]}], "d": "nan", "e": True}
    assert json.loads(to_line(value), parse_constant=lambda _: 1 / 0) == for_json(value)


def test_what_is_no_file_or_too_large_does_not_stop_a_reader(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer
    assert read_lines(tmp_path / "pipe") == read_lines(tmp_path) == read_lines(tmp_path / "missing") == []
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(to_line({"update": update}) for update in range(10)))
    monkeypatch.setattr("src.utils.jsonl.MOST_BYTES", 40)
    assert read_lines(path) == [{"update": 0}, {"update": 1}]
