"""Files of data sets, which are found in a folder or downloaded into it, and checked before they are used."""

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
        path: path below the data folder, where the file may also be compressed, with the suffix `.gz`.
        size: number of bytes, uncompressed.
        sha256: SHA-256 of the uncompressed content.
        url: public address, of a compressed file if it ends in `.gz`; None if only the owner may distribute the file.
        terms: who made the file, and under which terms it may be used.
        other_paths: other paths below the data folder at which the file may be, since copies of it go by other names.
    """

    path: str
    size: int
    sha256: str
    url: str | None
    terms: str
    other_paths: tuple[str, ...] = ()

    def is_content(self, content: bytes) -> bool:
        """Whether these bytes are the content of the file."""
        return len(content) == self.size and sha256(content).hexdigest() == self.sha256


def read(file: File, data_dir: str) -> bytes:
    """The content of a file, which is downloaded if it is not in the data folder.

    Raises:
        UserError: the file is missing and cannot be downloaded, or its content is not the published one.
    """
    found = find(file, data_dir) or _download(file, *_places(file, data_dir)[:2])
    content = read_bounded(found, file.size)
    if not file.is_content(content):
        differs = f"it has {len(content):,} bytes, not {file.size:,}"
        if len(content) > file.size:  # no more of it has been read
            differs = f"it has more than {file.size:,} bytes"
        elif len(content) == file.size:
            differs = f"its sha256 is {sha256(content).hexdigest()}, not {file.sha256}"
        again = "remove it to download it again" if file.url else "replace it"
        raise UserError(f"{found}: not the published file: {differs}; {again}")
    return content


def find(file: File, data_dir: str) -> Path | None:
    """The path of a file, or of anything with its name, in the data folder; None if there is none.

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
    """A path with `~` replaced by the home folder.

    Args:
        path: the path as it was given.
        key: prefix of the path in error messages, such as "task.file=".

    Raises:
        UserError: the home folder is not known.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{key}{path}: {error}") from None


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """The uncompressed content of a file; at most one byte more than `most_bytes` is read.

    Raises:
        UserError: the file cannot be read.
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
    """Download a file into its place; pooch compares the checksum and moves the file there once it is complete.

    The checksum of a compressed file is not known, so it is removed again if its content is not that of the file.
    """
    if file.url is None:
        raise UserError(f"{place}: no such file, and it cannot be downloaded; {file.terms}: put your own copy there")
    import pooch  # this takes a third of a second

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
            raise ValueError("this address has another file")
    except (OSError, ValueError) as error:  # the errors of requests are OSErrors
        why = " ".join(str(error).split())[:150] or type(error).__name__
        raise UserError(
            f"{target}: no such file, and the download failed ({why}); put the file from {file.url} there, or set "
            "task.data_dir to a folder that has it"
        ) from None
    return target


def _holds(path: Path, file: File) -> bool:
    try:
        return file.is_content(read_bounded(path, file.size))
    except UserError:
        return False


class _Bar:
    """A rich progress bar with the methods that pooch calls; it stops a download that is larger than the file."""

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
        """Add the bytes that have arrived since the last call."""
        self.done += num_bytes
        self.bar.update(self.shown, completed=self.done)
        if self.done > self.most_bytes + CHUNK:  # the last chunk is counted as a whole one
            raise ValueError(f"it has more than {self.most_bytes:,} bytes")

    def reset(self) -> None:
        """Restart the count, which pooch does at the end."""
        self.done = 0

    def close(self) -> None:
        """Do nothing: `__exit__` stops the bar."""
