"""Texts as sequences of symbols: characters or words."""

from dataclasses import dataclass

import numpy as np

from src.config.errors import UserError
from src.data.files import File, expanded, read, read_bounded
from src.specs import SPLITS, Split

MOST_BYTES = 2**28
"""The largest size of a user's own text: 268 MB, which take 6 GB of memory while they are read."""
SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
"""The share of each split, in this order, of a text without splits of its own (Karpathy et al. 2015)."""
END_OF_LINE, UNKNOWN = "<eos>", "<unk>"

_GITHUB = "https://raw.githubusercontent.com"
_LDC = (
    "the Wall Street Journal text of the Penn Treebank belongs to the Linguistic Data Consortium (LDC99T42, LDC User "
    "Agreement); this is the preprocessed file of Mikolov et al. 2010"
)


def _treebank(name: str, num_bytes: int, sha256: str) -> File:
    return File(f"text/{name}", num_bytes, sha256, None, _LDC)


WAR_AND_PEACE = File(
    "text/war_and_peace.txt",
    3_196_228,
    "b0fc81c399971eaf738c8be89809e6a0d95c151749112b04f06b6af648d8a39f",
    f"{_GITHUB}/MrHereward/machine_learning_sandbox/2d0fdf30f4afbcf01c1b8c7b408e738a0161d613/warpeace_input.txt",
    "War and Peace in the translation of L. and A. Maude, Project Gutenberg, public domain in the USA",
)
TINY_SHAKESPEARE = File(
    "text/tiny_shakespeare.txt",
    1_115_394,
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    f"{_GITHUB}/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
    "plays of Shakespeare, public domain",
)
CHARACTERS = {"war_and_peace": WAR_AND_PEACE, "tiny_shakespeare": TINY_SHAKESPEARE}
PENN_TREEBANK: dict[Split, File] = {
    "train": _treebank("ptb.train.txt", 5_101_618, "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf"),
    "val": _treebank("ptb.valid.txt", 399_782, "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2"),
    "test": _treebank("ptb.test.txt", 449_945, "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0"),
}
NUM_SYMBOLS = {"war_and_peace": 82, "tiny_shakespeare": 65, "penn_treebank": 10_000}
"""The number of symbols in each published text, so that a network can be built without its files."""


@dataclass(frozen=True)
class Corpus:
    """A text as the numbers of its symbols.

    Attributes:
        symbols: characters or words, each once, in the order of their numbers.
        splits: the numbers of the symbols of each split, in the order of the text.
        texts: the text of each split as bytes.
    """

    symbols: list[str]
    splits: dict[Split, np.ndarray]
    texts: dict[Split, bytes]


def characters(text: str) -> Corpus:
    """A text as characters, divided into 80 % training, 10 % validation and 10 % test, in this order."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    symbols = np.flatnonzero(np.bincount(codes))
    number_of = np.zeros(symbols[-1] + 1 if len(symbols) else 0, np.int64)
    number_of[symbols] = np.arange(len(symbols))
    numbers = number_of[codes]
    ends = np.round(np.cumsum(list(SHARES.values())) * len(codes)).astype(int)
    starts = [0, *ends[:-1]]
    places = {split: slice(start, end) for split, start, end in zip(SPLITS, starts, ends, strict=True)}
    return Corpus(
        [chr(code) for code in symbols],
        {split: numbers[place] for split, place in places.items()},
        {split: text[place].encode() for split, place in places.items()},
    )


def words(texts: dict[Split, str]) -> Corpus:
    """Texts as words, each line ending in <eos>; words that are not in the training text become <unk>."""
    by_split = {
        split: [word for line in text.splitlines() for word in (*line.split(), END_OF_LINE)]
        for split, text in texts.items()
    }
    symbols = sorted({*by_split["train"], UNKNOWN})
    numbers = {word: number for number, word in enumerate(symbols)}
    unknown = numbers[UNKNOWN]
    ids = {split: np.array([numbers.get(word, unknown) for word in found]) for split, found in by_split.items()}
    return Corpus(symbols, ids, {split: text.encode() for split, text in texts.items()})


def published(name: str, data_dir: str) -> Corpus:
    """The words of `penn_treebank`, or the characters of another published text.

    Raises:
        UserError: a file is missing and cannot be downloaded, or is not the published one.
    """
    if name == "penn_treebank":
        return words({split: read(file, data_dir).decode() for split, file in PENN_TREEBANK.items()})
    return characters(read(CHARACTERS[name], data_dir).decode())


def own(path: str) -> Corpus:
    """The characters of a user's own text file in UTF-8.

    Raises:
        UserError: the file is missing, not a text in UTF-8, too short or too large.
    """
    place = expanded(path, "task.file=")
    if not place.exists():
        raise UserError(f"task.file={path}: no such file")
    content = read_bounded(place, MOST_BYTES)
    if len(content) > MOST_BYTES:
        raise UserError(f"task.file={path}: larger than {MOST_BYTES:,} bytes")
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"task.file={path}: not in UTF-8 (byte {error.start:,}); convert it, for example with "
            f"iconv -f LATIN1 -t UTF-8"
        ) from None
    if "\0" in text:
        raise UserError(f"task.file={path}: not a text: it contains null bytes")
    corpus = characters(text)
    if min(map(len, corpus.splits.values())) < 2:
        raise UserError(f"task.file={path}: {len(text)} characters are too few to train, validate and test on")
    return corpus
