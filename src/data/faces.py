"""A user's own photographs of faces in a folder, such as those of Multi-PIE, which may not be distributed.

    <data_dir>/multi_pie/<expression>/<person>_<anything>.png       48 x 48 pixels, aligned; or another of `SUFFIXES`

Shapes: N images of S x S pixels.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from src.config.errors import UserError
from src.data.files import expanded
from src.specs import Split

FOLDER = "multi_pie"
SUFFIXES = (".png", ".pgm", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
BY_HAND = "Multi-PIE is licensed by Carnegie Mellon University: put your own copy, cropped to the faces,"


class Photograph(NamedTuple):
    """A file, the person it shows, and the number of the expression."""

    path: Path
    person: str
    expression: int


def find(data_dir: str, expressions: Sequence[str]) -> list[Photograph]:
    """All photographs of a folder, in a fixed order.

    Raises:
        UserError: the folder of an expression is missing or has no photographs, or a file does not name a person.
    """
    found = []
    for number, expression in enumerate(expressions):
        folder = expanded(data_dir) / FOLDER / expression
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; {BY_HAND} into folders {', '.join(expressions)}")
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
        if not paths:
            raise UserError(f"{folder}: no photographs in it; legal: {', '.join(SUFFIXES)}")
        for path in paths:
            person, separator, _ = path.stem.partition("_")
            if not (person and separator):
                raise UserError(f"{path}: names no person; rename it to <person>_<anything>{path.suffix}")
            found.append(Photograph(path, person, number))
    return found


def divide(photographs: Sequence[Photograph], num_val: int, num_test: int) -> dict[Split, list[Photograph]]:
    """The photographs of each split, by person: the last people are for testing, those before them for validation.

    Raises:
        UserError: there are too few people.
    """
    people = sorted({photograph.person for photograph in photographs})
    if len(people) <= num_val + num_test:
        raise UserError(
            f"{len(people)} people in {FOLDER}: must be more than task.num_val_people + task.num_test_people = "
            f"{num_val + num_test}, to leave some to train on"
        )
    last = len(people) - num_test
    of_split: dict[Split, set[str]] = {
        "train": set(people[: last - num_val]), "val": set(people[last - num_val : last]), "test": set(people[last:])
    }  # fmt: skip
    return {split: [it for it in photographs if it.person in these] for split, these in of_split.items()}


def digest(photographs: Sequence[Photograph]) -> str:
    """A digest of the names and contents of photographs, which does not depend on where their folder is."""
    whole = hashlib.sha256()
    for path, _, expression in photographs:
        with open(path, "rb") as file:
            whole.update(f"{expression}/{path.name}\0".encode() + hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:16]


def read(photographs: Sequence[Photograph], side: int) -> np.ndarray:
    """The images in gray, [N, S, S], as bytes: the upper 8 bits if pixels have 16.

    Raises:
        UserError: a file is not an image, has another size (its pixels are not read then), or has 32-bit gray values.
    """
    images = np.empty((len(photographs), side, side), np.uint8)
    for number, photograph in enumerate(photographs):
        images[number] = _image(photograph.path, side)
    return images


def _image(path: Path, side: int) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as image:
            size, mode = " x ".join(map(str, image.size)), image.mode
            has_16_bits = mode.startswith("I;16") or (mode == "I" and image.format == "PPM")  # Pillow widens 16-bit PGM
            if image.size == (side, side) and has_16_bits:
                return (np.asarray(image) >> 8).astype(np.uint8)
            if image.size == (side, side) and mode not in ("I", "F"):
                return np.asarray(image.convert("L"))
    except Exception as error:  # whatever is raised for a file of another kind
        raise UserError(f"{path}: not an image: {' '.join(str(error).split()) or type(error).__name__}") from None
    if mode in ("I", "F") and not has_16_bits:
        raise UserError(f"{path}: 32 bits per gray value; save it with 8 or 16")
    raise UserError(f"{path}: {size} pixels, not {side} x {side}")
