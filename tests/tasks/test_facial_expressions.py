"""Photographs and drawings of faces as tasks."""

import shutil

import pytest
import torch

from src.specs import SPLITS
from src.tasks import facial_expressions_standin
from src.tasks.drawn_faces import EXPRESSIONS, GEOMETRY, SHARES, draw, people
from src.tasks.facial_expressions import FacialExpressions
from src.tasks.facial_expressions_standin import FacialExpressionsStandin


@pytest.mark.usefixtures("made_up_data")
def test_photographs_are_read_when_first_needed():
    task = FacialExpressions(0)
    assert task.sizes["train"] is None
    batch = task.batch("train", 0, 30)
    assert task.sizes == {"train": 30, "val": 40, "test": 25}
    assert batch.inputs.shape == (30, 24, 144)
    assert sorted(batch.targets.tolist()) == sorted(person % 6 for person in range(30))
    assert -0.5 <= batch.inputs.min() < -0.4 < 0.4 < batch.inputs.max() <= 0.5


@pytest.mark.usefixtures("made_up_data")
def test_photographs_are_divided_into_as_many_people_as_asked_for():
    """The last 15 people have one photograph each, the 25 before them two, the first 30 one."""
    task = FacialExpressions(0, num_val_people=10, num_test_people=15)
    task.batch("train", 0, 1)
    assert task.sizes == {"train": 30 + 2 * 15, "val": 2 * 5 + 2 * 5, "test": 15}


def test_the_digest_of_photographs_is_that_of_their_contents_wherever_they_are(made_up_data, tmp_path):
    shutil.copytree(made_up_data / "multi_pie", tmp_path / "multi_pie")
    task, copied = FacialExpressions(0), FacialExpressions(0, data_dir=str(tmp_path))
    assert copied.data_digest == task.data_digest
    next((tmp_path / "multi_pie" / "smile").iterdir()).write_bytes(b"another")
    assert copied.data_digest != task.data_digest
    assert FacialExpressions(0, data_dir="nowhere").data_digest == ""


def test_drawings_have_expressions_in_their_shares():
    task = FacialExpressionsStandin(0, train_size=150, val_size=40, test_size=40)
    counts = task._dataset("train").targets.bincount(minlength=6)
    torch.testing.assert_close(counts / 150, torch.tensor(SHARES), atol=0.1, rtol=0)


def test_nobody_is_in_two_splits_and_each_has_as_many_people_as_asked_for(monkeypatch):
    drawn = []
    blank = lambda geometry_NG, *_: drawn.append(geometry_NG) or torch.zeros(len(geometry_NG), 48, 48)  # noqa: E731
    monkeypatch.setattr(facial_expressions_standin, "draw", blank)
    sizes = {"train_size": 201, "val_size": 101, "test_size": 102}
    task = FacialExpressionsStandin(0, num_people=5, num_test_people=3, **sizes)
    for split in SPLITS:
        task._dataset(split)
    people_of_splits = [{tuple(geometry) for geometry in geometry_NG.tolist()} for geometry_NG in drawn]
    assert [len(people) for people in people_of_splits] == [5, 3, 3]
    assert len(set.union(*people_of_splits)) == 11


def test_without_a_training_set_training_is_evaluated_on_fresh_people(monkeypatch):
    drawn = []
    blank = lambda geometry_NG, *_: drawn.append(geometry_NG) or torch.zeros(len(geometry_NG), 48, 48)  # noqa: E731
    monkeypatch.setattr(facial_expressions_standin, "draw", blank)
    sizes = {"train_size": None, "val_size": 103, "test_size": 104}
    task = FacialExpressionsStandin(0, num_people=5, num_test_people=3, **sizes)
    task.batch("train", 0, 103)
    for split in SPLITS:
        task._dataset(split)
    batch, train, val, test = (len(geometry_NG.unique(dim=0)) for geometry_NG in drawn)
    assert train == batch > 50
    assert val == test == 3


def test_noise_has_the_deviation_asked_for_and_brightness_is_around_zero():
    sizes = {"train_size": 20, "val_size": 1, "test_size": 1}
    quiet, noisy = (FacialExpressionsStandin(0, noise=noise, **sizes) for noise in (0.0, 0.1))
    before, after = (task._dataset("train").inputs / 255 for task in (quiet, noisy))
    inside = (before > 0.4) & (before < 0.6)
    assert (after - before)[inside].std().item() == pytest.approx(0.1, rel=0.05)
    inputs = noisy.batch("train", 0, 20).inputs
    assert -0.5 <= inputs.min() < -0.4 < 0.4 < inputs.max() <= 0.5


def test_the_same_person_with_the_same_expression_is_drawn_differently_but_alike():
    generator = torch.Generator().manual_seed(0)
    geometry_KG = people(2, generator).repeat_interleave(40, dim=0)
    images = draw(geometry_KG, torch.zeros(80, dtype=torch.int64), 0.0, generator).float()
    heads = images[:, 12:36, 12:36].flatten(1)
    heads = (heads - heads.mean(1, keepdim=True)) / heads.std(1, keepdim=True)
    assert (heads.var(0) > 0).all()
    means = torch.stack([heads[:40].mean(0), heads[40:].mean(0)])
    nearest = torch.cdist(heads, means).argmin(1)
    assert (nearest == torch.arange(2).repeat_interleave(40)).float().mean() > 0.8


def test_every_expression_changes_the_drawing_of_the_same_person():
    geometry_NG = torch.tensor([[mean for mean, _ in GEOMETRY.values()]] * 2)
    for expression in range(1, len(EXPRESSIONS)):
        generator = torch.Generator().manual_seed(0)
        neutral, other = draw(geometry_NG[:1], torch.tensor([0]), 0.0, generator), None
        generator = torch.Generator().manual_seed(0)
        other = draw(geometry_NG[:1], torch.tensor([expression]), 0.0, generator)
        assert (neutral.float() - other.float()).abs().max() > 20


def test_the_simple_answers_err_as_often_as_they_do():
    task = FacialExpressionsStandin(0, train_size=60, val_size=10, test_size=30)
    (train, test) = (task._dataset(split) for split in ("train", "test"))
    wrong, usual = 0, 0
    for image, expression in zip(test.inputs, test.targets, strict=True):
        distances = (train.inputs.double() - image.double()).square().sum((1, 2))
        wrong += int(train.targets[distances.argmin()] != expression)
        usual += int(expression != 0)
    found = task.floors
    assert found["the nearest image"]["error"] == pytest.approx(wrong / 30)
    assert found["the most frequent"]["error"] == pytest.approx(usual / 30)
