"""IDX, MATLAB and text files are read into arrays; a file of another kind is refused in one line."""

import numpy as np
import pytest
from scipy.io import savemat

from src.config.errors import UserError
from src.data import mnist, music, text
from src.specs import SPLITS
from tests.data import made_up


def refused(read, *arguments):
    with pytest.raises(UserError) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_idx_file_holds_an_array():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.testing.assert_array_equal(mnist.parse_idx(made_up.idx(array), "images"), array)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\0\0", b"\0\0\r\1" + bytes(8), b"text", b"\0\0\x08\x03" + bytes(5), b"\0\0\x08\xff" + b"\xff" * 1020,
        made_up.idx(np.ones((2, 3), np.uint8))[:-1], made_up.idx(np.ones((2, 3), np.uint8)) + b"\0",
    ],
    ids=["empty", "short", "floats", "text", "no sizes", "255 dimensions", "truncated", "too long"],
)  # fmt: skip
def test_another_file_than_idx_is_refused(content):
    assert refused(mnist.parse_idx, content, "images").startswith("images: ")


def test_the_digits_of_training_are_divided_into_training_and_validation(tmp_path, monkeypatch):
    made_up.install(tmp_path, monkeypatch)
    everything, digits = mnist.images("train", str(tmp_path)), mnist.labels("train", str(tmp_path))
    parts = [mnist.load(split, str(tmp_path), num_validation=20) for split in ("train", "val")]
    np.testing.assert_array_equal(np.concatenate([images for images, _ in parts]), everything)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in parts]), digits)
    (train, _), (val, labels) = parts
    assert (train.shape, val.shape, val.dtype, labels.dtype) == ((50, 28, 28), (20, 28, 28), np.uint8, np.int64)
    images, labels = mnist.load("test", str(tmp_path), num_validation=20)
    np.testing.assert_array_equal(images, mnist.images("test", str(tmp_path)))
    assert labels.shape == (25,)


def test_the_published_digits_are_divided_at_the_last_ten_thousand():
    assert [mnist.bounds(split) for split in SPLITS] == [(0, 50_000), (50_000, 60_000), (0, 10_000)]


@pytest.mark.parametrize("folder", ["mnist/", ""])
@pytest.mark.parametrize("name", ["t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"])
def test_mnist_is_found_under_the_names_of_its_copies(folder, name, tmp_path, monkeypatch):
    made_up.install(tmp_path / "made", monkeypatch)
    there = tmp_path / "copy" / folder
    there.mkdir(parents=True)
    (there / f"{name}.gz").write_bytes((tmp_path / "made/mnist/t10k-labels-idx1-ubyte.gz").read_bytes())
    copy, made = (mnist.labels("test", str(tmp_path / where)) for where in ("copy", "made"))
    np.testing.assert_array_equal(copy, made)


@pytest.mark.parametrize(
    ("what", "array"),
    [("labels", np.zeros(3, np.uint8)), ("labels", np.full(25, 10, np.uint8)), ("images", np.zeros((25, 9), np.uint8))],
    ids=["too few labels", "no digits", "no images"],
)
def test_images_and_labels_that_do_not_match_are_refused(what, array, tmp_path, monkeypatch):
    made_up.install(tmp_path, monkeypatch)
    content, file = made_up.idx(array), mnist.FILES["test", what]
    monkeypatch.setitem(mnist.FILES, ("test", what), made_up.described(file, content))
    (tmp_path / file.path).write_bytes(content)
    assert refused(mnist.load, "test", str(tmp_path)).startswith("mnist/t10k-images-idx3-ubyte: ")


def test_music_has_the_pieces_of_each_split(tmp_path, monkeypatch):
    made_up.install(tmp_path, monkeypatch)
    for seed, name in enumerate(music.FILES):
        found, expected = music.pieces(name, str(tmp_path)), made_up.pieces(seed)
        for split in SPLITS:
            assert len(found[split]) == made_up.PIECES[split]
            assert all(map(np.array_equal, found[split], expected[split]))


def saved(tmp_path, **variables):
    savemat(tmp_path / "x.mat", variables)
    return (tmp_path / "x.mat").read_bytes()


def cell(*pieces):
    array = np.empty((1, len(pieces)), object)
    for k, piece in enumerate(pieces):
        array[0, k] = piece
    return array


GOOD = np.zeros((3, 88), np.uint8)


@pytest.mark.parametrize(
    ("pieces", "says"),
    [
        (np.zeros((2, 88)), "no pieces in traindata"),
        (cell(GOOD, np.zeros((3, 87))), "traindata[1] has 3 frames of 87 keys: must be 1 or more of 88"),
        (cell(np.zeros((0, 88)), GOOD), "traindata[0] has 0 frames of"),
        (cell(GOOD + 2, GOOD), "traindata[0] has entries other than 0 and 1"),
        (cell(np.full((3, 88), np.nan), GOOD), "traindata[0] has entries other than 0 and 1"),
        (cell(np.array(["abc"]), GOOD), "traindata[0] is not a piano roll"),
    ],
    ids=["numbers", "keys", "no frames", "entries", "nan", "text"],
)
def test_a_matlab_file_with_something_else_is_refused(pieces, says, tmp_path):
    content = saved(tmp_path, traindata=pieces, validdata=cell(GOOD, GOOD), testdata=cell(GOOD, GOOD))
    assert says in refused(music.parse_mat, content, "x.mat")


def test_another_file_than_matlab_is_refused(tmp_path):
    whole = made_up.mat(made_up.pieces(0))
    for content in (b"", b"text", whole[: len(whole) // 2], b"\x80\x04\x95" + bytes(100)):
        assert refused(music.parse_mat, content, "x.mat").startswith("x.mat: ")
    assert refused(music.parse_mat, saved(tmp_path, other=GOOD), "x.mat") == "x.mat: no pieces in traindata"


def test_the_splits_of_a_text_are_the_whole_text():
    whole = made_up.sentences(0, 500) + "é\N{GRINNING FACE}"
    corpus = text.characters(whole)
    read = "".join(corpus.symbols[number] for split in SPLITS for number in corpus.splits[split])
    assert read == whole == b"".join(corpus.texts.values()).decode()
    assert corpus.symbols == sorted(set(whole))
    shares = [len(corpus.splits[split]) / len(whole) for split in SPLITS]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=1e-3)


def test_words_end_lines_and_unknown_ones_are_marked():
    corpus = text.words({"train": "a b\nb c\n", "val": "c d\n", "test": "<unk>\n"})
    assert corpus.symbols == ["<eos>", "<unk>", "a", "b", "c"]
    assert [corpus.symbols[number] for number in corpus.splits["train"]] == ["a", "b", "<eos>", "b", "c", "<eos>"]
    assert [corpus.symbols[number] for number in corpus.splits["val"]] == ["c", "<unk>", "<eos>"]


def test_a_text_of_ones_own_is_read_with_any_line_ends(tmp_path):
    for content in ("abc\nde" * 20, "abc\r\nde" * 20, "\ufeff" + "abc\nde" * 20):
        (tmp_path / "own.txt").write_bytes(content.encode())
        assert text.own(str(tmp_path / "own.txt")).symbols == ["\n", "a", "b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        (b"", "0 characters are too few to train, validate and test on"),
        (b"abc", "3 characters are too few"),
        ("Größe, naïve".encode("latin-1") * 50, "not in UTF-8 (byte 2); convert it"),
        ("Größe, naïve".encode("utf-16") * 50, "not in UTF-8 (byte 0); convert it"),
        (b"ab\0c" * 50, "not a text: it contains null bytes"),
    ],
    ids=["missing", "empty", "short", "latin-1", "utf-16", "binary"],
)
def test_what_is_no_text_is_refused_in_one_line(content, says, tmp_path):
    path = tmp_path / "own.txt"
    if content is not None:
        path.write_bytes(content)
    assert refused(text.own, str(path)).startswith(f"task.file={path}: {says}")


def test_a_home_folder_that_is_not_known_is_named():
    assert refused(text.own, "~nobody-here/own.txt").startswith("task.file=~nobody-here/own.txt: ")


def test_a_text_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "MOST_BYTES", 100)
    (tmp_path / "own.txt").write_bytes(b"a" * 101)
    assert "larger than 100 bytes" in refused(text.own, str(tmp_path / "own.txt"))


def test_the_penn_treebank_has_to_be_brought_and_its_license_is_named(tmp_path):
    message = refused(text.published, "penn_treebank", str(tmp_path))
    assert "LDC99T42" in message
    assert message.startswith(f"{tmp_path}/text/ptb.train.txt: no such file, and it cannot be downloaded;")
