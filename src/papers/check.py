"""Whether committed results still hold: tables follow from the data, and runs begin again as they were recorded."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from src.papers.report import REFERENCE, claims_table, read_evidence
from src.papers.reproduce import find

UPDATES = 1000
"""Of each run that are repeated."""
TOLERANCE = 0.02
"""Of the negative log-likelihood, in nats. The same run in kernels that round differently, float32, is within 0.002
after so many updates; another seed differs by 0.02 to 0.3."""


def check(name: str) -> Iterator[tuple[str, bool]]:
    """Each thing that was looked at, and whether it agrees."""
    folder = REFERENCE / name
    reproduction, evidence = find(name), read_evidence(folder)
    for file, table in (
        ("table.csv", reproduction.table(evidence)),
        ("claims.csv", claims_table(reproduction, evidence)),
    ):
        committed = (folder / file).read_text() if (folder / file).exists() else ""
        yield f"{file} follows from runs.csv and curves.csv", table.to_csv(index=False) == committed
    recorded = json.loads((folder / "recorded.json").read_text())
    for run, config in recorded.items():
        was = evidence.curves[evidence.curves["run"] == run].set_index("update")["val/nll"]
        now = beginning(config, UPDATES)
        common = was.index.intersection(now.index)
        worst = float((was[common] - now[common]).abs().max())
        agrees = len(common) > 1 and worst <= TOLERANCE
        yield f"{run}: val/nll within {worst:.4f} of the recorded curve at updates {list(common)}", agrees


def beginning(config: Mapping[str, Any], num_updates: int) -> "pd.Series[float]":
    """The validation loss of the first updates of a run, by update."""
    from src.experiment import build_trainer
    from src.reports.curves import read_scalars
    from src.utils.progress import RunProgress
    from src.utils.tensorboard import Curves

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trainer = build_trainer(OmegaConf.create(dict(config)), folder)
        curves = Curves(folder, first_update=0)

        def stop() -> None:
            trainer.stop_requested = trainer.update >= num_updates

        with RunProgress(num_updates, 0, seconds_between_lines=1e9) as progress:
            trainer.fit(curves, progress, stop)
        curves.close({})
        return pd.Series(read_scalars(folder, ["val/nll"])["val/nll"], name="val/nll")
