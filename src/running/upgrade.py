"""Upgrades runs of version 0.1 to today's conventions: the name and fingerprint, `metrics.jsonl`, checkpoints.

Version 0.1 named a run after the modules of its model, task and optimizer, so that none of them could move, and read
its curves from TensorBoard's event files.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.config.errors import explain
from src.config.fingerprint import fingerprint, run_name
from src.config.paths import CHECKPOINTS, EVENT_FILES, METRICS, RESULT, STORED
from src.results.curves import write_curves
from src.results.manifest import rename_runs
from src.results.result import read_result, write_result
from src.running.load import read_config, stored_config
from src.training import checkpoint

log = logging.getLogger(__name__)
CURVES = ("train/", "val/", "val_selected/", "test/")


def upgrade(folder: Path) -> dict[str, str]:
    """Upgrade all runs in a folder, and its manifest; return {old name: new name} of the runs renamed.

    Runs that are already upgraded stay as they are. A run that cannot be upgraded keeps its name, with a warning. The
    manifest is updated even if the upgrade is stopped midway.
    """
    ended = {path.parent for path in folder.glob(f"*/{RESULT}")}
    begun = {path.parents[1] for path in folder.glob(f"*/{STORED}")}
    names: dict[str, str] = {}
    try:
        for run in sorted(ended | begun):
            try:
                names[run.name] = _upgrade_run(run)
            except Exception as error:
                log.warning("%s cannot be upgraded: %s", run, explain(error))
    finally:
        rename_runs(folder, names)
    return {old: new for old, new in names.items() if old != new}


def upgrade_result(result: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The current name of a run, and its result with its fingerprint."""
    config = stored_config(result["config"])
    kept = {key: value for key, value in result.items() if key != "identity"}
    settings = OmegaConf.to_container(config) | {"device": result["config"]["device"]}  # type: ignore[operator]
    return run_name(config), kept | {"fingerprint": fingerprint(config), "config": settings}


def _upgrade_run(folder: Path) -> str:
    """Upgrade one run, rename its folder, and return its new name."""
    result = read_result(folder)
    if result is not None:
        name, upgraded = upgrade_result(result)
        write_result(folder, upgraded)
    else:
        name = run_name(read_config(folder))
    if not (folder / METRICS).exists():
        _write_metrics(folder)
    for saved in checkpoint.newest_first(folder / CHECKPOINTS):
        try:
            content = checkpoint.read(saved, torch.device("cpu"))
        except ValueError as error:
            log.warning("checkpoint %s cannot be used: %s", saved, error)
            continue
        if "identity" in content:
            del content["identity"]
            content |= {"fingerprint": name.rpartition("-")[2], "sum_of_norms": torch.zeros(())}
            checkpoint.write(folder / CHECKPOINTS, content["update"], content)
            saved.unlink(missing_ok=True)
    folder.rename(folder.with_name(name))
    return name


def _write_metrics(folder: Path) -> None:
    """Write the scalars of the event files to `metrics.jsonl`."""
    if not list(folder.glob(EVENT_FILES)):
        return
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith(CURVES)]
    write_curves(folder, {tag: {point.step: point.value for point in events.Scalars(tag)} for tag in tags})
