"""Train: `python -m src.train model=fastweights`, or a sweep with `-m`. See `--help`."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from src import errors, identity, sweep
from src.utils import lifeline

identity.register_resolvers()


@hydra.main(version_base="1.3", config_path=str(Path(__file__).resolve().parents[1] / "configs"), config_name="train")
def launch(config: DictConfig) -> float:
    """One run, whether alone or as a job of a sweep."""
    from src.experiment import run

    lifeline.follow()
    return run(config)


def main() -> None:
    """The command."""
    with sweep.ending_in_a_table(), errors.in_one_line():
        launch()


if __name__ == "__main__":
    main()
