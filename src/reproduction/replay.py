"""Repeats the first updates of a recorded run."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf

from src.config.fingerprint import fingerprint
from src.results.curves import read_curves
from src.running.build import build_trainer
from src.running.load import stored_config
from src.training.curves import Curves
from src.training.progress import RunProgress

UPDATES, EVERY = 100, 20
"""Number of updates that are repeated, and of updates between evaluations."""
SIMD = torch.backends.cpu.get_cpu_capability()
"""The vector instructions for which torch computes here, such as AVX2: others round differently."""


def first_updates(config: Mapping[str, Any], tag: str) -> "pd.Series[float]":
    """A validation curve over the first updates of a run, which are computed again; indexed by update."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        often = {"trainer": {"eval_every": EVERY, "log_every": EVERY}}
        merged = OmegaConf.merge(stored_config(config), often)
        assert isinstance(merged, DictConfig)
        trainer = build_trainer(merged, folder, fingerprint(merged))

        def stop() -> None:
            trainer.stop_requested = trainer.state.update >= UPDATES

        with Curves(folder, 0) as curves, RunProgress(UPDATES, 0, seconds_between_lines=1e9) as progress:
            trainer.fit(curves, progress, stop)
        points = read_curves(folder, [tag])[tag]
    return pd.Series(points, name=tag).rename_axis("update")
