"""TensorBoard's event files."""

import re
import time
from pathlib import Path
from types import SimpleNamespace

from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard import SummaryWriter

from src.config.paths import EVENT_FILES


def event_writer(folder: Path, purge_step: int | None = None) -> SummaryWriter:
    """A writer whose file TensorBoard reads after all others in the folder.

    It reads them in the order of their names. A name begins with the time in seconds, which can equal the time in an
    earlier file's name, or precede it if the clock has been set back.
    """
    names = (re.fullmatch(r"events\.out\.tfevents\.(\d{10})\..*", path.name) for path in folder.glob(EVENT_FILES))
    latest = max((int(name[1]) for name in names if name), default=0)
    original = event_file_writer.time
    event_file_writer.time = SimpleNamespace(time=lambda: max(time.time(), latest + 1))
    try:
        return SummaryWriter(str(folder), purge_step=purge_step)
    finally:
        event_file_writer.time = original
