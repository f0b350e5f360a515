"""The main job of the README."""

import json
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


def test_fast_weights_solve_associative_retrieval(train):
    ended = train("model=fastweights", "trainer.stop_at=0.002")
    assert ended.status == 0
    (path,) = Path("outputs/runs").glob("*/result.json")
    result = json.loads(path.read_text())
    assert result["metrics"]["test/error"] <= 0.005
    assert "knows the digits, not the binding" in ended.out


RUN = """
import sys
import torch
from src.train import main

main()
from src.training.optimizers import adam, rmsprop, sgd
for make in (adam, rmsprop, sgd):
    weights = torch.nn.Parameter(torch.ones(3))
    weights.grad = torch.ones(3)
    optimizer = make([weights])
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert (weights < 1).all()
print(*sys.modules, file=sys.stderr)
"""


def test_a_run_with_any_optimizer_does_not_import_slow_packages_that_it_does_not_use(train, tmp_path, tiny):
    """Importing torch's compiler takes a second, pandas and matplotlib half a second each.

    The first run traces the kernel.
    """
    assert train("model=lstm", *tiny).status == 0
    arguments = ["model=lstm", f"run.root={tmp_path}", f"hydra.run.dir={tmp_path}/run", *tiny]
    command = [sys.executable, "-c", RUN, *arguments]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    imported = set(ended.stderr.split())
    assert "torch" in imported
    assert not imported & {"torch._dynamo", "pandas", "matplotlib", "scipy.stats"}
