"""Pixels come in the stated order, and are those of the files."""

import numpy as np
import pytest
import torch

from src.data import mnist
from src.tasks.pixel_mnist import PixelMNIST

pytestmark = pytest.mark.usefixtures("made_up_data")


def read(order, seed=0):
    task = PixelMNIST(seed, order=order, val_size=40)
    (batch,) = task.evaluation("val")
    return task, batch


def test_digits_and_brightness_are_those_of_the_files():
    task, batch = read("scanline")
    images, labels = mnist.load("val", "data", 40)
    assert task.sizes == {"train": 30, "val": 40, "test": 25}
    np.testing.assert_array_equal(batch.targets, labels)
    np.testing.assert_allclose(batch.inputs[:, :, 0], images.reshape(40, 784) / np.float32(255), atol=1e-7)
    assert 0 <= batch.inputs.min() < batch.inputs.max() <= 1


def test_a_row_is_a_row_of_the_image():
    (_, by_row), (_, by_pixel) = read("rows"), read("scanline")
    assert by_row.inputs.shape == (40, 28, 28)
    assert torch.equal(by_row.inputs.flatten(1), by_pixel.inputs.flatten(1))


def test_one_permutation_holds_for_all_images_and_splits_and_follows_from_the_seed():
    (task, permuted), (_, by_pixel) = read("permuted"), read("scanline")
    assert sorted(task.positions.tolist()) == list(range(784))
    assert torch.equal(permuted.inputs, by_pixel.inputs[:, task.positions])
    trained, plain = (read(order)[0].batch("train", 3, 7) for order in ("permuted", "scanline"))
    assert torch.equal(trained.inputs, plain.inputs[:, task.positions])
    assert torch.equal(task.positions, read("permuted")[0].positions)
    assert not torch.equal(task.positions, read("permuted", seed=1)[0].positions)


def test_the_label_of_a_step_is_the_place_of_its_pixel():
    task, batch = read("permuted")
    labels = task.labels(batch, 0)
    row, column = map(int, labels[5].split(", "))
    assert len(labels) == 784
    assert 28 * row + column == task.positions[5]


def test_as_many_validation_images_as_there_are_leave_none_to_train_on():
    with pytest.raises(ValueError, match="val_size=70: must be at most 69"):
        PixelMNIST(0, val_size=70)
