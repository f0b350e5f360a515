"""The main job of the README."""

import json
from pathlib import Path


def test_fast_weights_solve_associative_retrieval(train):
    ended = train("model=fastweights")
    assert ended.status == 0
    (path,) = Path("outputs/runs").glob("*/result.json")
    result = json.loads(path.read_text())
    assert result["metrics"]["test/error"] <= 0.005
    assert "knows the digits, not the binding" in ended.out
