"""Folders of runs that were never run."""

import json

import pytest

from src.sweep import write_manifest

SEARCH = {"grid": ["optimizer.lr"], "repeated": ["seed"], "columns": [], "two_stage": False}


class Folder:
    """A folder of made-up runs."""

    search = SEARCH

    def __init__(self, path):
        self.path = path
        self.expected = {}

    def add(self, model="lstm", lr=0.01, seed=0, val=0.5, test=0.5, status="finished", reason="", width=50):
        """A run, which is missing if its status is None; its name is returned."""
        name = f"{model}{width}-lr{lr:g}-s{seed}"
        settings = {"model": model, "model.hidden_size": width, "optimizer.lr": lr, "seed": seed}
        settings["trainer.max_updates"] = 100
        self.expected[name] = settings
        if status is None:
            return name
        config = {
            "name": "made-up",
            "seed": seed,
            "model": {"_target_": f"src.models.{model}.Model", "hidden_size": width},
            "optimizer": {"_target_": "src.optimizers.adam", "lr": lr},
            "trainer": {"threads": 1, "log_every": 50, "max_updates": 100},
            "search": SEARCH,
        }
        metrics = {} if status == "failed" else {"val/error": val, "val/nll": 9.0, "test/error": test, "test/nll": 9.0}
        result = {"status": status, "reason": reason, "metrics": metrics, "config": config, "objective": "error"}
        result |= {"floors": {"chance": {"error": 0.9, "nll": 2.3}}, "updates": 100, "selected_update": 90}
        result |= {"seconds": 1.25, "num_parameters": 7, "state_size": 5}
        (self.path / name).mkdir(parents=True)
        (self.path / name / "result.json").write_text(json.dumps(result))
        return name

    def expect_all(self, **search):
        """Write the manifest of a sweep that asks for all runs added so far."""
        write_manifest(self.path, SEARCH | search, self.expected)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "made-up")
