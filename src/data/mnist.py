"""MNIST, the handwritten digits of LeCun, Cortes and Burges, in the IDX format.

Shapes: N images of 28 x 28 pixels.
"""

import math

import numpy as np

from src.config.errors import UserError
from src.data.files import File, read
from src.specs import SPLITS, Split

MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist"
TERMS = "MNIST of LeCun, Cortes and Burges, CC BY-SA 3.0"


def _file(name: str, size: int, sha256: str) -> File:
    names = name, name.replace("-idx", ".idx")  # the second is the name under which some programs unpack it
    path, *others = [f"{folder}{each}" for folder in ("mnist/", "") for each in names]
    return File(path, size, sha256, f"{MIRROR}/{name}.gz", TERMS, tuple(others))


FILES = {
    ("train", "images"): _file(
        "train-images-idx3-ubyte", 47_040_016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
    ),
    ("train", "labels"): _file(
        "train-labels-idx1-ubyte", 60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
    ),
    ("test", "images"): _file(
        "t10k-images-idx3-ubyte", 7_840_016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
    ),
    ("test", "labels"): _file(
        "t10k-labels-idx1-ubyte", 10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
    ),
}
"""The files of each part of the published data; validation images have to be taken from the training images."""
UNSIGNED_BYTES = 8
"""The code of the type of unsigned bytes in IDX, the only type in MNIST."""
SIDE = 28
NUM_CLASSES = 10
NUM_VALIDATION = 10_000
"""The number of validation images, the last of the published training images, unless a task sets another."""


def load(split: Split, data_dir: str, num_validation: int = NUM_VALIDATION) -> tuple[np.ndarray, np.ndarray]:
    """The images of a split [N, 28, 28] as bytes (0 is the background), and their digits [N] as 64-bit integers.

    The validation set is the last `num_validation` of the 60,000 published training images, the training set the
    others. The arrays are views of the file contents where possible, and must not be written to.

    Raises:
        UserError: a file is missing and cannot be downloaded, or is not the published one.
    """
    start, end = bounds(split, num_validation)
    part = "test" if split == "test" else "train"
    found, digits = images(part, data_dir), labels(part, data_dir)
    if found.shape != (len(digits), SIDE, SIDE) or digits.max(initial=0) >= NUM_CLASSES:
        name, shape = FILES[part, "images"].path, list(found.shape)
        raise UserError(f"{name}: images of shape {shape} do not match {len(digits)} labels below {NUM_CLASSES}")
    return found[start:end], digits[start:end].astype(np.int64)


def bounds(split: Split, num_validation: int = NUM_VALIDATION) -> tuple[int, int]:
    """The number of the first image of a split, and one past the last, in its part of the data; no file is read."""
    num_images = FILES["test" if split == "test" else "train", "labels"].size - _header(1)
    return {"train": (0, num_images - num_validation), "val": (num_images - num_validation, num_images)}.get(
        split, (0, num_images)
    )


def sizes(num_validation: int) -> dict[Split, int]:
    """The number of images in each split.

    Raises:
        ValueError: no images are left to train on.
    """
    of_each = {split: bounds(split, num_validation) for split in SPLITS}
    if of_each["train"][1] < 1:
        raise ValueError(
            f"val_size={num_validation}: must be at most {of_each['val'][1] - 1}, to leave some to train on"
        )
    return {split: end - start for split, (start, end) in of_each.items()}


def images(part: str, data_dir: str) -> np.ndarray:
    """The 60,000 images of "train" or the 10,000 of "test", [N, 28, 28], as bytes: 0 is the background."""
    return parse_idx(read(FILES[part, "images"], data_dir), FILES[part, "images"].path)


def labels(part: str, data_dir: str) -> np.ndarray:
    """The digits of these images, [N], as bytes."""
    return parse_idx(read(FILES[part, "labels"], data_dir), FILES[part, "labels"].path)


def parse_idx(content: bytes, name: str) -> np.ndarray:
    """The array in an IDX file of bytes: two zeros, the type, the number of dimensions, their sizes, the entries.

    Raises:
        UserError: the content is not an IDX file of bytes, or is damaged.
    """
    if len(content) < 4 or content[:3] != bytes([0, 0, UNSIGNED_BYTES]):
        raise UserError(f"{name}: not an IDX file of bytes")
    start = _header(content[3])
    shape = [int(size) for size in np.frombuffer(content[4:start], ">u4", count=len(content[4:start]) // 4)]
    num_entries = math.prod(shape)
    if len(shape) != content[3] or num_entries != len(content) - start:
        raise UserError(f"{name}: damaged: {len(content) - start} entries, not {num_entries} of shape {shape}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _header(num_dimensions: int) -> int:
    """The number of bytes before the entries."""
    return 4 + 4 * num_dimensions
