"""What TensorBoard shows of a folder of runs as a whole: the columns of the HParams page, and figures."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.config.fingerprint import decisive_keys
from src.config.paths import EVENT_FILES, FIGURES
from src.config.settings import varied
from src.results.result import read_result

SHOWN_OF_ONE_RUN = ("model", "task", "seed", "model.hidden_size", "optimizer.lr")
"""Settings that have a column on the HParams page if nothing varies."""


def update_hparams_page(folder: Path) -> None:
    """Give the page the columns that the finished runs of a folder call for, with the figures in `figures/`."""
    results = [result for path in sorted(folder.iterdir()) if (result := read_result(path)) and result["metrics"]]
    if results:
        configurations = [decisive_keys(result["config"]) for result in results]
        metrics = dict.fromkeys(tag for result in results for tag in result["metrics"])
        tags = [tag.replace("val/", "val_selected/") for tag in metrics]
        images = {f"{FIGURES}/{path.stem}": path for path in sorted((folder / FIGURES).glob("*.png"))}
        write_folder_page(folder, configurations, tags, images)


def write_folder_page(
    folder: Path,
    configurations: Sequence[Mapping[str, Any]],
    metrics: Sequence[str],
    images: Mapping[str, Path] | None = None,
) -> None:
    """What TensorBoard shows of a folder of runs as a whole, in one event file, which replaces the one before.

    These are the columns of the HParams page, what varies between the runs and the final metrics (without them every
    scalar of every run would become a column), and figures over all runs.

    Args:
        folder: the one that holds the runs' folders.
        configurations: the runs' settings by their full keys.
        metrics: tags of the final metrics.
        images: PNG files by their tags.
    """
    from torch.utils.tensorboard import SummaryWriter  # imports torch
    from torch.utils.tensorboard.summary import hparams

    columns = varied(configurations) or SHOWN_OF_ONE_RUN
    examples = {key: next((c[key] for c in configurations if key in c), "") for key in columns}
    experiment, _, _ = hparams(examples, dict.fromkeys(metrics, 0.0))
    old = list(folder.glob(EVENT_FILES))
    with SummaryWriter(str(folder)) as writer:
        assert writer.file_writer is not None
        writer.file_writer.add_summary(experiment, 0)
        for tag, path in (images or {}).items():
            writer.file_writer.add_summary(_image(tag, path.read_bytes()), 0)
    for path in old:
        path.unlink(missing_ok=True)


def _image(tag: str, png: bytes) -> Any:
    """A PNG file as it is; its first chunk begins with width and height."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    width, height = struct.unpack(">II", png[16:24])
    image = Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=4)
    return Summary(value=[Summary.Value(tag=tag, image=image)])
