"""Tiny made-up files in the formats of the data sets, and descriptions with which they pass for the published ones."""

import gzip
import random
import struct
from dataclasses import replace
from functools import cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

from src.data import faces, mnist, music, text
from src.data.files import File
from src.tasks.drawn_faces import EXPRESSIONS, SIDE

DIGITS = {"train": 70, "test": 25}
PIECES = {"train": 30, "val": 40, "test": 25}


def described(file: File, content: bytes) -> File:
    """The description of a file, changed to fit another content."""
    return replace(file, size=len(content), sha256=sha256(content).hexdigest())


def idx(array: np.ndarray) -> bytes:
    """An array of bytes in the IDX format."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def pieces(seed: int, length: int = 12) -> dict[str, list[np.ndarray]]:
    """Pieces in which keys sound for several frames, and some keys more often than others."""
    random_ = np.random.default_rng(seed)
    share = np.linspace(0.02, 0.3, music.NUM_KEYS)

    def piece(num_frames: int) -> np.ndarray:
        frames = [random_.random(music.NUM_KEYS) < share]
        for _ in range(num_frames - 1):
            anew = random_.random(music.NUM_KEYS) < 0.2
            frames.append(np.where(anew, random_.random(music.NUM_KEYS) < share, frames[-1]))
        return np.array(frames, np.uint8)

    return {split: [piece(int(random_.integers(3, length))) for _ in range(n)] for split, n in PIECES.items()}


def mat(by_split: dict[str, list[np.ndarray]]) -> bytes:
    """Pieces in the format of the music files."""
    cells = {}
    for split, name in (("train", "traindata"), ("val", "validdata"), ("test", "testdata")):
        cells[name] = np.empty((1, len(by_split[split])), object)
        cells[name][0] = by_split[split]
    stream = BytesIO()
    savemat(stream, cells)
    return stream.getvalue()


def sentences(seed: int, num_words: int) -> str:
    """Words of a made-up language, one sentence a line."""
    random_ = random.Random(seed)
    syllables = ["ba", "du", "ki", "lo", "mer", "ti"]
    vocabulary = ["".join(random_.choices(syllables, k=random_.choice([1, 2, 3]))) for _ in range(12)]
    words = random_.choices(vocabulary, weights=range(1, 13), k=num_words)
    lines = [" ".join(words[start : start + 7]) for start in range(0, num_words, 7)]
    return "\n".join(lines) + "\n"


@cache
def contents() -> list[tuple[dict, Any, bytes]]:
    """Every file: the descriptions it belongs to, its key there, and its made-up content."""
    found: list[tuple[dict, Any, bytes]] = []
    for seed, name in enumerate(music.FILES):
        found.append((music.FILES, name, mat(pieces(seed))))
    for seed, name in enumerate(text.CHARACTERS):
        found.append((text.CHARACTERS, name, sentences(seed, 600).encode()))
    for seed, split in enumerate(text.PENN_TREEBANK):
        found.append((text.PENN_TREEBANK, split, sentences(7, 400 + seed).encode()))
    for seed, (part, what) in enumerate(mnist.FILES):
        shape, highest = ((DIGITS[part], 28, 28), 255) if what == "images" else ((DIGITS[part],), 9)
        array = np.random.default_rng(seed).integers(0, highest, shape, np.uint8, endpoint=True)
        found.append((mnist.FILES, (part, what), idx(array)))
    return found


@cache
def photographs() -> dict[str, bytes]:
    """Made-up images of 70 people, by path in a folder of faces: 30 images to train on, 40 to validate, 25 to test."""
    random_, made = np.random.default_rng(0), {}
    for person in range(70):
        for number in range(1 if person < 30 else 2 if person < 50 else 1 + (person < 55)):
            stream = BytesIO()
            Image.fromarray(random_.integers(0, 255, (SIDE, SIDE), np.uint8)).save(stream, "png")
            made[f"{EXPRESSIONS[(person + number) % 6]}/{person:03}_{number}.png"] = stream.getvalue()
    return made


def install(folder: Path, monkeypatch: Any) -> None:
    """Write all data sets into `folder`, and make the code take them for the published ones."""
    for files, key, content in contents():
        monkeypatch.setitem(files, key, described(files[key], content))
        path = folder / files[key].path
        path.parent.mkdir(parents=True, exist_ok=True)
        if files is mnist.FILES:
            path, content = path.with_name(f"{path.name}.gz"), gzip.compress(content)
        if not path.exists():
            path.write_bytes(content)
    for name, content in photographs().items():
        path = folder / faces.FOLDER / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
