"""The project's folders, and the files in the folder of a run or sweep."""

from pathlib import Path

from omegaconf import DictConfig

PROJECT = Path(__file__).resolve().parents[2]
CONFIGS = PROJECT / "configs"
REFERENCE = PROJECT / "outputs" / "reference"
"""Committed results."""

RESULT = "result.json"
STORED = ".hydra/config.yaml"
OVERRIDES = ".hydra/overrides.yaml"
METRICS = "metrics.jsonl"
EVENT_FILES = "events.out.tfevents.*"
CHECKPOINTS = "checkpoints"
LOG = "train.log"
MANIFEST = "sweep.json"
JOURNAL = "optuna.journal"
GROUP = "group.json"
FIGURES = "figures"
SUMMARY = "summary"
"""The TensorBoard run of this name shows what concerns a folder of runs as a whole."""
FLOORS = "floors"
"""The floors of the tasks in a folder of runs, each as a TensorBoard run."""


def folder_of_runs(config: DictConfig) -> Path:
    """The folder `name` below `run.root`, where ~ is the home folder."""
    return Path(config.run.root).expanduser() / config.name
