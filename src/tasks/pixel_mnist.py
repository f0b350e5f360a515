"""Handwritten digits pixel by pixel, the task of Le, Jaitly and Hinton (2015), section 4.2."""

import math
from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from annotated_types import Ge, MinLen

from src.data import mnist
from src.specs import Batch, InputSpec, Output, OutputSpec, Split
from src.tasks.base import RIGHT, WRONG, Task


class PixelMNIST(Task):
    """Which digit is it, read pixel by pixel?

        step    1    2    3   ...   407  408  409   ...   784
        pixel   0    0    0   ...   .12  .99  .45   ...    0    ->   7

    A pixel is a brightness between 0 and 1; the digit is asked for at the last step. The pixels come in one of three
    orders:

    - `scanline`: row by row from the top, each from left to right; most images end with a hundred steps of background.
    - `permuted`: in one random order, the same for all images.
    - `rows`: in 28 steps of 28 pixels, one row of the image each; the quick variant.

    The images are kept as bytes, 784 each, and converted to float32 one batch at a time.

    Args:
        seed: seed of the permutation, and of the order of the training images.
        order: the order of the pixels.
        val_size: number of validation images, the last of the 60,000 published for training; the others are trained on.
            The 10,000 published for testing are the test set. The papers do not state how they validate.
        data_dir: the folder of the files; see `src.data.mnist`.
    """

    output_spec = OutputSpec("class", mnist.NUM_CLASSES)

    def __init__(
        self,
        seed: int,
        *,
        order: Literal["scanline", "permuted", "rows"] = "scanline",
        val_size: Annotated[int, Ge(1)] = mnist.NUM_VALIDATION,
        data_dir: Annotated[str, MinLen(1)] = "data",
    ):
        sizes = mnist.sizes(val_size)
        super().__init__(seed, train_size=sizes["train"], val_size=sizes["val"], test_size=sizes["test"])
        self.val_size = val_size
        self.data_dir = data_dir
        self.in_rows = order == "rows"
        self.input_spec = InputSpec("vectors", mnist.SIDE if self.in_rows else 1)
        self.positions = torch.arange(mnist.SIDE**2)
        if order == "permuted":
            self.positions = torch.randperm(mnist.SIDE**2, generator=torch.Generator().manual_seed(seed))

    def batch(self, split: Split, index: int, batch_size: int) -> Batch:
        return self._read(super().batch(split, index, batch_size))

    def evaluation(self, split: Split) -> Iterator[Batch]:
        return map(self._read, super().evaluation(split))

    def example(self) -> Batch:
        return self._read(self._dataset("train").take(slice(0, 1)))

    def _read(self, images: Batch) -> Batch:
        """The brightness at each step, [N, 784, 1] or [N, 28, 28]."""
        return images._replace(inputs=(images.inputs.float() / 255).unflatten(1, (-1, self.input_spec.size)))

    def _dataset(self, split: Split) -> Batch:
        """All images of a split, as bytes in the order in which they are read, [N, 784]."""
        if split not in self._datasets:
            images, digits = mnist.load(split, self.data_dir, self.val_size)
            bytes_NP = torch.from_numpy(images.copy()).flatten(1)[:, self.positions]
            self._datasets[split] = Batch(bytes_NP, torch.from_numpy(digits)).to(self.device)
        return self._datasets[split]

    @property
    def floors(self) -> dict[str, dict[str, float]]:
        """Chance."""
        classes = self.output_spec.size
        return {"chance": {"error": 1 - 1 / classes, "nll": math.log(classes)}}

    def render(self, batch: Batch, row: int, output: Output) -> str:
        target, answer = int(batch.targets[row]), int(output.prediction[row].argmax())
        return f"an image of {target}   predicted {answer}   {RIGHT if answer == target else WRONG}"

    def labels(self, batch: Batch, row: int) -> list[str]:
        """The position of each pixel in the image, or the number of each row."""
        if self.in_rows:
            return [f"row {step}" for step in range(mnist.SIDE)]
        return [f"{position // mnist.SIDE}, {position % mnist.SIDE}" for position in self.positions.tolist()]
