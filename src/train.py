"""Train: `python -m src.train model=fastweights`, or a sweep with `-m`. See `--help`."""

import sys

import hydra
from omegaconf import DictConfig

from src.config.compose import MULTIRUN, for_hydra, prepare_hydra
from src.config.errors import raised_by_hydra
from src.config.paths import CONFIGS
from src.sweeping.ending import ending_in_a_table
from src.utils import lifeline, supervisor
from src.utils.console import printing

prepare_hydra()


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def launch(config: DictConfig) -> float:
    """Do one run, alone or as a job of a sweep."""
    from src.running.lifecycle import run  # imports torch, which `--help` need not wait for

    lifeline.follow()
    return run(config)


def command() -> None:
    """Run the command in this process."""
    sys.argv[1:] = for_hydra(sys.argv[1:])
    with printing(), ending_in_a_table(), raised_by_hydra():
        launch()


def main() -> None:
    """Run the command; a sweep survives runs that kill its process."""
    if MULTIRUN.intersection(sys.argv) or any(word.startswith(("experiment=", "hydra.mode=")) for word in sys.argv):
        supervisor.supervise()  # most experiments are sweeps
    command()


if __name__ == "__main__":
    main()
