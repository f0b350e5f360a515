"""TensorBoard's HParams page and images for a folder of runs as a whole."""

import logging
import mmap
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.config.errors import explain
from src.config.fingerprint import decisive_keys
from src.config.paths import EVENT_FILES, FIGURES, SUMMARY
from src.config.settings import sortable, varied
from src.results.result import read_result

log = logging.getLogger(__name__)
SHOWN_OF_ONE_RUN = ("model", "task", "seed", "model.hidden_size", "optimizer.lr")
"""Settings with a column on the HParams page if nothing varies."""


def update_hparams_page(folder: Path) -> None:
    """Write the HParams page and the images of a folder; a failure is only a warning, as no result depends on them."""
    try:
        _write(folder)
    except Exception as error:
        log.warning("no HParams page in TensorBoard: %s", explain(error))


def _write(folder: Path) -> None:
    """Write the columns of the HParams page, and the images of `figures/`.

    The columns are the settings that vary and the final metrics; if none were defined, every scalar of every run would
    be a column. Everything goes into one event file, which replaces the previous one, in a subfolder: TensorBoard shows
    it as a run called "summary". In the folder itself, it would be shown as ".".
    """
    found = {path: result for path in sorted(folder.iterdir()) if (result := read_result(path)) and result["metrics"]}
    if not found:
        return
    results = list(found.values())
    from tensorboard.plugins.hparams.summary_v2 import HParam, Metric, hparams_config_pb  # a slow import

    from src.utils.events import event_writer

    configurations = [decisive_keys(result["config"]) for result in results]
    columns = varied(configurations) or SHOWN_OF_ONE_RUN
    tags = dict.fromkeys(tag for result in results for tag in result["metrics"])
    metrics = [Metric(_tag_of_selected(tag), display_name=tag) for tag in tags]
    values = {key: [sortable(c)[key] for c in configurations if key in sortable(c)] for key in columns}
    experiment = hparams_config_pb([HParam(key, _domain(values[key])) for key in columns], metrics)
    old = [*folder.glob(EVENT_FILES), *(folder / SUMMARY).glob(EVENT_FILES)]
    with event_writer(folder / SUMMARY) as writer:
        assert writer.file_writer is not None
        writer.file_writer.add_summary(experiment, 0)
        for path in sorted((folder / FIGURES).glob("*.png")):
            if path.is_file() and (png := path.read_bytes()).startswith(b"\x89PNG") and len(png) >= 24:
                writer.file_writer.add_summary(_image(f"visualization/{path.stem}", png), 0)
    for path in old:
        path.unlink(missing_ok=True)
    for run, result in found.items():
        _add_final_metrics(run, result)


def _domain(values: Sequence[Any]) -> Any:
    """The values of a setting, shown as check boxes; None if they differ in type, such as strings and numbers."""
    from tensorboard.plugins.hparams.summary_v2 import Discrete

    kinds = {float if type(value) is int else type(value) for value in values}
    return Discrete(dict.fromkeys(map(kinds.pop(), values))) if len(kinds) == 1 else None


def _tag_of_selected(tag: str) -> str:
    """The tag of a final metric in TensorBoard, see `Curves.selected`."""
    split, _, name = tag.partition("/")
    return f"val_selected/{name}" if split == "val" else f"val_selected/{tag}"


def _add_final_metrics(run: Path, result: Mapping[str, Any]) -> None:
    """Add final metrics that earlier versions wrote under other tags, so that their columns are not empty."""
    files = list(run.glob(EVENT_FILES))
    shown = {_tag_of_selected(tag): value for tag, value in result["metrics"].items()}
    missing = {tag: value for tag, value in shown.items() if not any(_has_tag(file, tag) for file in files)}
    if not files or not missing:
        return
    from src.utils.events import event_writer

    with event_writer(run) as writer:
        for tag, value in missing.items():
            writer.add_scalar(tag, value, result.get("updates", 0))


def _has_tag(path: Path, tag: str) -> bool:
    """Whether an event file contains a curve; the search starts at the end, where the final metrics are."""
    if path.stat().st_size == 0:
        return False
    from tensorboard.compat.proto.summary_pb2 import Summary

    encoded = Summary.Value(tag=tag).SerializeToString()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.rfind(encoded) >= 0


def _image(tag: str, png: bytes) -> Any:
    """An image summary with an unchanged PNG file, whose first chunk starts with its width and height."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    width, height = struct.unpack(">II", png[16:24])
    image = Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=4)
    return Summary(value=[Summary.Value(tag=tag, image=image)])
