"""The first updates of a recorded run, again."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from src.experiment import build_trainer
from src.reports.curves import read_scalars
from src.utils.progress import RunProgress
from src.utils.tensorboard import Curves

UPDATES, EVERY = 100, 20
"""How much of a run is repeated, and how often it is evaluated on the way."""


def beginning(config: Mapping[str, Any]) -> "pd.Series[float]":
    """The validation loss of the first updates of a run, by update."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        often = {"trainer": {"eval_every": EVERY, "log_every": EVERY}}
        merged = OmegaConf.merge(OmegaConf.create(dict(config)), often)
        assert isinstance(merged, DictConfig)
        trainer = build_trainer(merged, folder)
        curves = Curves(folder, first_update=0)

        def stop() -> None:
            trainer.stop_requested = trainer.update >= UPDATES

        with RunProgress(UPDATES, 0, seconds_between_lines=1e9) as progress:
            trainer.fit(curves, progress, stop)
        curves.close({})
        points = read_scalars(folder, ["val/nll"])["val/nll"]
    return pd.Series(points, name="val/nll").rename_axis("update")
