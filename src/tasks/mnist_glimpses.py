"""Handwritten digits in glimpses, the task of Ba et al. (2016), section 4.2."""

from functools import cached_property
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, MinLen

from src.data import mnist
from src.specs import Batch, Split
from src.tasks.glimpses import Glimpses


class MNISTGlimpses(Glimpses):
    """Which digit is it, seen in 24 glimpses of 7 x 7 pixels?

        +-------+-------+
        | 1   2 |       |     a quadrant of the image: coarse, 1, 2, 3, 4, coarse    (6 glimpses)
        | 3   4 |       |     then the other three                                   (24)
        +-------+-------+     ->   7
        |       |       |
        |       |       |
        +-------+-------+

    A glimpse is 7 x 7 pixels of the image or, if coarse, a quadrant of it at half the resolution. Brightness is between
    0 and 1. Images are not augmented.

    Args:
        seed: seed of the order of the training images.
        val_size: number of validation images, the last of the 60,000 published for training; the others are trained on.
            The 10,000 published for testing are the test set. The paper does not state how it validates.
        data_dir: the folder of the files; see `src.data.mnist`.
    """

    def __init__(
        self, seed: int, *, val_size: Annotated[int, Ge(1)] = 5000, data_dir: Annotated[str, MinLen(1)] = "data"
    ):
        sizes = mnist.sizes(val_size)
        super().__init__(seed, mnist.SIDE, tuple(map(str, range(mnist.NUM_CLASSES))), sizes)
        self.val_size = val_size
        self.data_dir = data_dir

    def images(self, split: Split) -> Batch:
        images, labels = mnist.load(split, self.data_dir, self.val_size)
        return Batch(torch.from_numpy(images.copy()), torch.from_numpy(labels))

    @cached_property
    def simple_answers(self) -> dict[str, float]:
        """The error on the test set of a predictor that answers with the digit whose mean image is nearest."""
        (images, digits), (test_images, test_digits) = (
            mnist.load(split, self.data_dir, self.val_size) for split in ("train", "test")
        )
        present = np.unique(digits)
        means = np.stack([images[digits == digit].mean(0, dtype=np.float32).ravel() for digit in present])
        distances = np.square(means).sum(1) - 2 * test_images.reshape(len(test_images), -1).astype(np.float32) @ means.T
        return {"the nearest mean image": float((present[distances.argmin(1)] != test_digits).mean())}
