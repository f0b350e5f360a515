"""The project's folders, and the files in the folder of a run or sweep."""

from pathlib import Path

from omegaconf import DictConfig

PROJECT = Path(__file__).resolve().parents[2]
CONFIGS = PROJECT / "configs"
REFERENCE = PROJECT / "outputs" / "reference"
"""Committed results."""

RESULT = "result.json"
STORED = ".hydra/config.yaml"
METRICS = "metrics.jsonl"
EVENT_FILES = "events.out.tfevents.*"
CHECKPOINTS = "checkpoints"
LOG = "train.log"
MANIFEST = "sweep.json"
GROUP = "group.json"
FIGURES = "figures"


def folder_of_runs(config: DictConfig) -> Path:
    """The folder `name` below `run.root`, where ~ is the home folder."""
    return Path(config.run.root).expanduser() / config.name
