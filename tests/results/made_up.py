"""Folders of made-up runs."""

import json
from dataclasses import asdict, replace

from src.config.schema import SearchSettings
from src.results.manifest import write_manifest

SEARCH = SearchSettings(grid=["optimizer.lr"], repeated=["seed"], columns=[], two_stage=False)


class Folder:
    """A folder of made-up runs."""

    search = SEARCH

    def __init__(self, path):
        self.path = path
        self.expected = {}

    def add(
        self,
        model="lstm",
        lr=0.01,
        seed=0,
        val=0.5,
        test=0.5,
        status="finished",
        reason="",
        width=50,
        objective="error",
        higher_is_better=False,
        **model_settings,
    ):
        """Add a run and return its name; status None makes it missing. `val` and `test` are values of its objective."""
        name = "-".join([f"{model}{width}", f"lr{lr:g}", f"s{seed}", *(f"{k}{v}" for k, v in model_settings.items())])
        settings = {"model": model, "model.hidden_size": width, "optimizer.lr": lr, "seed": seed}
        settings |= {f"model.{key}": value for key, value in model_settings.items()}
        settings["trainer.max_updates"] = 100
        self.expected[name] = settings
        if status is None:
            return name
        config = {
            "name": "made-up",
            "seed": seed,
            "model": {"_target_": f"src.models.{model}.Model", "hidden_size": width} | model_settings,
            "optimizer": {"_target_": "src.training.optimizers.adam", "lr": lr},
            "trainer": {"threads": 1, "log_every": 50, "max_updates": 100},
            "search": asdict(SEARCH),
        }
        metrics = {f"val/{objective}": val, "val/nll": 9.0, f"test/{objective}": test, "test/nll": 9.0}
        result = {"status": status, "reason": reason, "metrics": {} if status == "failed" else metrics}
        result |= {"config": config, "objective": objective, "higher_is_better": higher_is_better}
        result |= {"floors": {"chance": {"error": 0.9, "nll": 2.3}}, "updates": 100, "selected_update": 90}
        result |= {"seconds": 1.25, "num_parameters": 7, "state_size": 5}
        (self.path / name).mkdir(parents=True)
        (self.path / name / "result.json").write_text(json.dumps(result))
        return name

    def change(self, name, **entries):
        """Change entries of the result of a run; None removes an entry."""
        path = self.path / name / "result.json"
        result = json.loads(path.read_text()) | entries
        path.write_text(json.dumps({key: value for key, value in result.items() if value is not None}))

    def expect_all(self, **search):
        """Write the manifest of a sweep with all runs added so far."""
        write_manifest(self.path, replace(SEARCH, **search), self.expected)
