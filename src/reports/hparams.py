"""The HParams page of TensorBoard over a folder of runs."""

from pathlib import Path

from omegaconf import OmegaConf

from src.experiment import read_result
from src.identity import decisive_settings, flat
from src.utils.tensorboard import write_hparams_page


def update_hparams_page(folder: Path) -> None:
    """Give the page the columns that the finished runs of a folder call for."""
    results = [result for path in sorted(folder.iterdir()) if (result := read_result(path)) and result["metrics"]]
    if results:
        configurations = [flat(decisive_settings(OmegaConf.create(result["config"]))) for result in results]
        metrics = dict.fromkeys(tag for result in results for tag in result["metrics"])
        tags = [tag.replace("val/", "val_selected/") for tag in metrics]
        write_hparams_page(folder, configurations, tags)
