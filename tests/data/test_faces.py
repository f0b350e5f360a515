"""A folder of faces is divided by people; whatever is wrong with it is reported in one line."""

import os

import numpy as np
import pytest
from PIL import Image

from src.config.errors import UserError
from src.data import faces
from src.tasks.drawn_faces import EXPRESSIONS

EACH = [(person, expression) for person in ("a", "b", "c", "d") for expression in EXPRESSIONS]


@pytest.fixture
def folder(tmp_path):
    """Four people with every expression; each image has its own brightness."""
    for number, (person, expression) in enumerate(EACH):
        path = tmp_path / "multi_pie" / expression / f"{person}_{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (48, 48), number).save(path)
    return tmp_path


def refused(folder, name="", content=b""):
    if name:
        (folder / "multi_pie" / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        faces.read(faces.find(str(folder), EXPRESSIONS), 48)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nobody_is_in_two_splits_and_every_image_belongs_to_its_person_and_expression(folder):
    by_split = faces.divide(faces.find(str(folder), EXPRESSIONS), 1, 1)
    people = {split: {photograph.person for photograph in found} for split, found in by_split.items()}
    assert people == {"train": {"a", "b"}, "val": {"c"}, "test": {"d"}}
    for found in by_split.values():
        for photograph, image in zip(found, faces.read(found, 48), strict=True):
            assert np.unique(image) == EACH.index((photograph.person, EXPRESSIONS[photograph.expression]))


def test_a_color_image_is_turned_grey(folder):
    Image.new("RGB", (48, 48), (255, 255, 255)).save(folder / "multi_pie" / "smile" / "a_color.png")
    found = [it for it in faces.find(str(folder), EXPRESSIONS) if it.path.stem == "a_color"]
    assert (faces.read(found, 48) == 255).all()


def test_of_16_bits_the_upper_8_are_read(folder):
    values = (np.arange(48 * 48).reshape(48, 48) * 28).astype(np.uint16)
    for suffix in (".png", ".tif", ".pgm"):
        Image.fromarray(values).save(folder / "multi_pie" / "smile" / f"a_deep{suffix}")
    found = [it for it in faces.find(str(folder), EXPRESSIONS) if it.path.stem == "a_deep"]
    assert len(found) == 3
    for image in faces.read(found, 48):
        assert np.array_equal(image, values // 256)


def test_only_files_are_photographs(folder):
    smile = folder / "multi_pie" / "smile"
    (smile / "a_folder.png").mkdir()
    (smile / "a_link.png").symlink_to(smile / "nowhere.png")
    os.mkfifo(smile / "a_pipe.png")
    assert len(faces.find(str(folder), EXPRESSIONS)) == len(EACH)


def test_what_is_wrong_is_named_in_one_line(folder, tmp_path_factory):
    nothing = tmp_path_factory.mktemp("nothing")
    assert refused(nothing).startswith(f"{nothing}/multi_pie/neutral: no such folder; Multi-PIE is licensed")
    assert refused(folder, "squint/somebody.png").endswith("names no person; rename it to <person>_<anything>.png")
    (folder / "multi_pie" / "squint" / "somebody.png").unlink()
    assert refused(folder, "squint/_1.png").endswith("names no person; rename it to <person>_<anything>.png")
    (folder / "multi_pie" / "squint" / "_1.png").unlink()
    assert refused("~nobody-here").startswith("~nobody-here: ")
    assert f"{folder}/multi_pie/squint/a_x.png: not an image: " in refused(folder, "squint/a_x.png", b"text")
    Image.new("L", (640, 480)).save(folder / "multi_pie" / "squint" / "a_x.png")
    assert refused(folder).endswith("squint/a_x.png: 640 x 480 pixels, not 48 x 48")
    Image.new("F", (48, 48)).save(folder / "multi_pie" / "squint" / "a_x.tif")
    (folder / "multi_pie" / "squint" / "a_x.png").unlink()
    assert refused(folder).endswith("squint/a_x.tif: 32 bits per gray value; save it with 8 or 16")
    (folder / "multi_pie" / "squint" / "a_x.tif").unlink()
    Image.new("I;16", (640, 480)).save(folder / "multi_pie" / "squint" / "a_x.pgm")
    assert refused(folder).endswith("squint/a_x.pgm: 640 x 480 pixels, not 48 x 48")
    (folder / "multi_pie" / "squint" / "a_x.pgm").unlink()
    too_few = (
        r"^4 people in multi_pie: must be more than task.num_val_people \+ task.num_test_people = 4, to leave some"
    )
    with pytest.raises(UserError, match=too_few):
        faces.divide(faces.find(str(folder), EXPRESSIONS)[:-1], 2, 2)


def test_a_folder_without_a_photograph_is_named_in_one_line(folder):
    for path in (folder / "multi_pie" / "scream").iterdir():
        path.rename(path.with_suffix(".heic"))
    assert "multi_pie/scream: no photographs in it; legal: .png, " in refused(folder)
