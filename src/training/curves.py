"""The curves of a run during training: TensorBoard event files, and the same scalars as JSON lines."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import nn
from torch.utils.tensorboard.summary import hparams

from src.config.paths import METRICS
from src.utils.events import event_writer
from src.utils.files import write_whole
from src.utils.jsonl import read_lines, to_line

HISTOGRAM_BINS = 40


class Curves:
    """The curves of one run. Every x axis is the update.

    Scalars go to the event file and to `metrics.jsonl`, a line for each call: {"update": 500, "val/error": 0.6, ...}.

    Args:
        folder: of the run.
        first_update: points of an earlier attempt from this update on are dropped. TensorBoard has to be told at every
            start, including the first.
    """

    def __init__(self, folder: Path, first_update: int):
        self.writer = event_writer(folder, purge_step=first_update)
        _drop_from(folder / METRICS, first_update)
        self.lines = open(folder / METRICS, "a")  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> "Curves":
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()
        self.lines.close()

    def scalars(self, group: str, values: Mapping[str, float], update: int) -> None:
        """Points of the curves `group/name`."""
        tagged = {f"{group}/{name}": value for name, value in values.items()}
        for tag, value in tagged.items():
            self.writer.add_scalar(tag, value, update)
        self.lines.write(to_line({"update": update} | tagged))

    def evaluated(
        self, metrics: Mapping[str, float], floors: Mapping[str, Mapping[str, float]], model: nn.Module, update: int
    ) -> None:
        """An evaluation on the validation set; floors, which appear as horizontal lines; weights and last gradients."""
        self.scalars("val", metrics, update)
        for description, values in floors.items():
            for metric, value in values.items():
                self.writer.add_scalar(f"val_floor/{metric}/{description}", value, update)
        for name, parameter in model.named_parameters():
            for kind, tensor in (("weight", parameter.detach()), ("gradient", parameter.grad if update else None)):
                if tensor is not None and bool(tensor.isfinite().all()):
                    self.writer.add_scalar(f"weights/{kind}_norm/{name}", tensor.norm(), update)
                    self.writer.add_histogram(f"{kind}/{name}", tensor, update, bins=HISTOGRAM_BINS)

    def describe(self, config: Mapping[str, Any], settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """The configuration as text and on the HParams page, and a page of curves with the task's floors."""
        self.text("configuration", OmegaConf.to_yaml(OmegaConf.create(dict(config))).splitlines(), 0)
        _, session_start, _ = hparams(_sortable(settings), {})
        assert self.writer.file_writer is not None
        self.writer.file_writer.add_summary(session_start, 0)
        layout = {metric: ["Multiline", [rf"^val/{metric}$", rf"^val_floor/{metric}/.*"]] for metric in metrics}
        self.writer.add_custom_scalars({"learning curves and floors": layout})

    def text(self, tag: str, lines: Sequence[str], update: int) -> None:
        """Lines of text in a fixed-width font."""
        self.writer.add_text(tag, "\n".join(f"    {line}" for line in lines), update)

    def figure(self, tag: str, figure: Any, update: int) -> None:
        """A matplotlib figure, which is closed."""
        self.writer.add_figure(tag, figure, update, close=True)

    def flush(self) -> None:
        """Write everything so far to disk."""
        self.writer.flush()
        self.lines.flush()
        os.fsync(self.lines.fileno())

    def end(self, settings: Mapping[str, Any]) -> None:
        """End the session of the HParams page."""
        _, _, session_end = hparams(_sortable(settings), {})
        assert self.writer.file_writer is not None
        self.writer.file_writer.add_summary(session_end, 0)


def _sortable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for the HParams page without nulls, since TensorBoard cannot sort a column of texts and numbers."""
    return {key: value for key, value in settings.items() if value != "None"}


def _drop_from(path: Path, first_update: int) -> None:
    """Drop the points from `first_update` on, and a truncated line."""
    if path.exists():
        numbered = [record for record in read_lines(path) if isinstance(record.get("update"), int)]
        kept = [record for record in numbered if record["update"] < first_update]
        write_whole(path, "".join(map(to_line, kept)).encode())
