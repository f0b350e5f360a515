"""The floors of a task as horizontal lines in TensorBoard, drawn once for all runs in a folder."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from src.config.paths import EVENT_FILES, FLOORS
from src.utils.events import event_writer
from src.utils.files import FolderInUseError, locked, write_whole

Floors = Mapping[str, Mapping[str, float]]


def draw_floors(folder: Path, task: str, floors: Floors, last_update: int) -> None:
    """Draw the floors of a task in the `val/...` charts of the runs in a folder, up to the last update.

    Each floor is a TensorBoard run, such as "floors/associative_retrieval/chance", so the legend names it. The same
    task with other settings can have other floors; the name of their folder ends in four more digits.

    Args:
        folder: the folder of the runs.
        task: the short name of the task.
        floors: {"description": {metric: value}}.
        last_update: where the lines end, unless they have already been drawn for a longer run.
    """
    values = json.dumps(floors, sort_keys=True)
    for name in (task, f"{task}-{hashlib.sha256(values.encode()).hexdigest()[:4]}"):
        home = folder / FLOORS / name
        home.mkdir(parents=True, exist_ok=True)
        try:
            with locked(home, patience=10):
                drawn, until = _drawn(home)
                if drawn in (None, values):
                    if drawn is None or until < last_update:
                        _draw(home, floors, last_update)
                        write_whole(home / "floors.json", json.dumps([values, last_update]).encode())
                    return
        except FolderInUseError:
            return


def _draw(home: Path, floors: Floors, last_update: int) -> None:
    for description, metrics in floors.items():
        line = home / description.replace("/", " per ")
        old = list(line.glob(EVENT_FILES))
        with event_writer(line) as writer:
            for update in (0, last_update):
                for metric, value in metrics.items():
                    writer.add_scalar(f"val/{metric}", value, update)
        for path in old:
            path.unlink(missing_ok=True)


def _drawn(home: Path) -> tuple[str | None, int]:
    """The floors already drawn, as JSON, and the update at which their lines end; (None, 0) if there are none."""
    try:
        values, until = json.loads((home / "floors.json").read_bytes())
    except (OSError, ValueError, TypeError):
        return None, 0
    return (values, until) if isinstance(values, str) and isinstance(until, int) else (None, 0)
