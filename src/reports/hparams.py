"""What TensorBoard shows for a folder of runs as a whole."""

import struct
from pathlib import Path
from typing import Any

from src.config.fingerprint import decisive_keys
from src.config.paths import EVENT_FILES, FIGURES
from src.config.settings import varied
from src.results.result import read_result

SHOWN_OF_ONE_RUN = ("model", "task", "seed", "model.hidden_size", "optimizer.lr")
"""Settings with a column on the HParams page if nothing varies."""


def update_hparams_page(folder: Path) -> None:
    """Write what TensorBoard shows for a folder as a whole: HParams columns, and the images of `figures/`.

    Columns are the settings that vary and the final metrics; without them every scalar of every run would be a column.
    All of it is in one event file, which replaces the previous one.
    """
    results = [result for path in sorted(folder.iterdir()) if (result := read_result(path)) and result["metrics"]]
    if not results:
        return
    from torch.utils.tensorboard.summary import hparams  # imports torch

    from src.utils.events import event_writer

    configurations = [decisive_keys(result["config"]) for result in results]
    columns = varied(configurations) or SHOWN_OF_ONE_RUN
    examples = {key: next((c[key] for c in configurations if c.get(key, "None") != "None"), "") for key in columns}
    tags = (tag.replace("val/", "val_selected/") for result in results for tag in result["metrics"])
    experiment, _, _ = hparams(examples, dict.fromkeys(tags, 0.0))
    old = list(folder.glob(EVENT_FILES))
    with event_writer(folder) as writer:
        assert writer.file_writer is not None
        writer.file_writer.add_summary(experiment, 0)
        for path in sorted((folder / FIGURES).glob("*.png")):
            if path.is_file() and (png := path.read_bytes()).startswith(b"\x89PNG") and len(png) >= 24:
                writer.file_writer.add_summary(_image(f"{FIGURES}/{path.stem}", png), 0)
    for path in old:
        path.unlink(missing_ok=True)


def _image(tag: str, png: bytes) -> Any:
    """A PNG file unchanged; its first chunk starts with width and height."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    width, height = struct.unpack(">II", png[16:24])
    image = Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=4)
    return Summary(value=[Summary.Value(tag=tag, image=image)])
