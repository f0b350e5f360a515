"""Images that are seen in glimpses, first coarse and then fine, as in sections 4.2 and 4.3 of Ba et al. (2016).

Shapes: N images of S x S pixels, in glimpses of P x P, P = S/4.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from src.specs import Batch, InputSpec, Output, OutputSpec, Split
from src.tasks.base import RIGHT, WRONG, Task

MOST_COMPARED = 10_000
"""The largest number of training images that each test image is compared with."""


def glimpses(images_NSS: Tensor) -> Tensor:
    """The 24 glimpses of each image, [N, 24, P²].

    Each quadrant, from left to right and from top to bottom, is seen six times: as a whole, averaged over 2 x 2 pixels;
    its own quadrants at full resolution, in the same order; as a whole again. The paper states neither the order nor
    how it reduces the resolution.
    """
    fine = _cut(_cut(images_NSS))
    coarse = _cut(functional.avg_pool2d(images_NSS[:, None], 2)[:, 0])[:, :, None]
    return torch.cat([coarse, fine, coarse], dim=2).flatten(3).flatten(1, 2)


def _cut(images: Tensor) -> Tensor:
    """The four quadrants of each image: [..., S, S] -> [..., 4, S/2, S/2]."""
    half = images.shape[-1] // 2
    return images.unflatten(-2, (2, half)).unflatten(-1, (2, half)).transpose(-3, -2).flatten(-4, -3)


class Glimpses(Task):
    """What does an image show, if only one small part of it is seen at every step?

    The images are stored as bytes and cut into glimpses when a batch of them is needed. A subclass provides `images`,
    and sets the sizes of its splits.

    Args:
        seed: seed of the order of the training images, and of generated images.
        side: S, the width and height of an image in pixels.
        classes: the name of each class.
        sizes: number of images in each split; None if it is known only once they are read, or for fresh training images
            at every update.
    """

    offset: float = 0.0
    """The value subtracted from the brightness, which is between 0 and 1."""

    def __init__(self, seed: int, side: int, classes: tuple[str, ...], sizes: Mapping[Split, int | None]):
        super().__init__(seed, train_size=sizes["train"], val_size=sizes["val"], test_size=sizes["test"])
        self.classes = classes
        self.input_spec = InputSpec("vectors", (side // 4) ** 2)
        self.output_spec = OutputSpec("class", len(classes))

    @abstractmethod
    def images(self, split: Split) -> Batch:
        """All images of a split [N, S, S] as bytes, and their classes [N]."""

    def batch(self, split: Split, index: int, batch_size: int) -> Batch:
        return self._seen(super().batch(split, index, batch_size))

    def evaluation(self, split: Split) -> Iterator[Batch]:
        return map(self._seen, super().evaluation(split))

    def example(self) -> Batch:
        return self._seen(self._dataset("train").take(slice(0, 1)))

    def _seen(self, images: Batch) -> Batch:
        return images._replace(inputs=glimpses(images.inputs.float() / 255 - self.offset))

    def _dataset(self, split: Split) -> Batch:
        if split not in self._datasets:
            self._datasets[split] = self.images(split).to(self.device)
        return self._datasets[split]

    @property
    def floors(self) -> dict[str, dict[str, float]]:
        """Chance, and simple predictors, which may be worse than chance if there are few images."""
        floors = {"chance": {"error": 1 - 1 / len(self.classes), "nll": math.log(len(self.classes))}}
        floors |= {answer: {"error": error} for answer, error in self.simple_answers.items()}
        return dict(sorted(floors.items(), key=lambda floor: -floor[1]["error"]))

    @cached_property
    def simple_answers(self) -> dict[str, float]:
        """The errors on the test set of two predictors: the most frequent class, and the class of the nearest image.

        The nearest image, among at most 10,000 training images, has the least squared difference in brightness.
        """
        train, test = ([part.cpu() for part in self._dataset(split)[:2]] for split in ("train", "test"))
        every = -(-len(train[0]) // MOST_COMPARED)
        (images, classes), (test_images, targets) = (part[::every] for part in train), test
        most_frequent = classes.bincount().argmax()
        pixels = images.flatten(1).float()
        half_squares = pixels.square().sum(1) / 2
        similarities = (batch.flatten(1).float() @ pixels.t() - half_squares for batch in test_images.split(500))
        nearest = classes[torch.cat([similarity.argmax(1) for similarity in similarities])]
        answers = {"the most frequent": most_frequent, "the nearest image": nearest}
        return {name: float((targets != answer).double().mean()) for name, answer in answers.items()}

    def render(self, batch: Batch, row: int, output: Output) -> str:
        """The class of the image, and the most probable class."""
        target, answer = int(batch.targets[row]), int(output.prediction[row].argmax())
        judged = RIGHT if answer == target else WRONG
        return f"an image of {self.classes[target]}   predicted {self.classes[answer]}   {judged}"

    def labels(self, batch: Batch, row: int) -> list[str]:
        """The part of the image that each glimpse shows."""
        parts = ["top left", "top right", "bottom left", "bottom right"]
        return [f"{part}, {step}" for part in parts for step in ("coarse", "1", "2", "3", "4", "coarse")]
