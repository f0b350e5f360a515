"""Files of data sets: found in a folder, or else downloaded into it, and checked before they are read."""

import gzip
import logging
import zlib
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from src.config.errors import UserError, explain

log = logging.getLogger(__name__)
SECONDS_WITHOUT_ANSWER = 30
CHUNK = 2**16


@dataclass(frozen=True)
class File:
    """One file of a data set.

    Attributes:
        path: below the data folder; there it may also be compressed, with the suffix `.gz`.
        size: bytes, uncompressed.
        sha256: of the content, uncompressed.
        url: where it is public; compressed if it ends in `.gz`. None if only its owner may hand it out.
        terms: who made it, and under which terms it may be used.
        other_paths: where else below the data folder it may be, since copies of it go by other names.
    """

    path: str
    size: int
    sha256: str
    url: str | None
    terms: str
    other_paths: tuple[str, ...] = ()

    def is_content(self, content: bytes) -> bool:
        """Whether these bytes are the file."""
        return len(content) == self.size and sha256(content).hexdigest() == self.sha256


def read(file: File, data_dir: str) -> bytes:
    """The content of a file, which is downloaded if it is not in the data folder.

    Raises:
        UserError: it is not there and cannot be downloaded, or it is there and is something else.
    """
    found = find(file, data_dir) or _download(file, *_places(file, data_dir)[:2])
    content = read_bounded(found, file.size)
    if not file.is_content(content):
        count = f"{len(content):,}" if len(content) <= file.size else f"more than {file.size:,}"
        differs = f"it has {count} bytes, not {file.size:,}"
        if len(content) == file.size:
            differs = f"its sha256 is {sha256(content).hexdigest()}, not {file.sha256}"
        again = "remove it to download it again" if file.url else "replace it"
        raise UserError(f"{found}: not the published file: {differs}; {again}")
    return content


def find(file: File, data_dir: str) -> Path | None:
    """Where a file, or what has its name, is in the data folder.

    Raises:
        UserError: the folder cannot be searched.
    """
    try:
        return next((path for path in _places(file, data_dir) if path.exists()), None)
    except OSError as error:
        raise UserError(f"{data_dir}: {explain(error)}") from None


def _places(file: File, data_dir: str) -> list[Path]:
    folder = expanded(data_dir)
    return [folder / path for name in (file.path, *file.other_paths) for path in (name, f"{name}.gz")]


def expanded(path: str, key: str = "") -> Path:
    """A path with the home folder in place of its `~`.

    Args:
        path: as it was given.
        key: with which a message names it, such as "task.file=".

    Raises:
        UserError: the home folder is not known.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{key}{path}: {error}") from None


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """The uncompressed content of a file, of which at most one byte more than allowed is read.

    Raises:
        UserError: it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: not a file")
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as stream:
            return stream.read(most_bytes + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: damaged: {error}") from None
    except OSError as error:
        raise UserError(explain(error)) from None


def _download(file: File, place: Path, compressed: Path) -> Path:
    """Download a file into its place; pooch compares its checksum, and moves it there when it is whole.

    A compressed file has no checksum of its own: it is removed again if its content is not the file.
    """
    if file.url is None:
        raise UserError(f"{place}: no such file, and it is not public; {file.terms}: put your copy there")
    import pooch  # takes a third of a second

    target = compressed if file.url.endswith(".gz") else place
    known = None if target is compressed else f"sha256:{file.sha256}"
    log.info("downloading %s to %s (%s)", file.url, target, file.terms)
    pooch.get_logger().setLevel(logging.WARNING)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _Bar(target.name, file.size) as bar:
            downloader = pooch.HTTPDownloader(bar, CHUNK, timeout=SECONDS_WITHOUT_ANSWER)
            pooch.retrieve(file.url, known, target.name, target.parent, downloader=downloader)
        if known is None and not _holds(target, file):
            target.unlink(missing_ok=True)
            raise ValueError("something else is there")
    except (OSError, ValueError) as error:  # those of requests are OSErrors
        why = " ".join(str(error).split())[:150] or type(error).__name__
        raise UserError(
            f"{target}: not there, and the download failed ({why}); put the file of {file.url} there, or set "
            "task.data_dir to a folder that has it"
        ) from None
    return target


def _holds(path: Path, file: File) -> bool:
    try:
        return file.is_content(read_bounded(path, file.size))
    except UserError:
        return False


class _Bar:
    """A progress bar of rich, as pooch uses one; it stops a download that is larger than the file."""

    def __init__(self, name: str, most_bytes: int):
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

        self.most_bytes = most_bytes
        self.total = most_bytes
        self.done = 0
        self.bar = Progress(TextColumn(name), BarColumn(bar_width=20), DownloadColumn(), transient=True)
        self.shown = self.bar.add_task(name, total=most_bytes)

    def __enter__(self) -> Any:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, num_bytes: int) -> None:
        """So many more have come."""
        self.done += num_bytes
        self.bar.update(self.shown, completed=self.done)
        if self.done > self.most_bytes + CHUNK:  # the last chunk is counted as a whole one
            raise ValueError(f"more than {self.most_bytes:,} bytes")

    def reset(self) -> None:
        """Start to count again: pooch does so at the end."""
        self.done = 0

    def close(self) -> None:
        """Nothing more will come."""
