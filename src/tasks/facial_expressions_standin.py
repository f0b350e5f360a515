"""Facial expressions of drawn faces, a stand-in for the licensed photographs of section 4.3 of Ba et al. (2016)."""

from functools import lru_cache
from typing import Annotated

import torch
from annotated_types import Ge

from src.specs import Batch, Split
from src.tasks.drawn_faces import EXPRESSIONS, SHARES, SIDE, draw, people
from src.tasks.glimpses import Glimpses


class FacialExpressionsStandin(Glimpses):
    """Which expression does a drawn face have, seen in 24 glimpses of 12 x 12 pixels?

    Like `facial_expressions`, but the faces are drawings of 48 x 48 pixels. The person determines the geometry (of
    head, eyes, brows, nose, mouth and hair), which can resemble a weak expression of somebody else; the expression
    moves mouth, eyes and brows more or less; the head is turned by -15, 0 or 15 degrees; light and background vary.
    40 % of the faces are neutral, 20 % smile, and 10 % have each of the other four expressions. Nobody is in two
    splits. Brightness is between -0.5 and 0.5; if it is between 0 and 1, all networks learn far more slowly. Results
    are about these drawings, not about faces.

    Args:
        seed: seed of the people and the images.
        num_people: number of people to train on; unused with `train_size=null`.
        num_test_people: number of people to validate on, and of other people to test on.
        noise: standard deviation of the noise added to the brightness of a pixel, which is between 0 and 1.
        train_size: number of training images; null for fresh ones of other people at every update.
        val_size: number of validation images.
        test_size: number of test images.
    """

    offset = 0.5

    def __init__(
        self,
        seed: int,
        *,
        num_people: Annotated[int, Ge(1)] = 300,
        num_test_people: Annotated[int, Ge(1)] = 100,
        noise: Annotated[float, Ge(0)] = 0.03,
        train_size: Annotated[int, Ge(1)] | None = 6000,
        val_size: Annotated[int, Ge(1)] = 1000,
        test_size: Annotated[int, Ge(1)] = 2000,
    ):
        super().__init__(seed, SIDE, EXPRESSIONS, {"train": train_size, "val": val_size, "test": test_size})
        self.num_people = num_people
        self.num_test_people = num_test_people
        self.noise = noise

    def images(self, split: Split) -> Batch:
        """The images of a split; without a training set, training images of people chosen as in `generate`."""
        size = self.sizes[split] or self.sizes["val"]
        assert size is not None
        num_people = self.num_test_people
        if split == "train":
            num_people = size if self.sizes["train"] is None else self.num_people
        return _drawn(size, num_people, self.noise, self._generator(split, 0).initial_seed())

    def generate(self, num_examples: int, generator: torch.Generator) -> Batch:
        """Draw faces of people chosen at random from as many people as there are examples."""
        return _draw(num_examples, num_examples, self.noise, generator)

    def example(self) -> Batch:
        return self._seen(self.generate(1, torch.Generator().manual_seed(0)))


@lru_cache(maxsize=15)
def _drawn(size: int, num_people: int, noise: float, seed: int) -> Batch:
    """The images of a split, which take ten seconds to draw, cached for the other runs of a sweep: 20 MB per seed."""
    return _draw(size, num_people, noise, torch.Generator().manual_seed(seed))


def _draw(size: int, num_people: int, noise: float, generator: torch.Generator) -> Batch:
    geometry_KG = people(num_people, generator)
    who_N = torch.randint(num_people, (size,), generator=generator)
    expressions_N = torch.multinomial(torch.tensor(SHARES), size, replacement=True, generator=generator)
    return Batch(draw(geometry_KG[who_N], expressions_N, noise, generator), expressions_N)
