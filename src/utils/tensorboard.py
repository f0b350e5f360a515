"""What a run shows in TensorBoard."""

import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from src.identity import varied

HISTOGRAM_BINS = 40
EVENT_FILES = "events.out.tfevents.*"
SHOWN_OF_ONE_RUN = ("model", "task", "seed", "model.hidden_size", "optimizer.lr")
"""Settings that have a column on the HParams page where nothing varies."""


class Curves:
    """The TensorBoard files of one run. Every x axis is the update.

    Args:
        folder: the run's.
        first_update: points of an earlier attempt from here on are dropped by TensorBoard; it wants to be told so
            at every start, the first one included.
    """

    def __init__(self, folder: Path, first_update: int):
        # TensorBoard reads a folder's files in the order of their names, which begin with the second they were made in
        while any(path.name.split(".")[3] == f"{int(time.time()):010d}" for path in folder.glob(EVENT_FILES)):
            time.sleep(0.05)
        self.writer = SummaryWriter(str(folder), purge_step=first_update)

    def scalars(self, group: str, values: Mapping[str, float], update: int) -> None:
        """Points of the curves `group/name`."""
        for name, value in values.items():
            self.writer.add_scalar(f"{group}/{name}", value, update)

    def floors(self, floors: Mapping[str, Mapping[str, float]], update: int) -> None:
        """The same values at every evaluation, so that they are horizontal lines."""
        for description, metrics in floors.items():
            for metric, value in metrics.items():
                self.writer.add_scalar(f"val_floor/{metric}/{description}", value, update)

    def weights(self, model: nn.Module, update: int) -> None:
        """Norms and histograms of all weights and of their last gradients."""
        for name, parameter in model.named_parameters():
            for kind, values in (("weight", parameter.detach()), ("gradient", parameter.grad if update else None)):
                if values is not None and bool(values.isfinite().all()):
                    self.writer.add_scalar(f"weights/{kind}_norm/{name}", values.norm(), update)
                    self.writer.add_histogram(f"{kind}/{name}", values, update, bins=HISTOGRAM_BINS)

    def describe(self, configuration: str, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """The configuration as text and on the HParams page, and a page of curves beside the task's floors."""
        indented = "\n".join(f"    {line}" for line in configuration.splitlines())
        self.writer.add_text("configuration", indented)
        _, session_start, _ = hparams(dict(settings), {})
        assert self.writer.file_writer is not None
        self.writer.file_writer.add_summary(session_start, 0)
        layout = {metric: ["Multiline", [rf"^val/{metric}$", rf"^val_floor/{metric}/.*"]] for metric in metrics}
        self.writer.add_custom_scalars({"learning curves beside the floors": layout})

    def text(self, tag: str, lines: Sequence[str], update: int) -> None:
        """Lines of text in a fixed-width font."""
        self.writer.add_text(tag, "\n".join(f"    {line}" for line in lines), update)

    def figure(self, tag: str, figure: Any, update: int) -> None:
        """A matplotlib figure, which is closed."""
        self.writer.add_figure(tag, figure, update, close=True)

    def flush(self) -> None:
        """Everything written so far is on disk."""
        self.writer.flush()

    def close(self, settings: Mapping[str, Any]) -> None:
        """End the session of the HParams page and the file."""
        _, _, session_end = hparams(dict(settings), {})
        assert self.writer.file_writer is not None
        self.writer.file_writer.add_summary(session_end, 0)
        self.writer.close()


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


def _image(tag: str, png: bytes) -> Summary:
    """A PNG file as it is; its width and height stand at the beginning of its first chunk."""
    width, height = struct.unpack(">II", png[16:24])
    image = Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=4)
    return Summary(value=[Summary.Value(tag=tag, image=image)])
