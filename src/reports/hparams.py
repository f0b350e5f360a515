"""What TensorBoard shows of a folder of runs as a whole: the columns of the HParams page, and figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.experiment import read_result
from src.identity import CANNOT_CHANGE_THE_RESULT, flat
from src.utils.tensorboard import write_folder_page

FIGURES = "figures"


def update_hparams_page(folder: Path) -> None:
    """Give the page the columns that the finished runs of a folder call for, beside the figures in `figures/`."""
    results = [result for path in sorted(folder.iterdir()) if (result := read_result(path)) and result["metrics"]]
    if results:
        configurations = [decisive(result["config"]) for result in results]
        metrics = dict.fromkeys(tag for result in results for tag in result["metrics"])
        tags = [tag.replace("val/", "val_selected/") for tag in metrics]
        images = {f"{FIGURES}/{path.stem}": path for path in sorted((folder / FIGURES).glob("*.png"))}
        write_folder_page(folder, configurations, tags, images)


def decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """The flat settings that decide the result of a run, from the configuration in its `result.json`.

    As `flat(decisive_settings(...))`, but without the detour over a DictConfig, which takes milliseconds a run.
    """

    def decides(key: str) -> bool:
        return not any(key == path or key.startswith(f"{path}.") for path in CANNOT_CHANGE_THE_RESULT)

    return {key: value for key, value in flat(config).items() if decides(key)}
