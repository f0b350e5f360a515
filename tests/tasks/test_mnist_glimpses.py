"""Glimpses show every part of an image in order, coarse and fine."""

import numpy as np
import pytest
import torch

from src.data import mnist
from src.tasks.glimpses import glimpses
from src.tasks.mnist_glimpses import MNISTGlimpses


@pytest.mark.parametrize("side", [28, 48])
def test_each_quadrant_is_seen_coarsely_then_closely_then_coarsely(side):
    image, patch = np.random.default_rng(0).random((side, side)), side // 4
    seen = []
    for top in (0, side // 2):
        for left in (0, side // 2):
            quadrant = image[top : top + side // 2, left : left + side // 2]
            coarse = quadrant.reshape(patch, 2, patch, 2).mean((1, 3))
            seen += [coarse]
            seen += [quadrant[i : i + patch, j : j + patch] for i in (0, patch) for j in (0, patch)]
            seen += [coarse]
    expected = np.stack(seen).reshape(24, patch**2)
    np.testing.assert_allclose(glimpses(torch.from_numpy(image)[None])[0], expected, atol=1e-12)


@pytest.mark.usefixtures("made_up_data")
def test_the_digits_are_those_of_the_files_and_their_brightness_is_at_most_one():
    task = MNISTGlimpses(0, val_size=40)
    assert task.sizes == {"train": 30, "val": 40, "test": 25}
    images, labels = mnist.load("val", "data", 40)
    (batch,) = task.evaluation("val")
    np.testing.assert_array_equal(batch.targets, labels)
    np.testing.assert_allclose(batch.inputs, glimpses(torch.from_numpy(images / np.float32(255))), atol=1e-6)
    assert 0 <= batch.inputs.min() < batch.inputs.max() <= 1


@pytest.mark.usefixtures("made_up_data")
def test_as_many_validation_images_as_there_are_leave_none_to_train_on():
    with pytest.raises(ValueError, match="val_size=70: must be at most 69"):
        MNISTGlimpses(0, val_size=70)


@pytest.mark.usefixtures("made_up_data")
def test_the_nearest_mean_image_errs_as_often_as_it_does():
    task = MNISTGlimpses(0, val_size=40)
    (train, digits), (test, asked) = (mnist.load(split, "data", 40) for split in ("train", "test"))
    wrong = 0
    for image, digit in zip(test, asked, strict=True):
        distances = {d: np.square(train[digits == d].mean(0) - image.astype(float)).sum() for d in np.unique(digits)}
        wrong += min(distances, key=distances.__getitem__) != digit
    assert task.floors["the nearest mean image"]["error"] == pytest.approx(wrong / 25)
