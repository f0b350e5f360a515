"""Learning curves from the event files of many runs.

An event file is a sequence of records: length (8 bytes), its checksum (4), an event as a protocol buffer, its checksum
(4). All but a few of a run's events are histograms, images and other scalars. TensorBoard's own readers parse and check
each of them, in Python, which takes seconds per run; here the records without a wanted tag are stepped over.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from src.utils.tensorboard import EVENT_FILES

HEADER, FOOTER = 12, 4
LENGTH, CHECKSUM = struct.Struct("<Q"), struct.Struct("<I")
START = b"\x3a\x02\x08\x01"
"""In an event's bytes: field 7, a session log, of 2 bytes, whose field 1, the status, is START."""
LONGEST_BESIDE_TAG = 80
"""Bytes of a scalar's event that are not its tag; histograms and images are longer."""


def learning_curves(folder: Path, runs: pd.DataFrame, tag: str) -> pd.DataFrame:
    """The curve of a tag for each run, as a long table with columns run, update, value.

    Args:
        folder: the one that holds the runs' folders.
        runs: with a column `run`, as from `load_runs`.
        tag: of a scalar, such as "val/error" or "train/loss".
    """
    curves = []
    for run in runs["run"]:
        points = read_scalars(folder / run, [tag])[tag]
        curves.append(pd.DataFrame({"run": run, "update": list(points), "value": list(points.values())}))
    long = pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(columns=["run", "update", "value"])
    return long.astype({"run": object, "update": int, "value": float})


def read_scalars(folder: Path, tags: Sequence[str]) -> dict[str, dict[int, float]]:
    """The points {update: value} of some tags of one run, as TensorBoard shows them, in the order of the updates.

    A run that was gone on with has several files, each of which begins with the first update that it holds anew:
    points from there on that came before are dropped. A file that is being written is read to its last whole record.
    """
    points: dict[str, dict[int, float]] = {tag: {} for tag in tags}
    for path in sorted(folder.glob(EVENT_FILES)):
        for event in _events(path, tags):
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                for curve in points.values():
                    for update in [update for update in curve if update >= event.step]:
                        del curve[update]
            for value in event.summary.value:
                if value.tag in points:
                    points[value.tag][event.step] = value.simple_value
    return {tag: dict(sorted(curve.items())) for tag, curve in points.items()}


def _events(path: Path, tags: Sequence[str]) -> Iterator[Event]:
    """The events of a file that start a session or hold one of the tags."""
    names = [tag.encode() for tag in tags]
    # field 1 of a summary's value is its tag: 0x0a, length, name
    wanted = re.compile(b"|".join(map(re.escape, [START, *(b"\x0a" + bytes([len(name)]) + name for name in names)])))
    longest = LONGEST_BESIDE_TAG + max(map(len, names), default=0)
    try:
        data = path.read_bytes()
    except FileNotFoundError:  # the run was started over meanwhile
        return
    position = 0
    while position + HEADER <= len(data):
        start = position + HEADER
        end = start + LENGTH.unpack_from(data, position)[0]
        position = end + FOOTER
        if position > len(data):
            return
        if end - start <= longest and wanted.search(data, start, end):
            record = data[start:end]
            if masked_crc32c(record) != CHECKSUM.unpack_from(data, end)[0]:
                return  # what follows a damaged record cannot be trusted
            yield Event.FromString(record)
