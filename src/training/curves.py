"""The curves of a run during training: TensorBoard event files, and the same scalars as JSON lines."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from omegaconf import OmegaConf
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from torch import nn
from torch.utils.tensorboard.summary import hparams

from src.config.paths import METRICS
from src.config.settings import sortable
from src.utils.events import event_writer
from src.utils.files import write_whole
from src.utils.jsonl import records_of, to_line

HISTOGRAM_BINS = 40


class Curves:
    """The curves of one run. The x axis is always the update.

    Scalars go to the event file and to `metrics.jsonl`, one line per call: {"update": 500, "val/error": 0.6, ...}.
    TensorBoard sorts its pages by tag and opens the first two groups, so all other groups come after `train` and `val`
    in the alphabet.

    Args:
        folder: the folder of the run.
        first_update: points that an earlier attempt wrote for this update or later ones are dropped. TensorBoard has
            to be told at every start, including the first.
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
        """Add a point to each curve `group/name`."""
        self._write({f"{group}/{name}": value for name, value in values.items()}, update)

    def _write(
        self, tagged: Mapping[str, float], update: int, shown_as: Mapping[str, str | None] = MappingProxyType({})
    ) -> None:
        """Write points by tag; `shown_as` maps a tag to the one used in TensorBoard, or to None to omit it there."""
        for tag, value in tagged.items():
            if (shown := shown_as.get(tag, tag)) is not None:
                self.writer.add_scalar(shown, value, update)
        self.lines.write(to_line({"update": update, **tagged}))

    def trained(self, values: Mapping[str, float], losses: Collection[str], update: int) -> None:
        """Add a point to each curve `train/name`.

        In TensorBoard the gradient norm and the learning rate come after losses and errors, and a metric that is the
        only part of the loss is not shown twice.
        """
        shown_as: dict[str, str | None] = {
            f"train/{name}": f"weight_updates/{name}" for name in ("gradient_norm", "lr")
        }
        if len(losses) == 1:
            shown_as |= {f"train/{name}": None for name in losses}
        self._write({f"train/{name}": value for name, value in values.items()}, update, shown_as)

    def histograms(self, model: nn.Module, update: int) -> None:
        """Add norms and histograms of all weights and of their latest gradients, where these are finite."""
        for name, parameter in model.named_parameters():
            gradient = parameter.grad if update else None  # before the first update there is none
            for kind, tensor in (("weights", parameter.detach()), ("weights_gradient", gradient)):
                if tensor is not None and bool(tensor.isfinite().all()):
                    self.writer.add_scalar(f"{kind}_norm/{name}", tensor.norm(), update)
                    self.writer.add_histogram(f"{kind}/{name}", tensor, update, bins=HISTOGRAM_BINS)

    def selected(self, val: Mapping[str, float], selected_update: int, test: Mapping[str, float], update: int) -> None:
        """Add the metrics of the selected weights, one point each at the last update.

        In TensorBoard the test metrics share a group with the validation metrics, as `val_selected/test/error`: in a
        group of their own they would be the first thing one sees.
        """
        self.scalars("val_selected", {**val, "update": selected_update}, update)
        tagged = {f"test/{name}": value for name, value in test.items()}
        self._write(tagged, update, {tag: f"val_selected/{tag}" for tag in tagged})

    def describe(self, config: Mapping[str, Any], settings: Mapping[str, Any], trial: str) -> None:
        """Add the configuration and the note as text, and the settings to the HParams page; see `src.reports.hparams`.

        `trial` is the name of the run on that page.
        """
        self.text("configuration", OmegaConf.to_yaml(OmegaConf.create(dict(config))).splitlines(), 0)
        if config.get("note"):
            self.writer.add_text("note", str(config["note"]), 0)
        assert self.writer.file_writer is not None
        self.writer.file_writer.add_summary(hparams_pb(sortable(settings), trial_id=trial), 0)

    def text(self, tag: str, lines: Sequence[str], update: int) -> None:
        """Add lines of text in a fixed-width font."""
        self.writer.add_text(tag, "\n".join(f"    {line}" for line in lines), update)

    def figure(self, tag: str, figure: Any, update: int) -> None:
        """Add a matplotlib figure, and close it."""
        self.writer.add_figure(tag, figure, update, close=True)

    def flush(self) -> None:
        """Write everything so far to disk."""
        self.writer.flush()
        self.lines.flush()
        os.fsync(self.lines.fileno())

    def end(self, settings: Mapping[str, Any]) -> None:
        """End the session of this run on the HParams page."""
        _, _, session_end = hparams(sortable(settings), {})
        assert self.writer.file_writer is not None
        self.writer.file_writer.add_summary(session_end, 0)


def _drop_from(path: Path, first_update: int) -> None:
    """Drop the points from `first_update` on, and damaged lines."""
    if path.exists():
        numbered = [record for record in records_of(path.read_bytes()) if isinstance(record.get("update"), int)]
        kept = [record for record in numbered if record["update"] < first_update]
        write_whole(path, "".join(map(to_line, kept)).encode())
