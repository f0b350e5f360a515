"""Facial expressions in glimpses, the task of Ba et al. (2016), section 4.3."""

from collections.abc import Iterator
from typing import Annotated

import torch
from annotated_types import Ge, MinLen

from src.data import faces
from src.data.faces import Photograph
from src.data.files import expanded
from src.specs import Batch, Split
from src.tasks.drawn_faces import EXPRESSIONS, SIDE
from src.tasks.glimpses import Glimpses


class FacialExpressions(Glimpses):
    """Which expression does a face have, seen in 24 glimpses of 12 x 12 pixels?

    Like `mnist_glimpses`, but with photographs of 48 x 48 pixels; the expressions are neutral, smile, surprise, squint,
    disgust and scream. The paper takes the photographs of three cameras (-15, 0 and 15 degrees) from Multi-PIE, aligned
    by eyes and nose, and tests on 20 people who are not among the 317 trained on. Multi-PIE is licensed, so it is read
    from a folder of your own, see `src.data.faces`; `facial_expressions_standin` has drawings instead. Brightness is
    between -0.5 and 0.5.

    Args:
        seed: seed of the order of the training images.
        num_val_people: number of people to validate on: those before the test people in the order of their names.
        num_test_people: number of people to test on: the last ones in the order of their names.
        data_dir: the folder that contains the folder `multi_pie`.
    """

    offset = 0.5

    def __init__(
        self,
        seed: int,
        *,
        num_val_people: Annotated[int, Ge(1)] = 20,
        num_test_people: Annotated[int, Ge(1)] = 20,
        data_dir: Annotated[str, MinLen(1)] = "data",
    ):
        super().__init__(seed, SIDE, EXPRESSIONS, {"train": None, "val": None, "test": None})
        self.num_val_people = num_val_people
        self.num_test_people = num_test_people
        self.data_dir = data_dir
        self._photographs: dict[Split, list[Photograph]] = {}

    @property
    def data_digest(self) -> str:
        there = (expanded(self.data_dir) / faces.FOLDER).is_dir()
        return faces.digest(faces.find(self.data_dir, EXPRESSIONS)) if there else ""

    def photographs(self, split: Split) -> list[Photograph]:
        """The files of a split; the folder is searched when they are first needed."""
        if not self._photographs:
            found = faces.find(self.data_dir, EXPRESSIONS)
            self._photographs = faces.divide(found, self.num_val_people, self.num_test_people)
            self.sizes = {name: len(files) for name, files in self._photographs.items()}
        return self._photographs[split]

    def images(self, split: Split) -> Batch:
        photographs = self.photographs(split)
        classes = torch.tensor([photograph.expression for photograph in photographs])
        return Batch(torch.from_numpy(faces.read(photographs, SIDE)), classes)

    def batch(self, split: Split, index: int, batch_size: int) -> Batch:
        self.photographs(split)
        return super().batch(split, index, batch_size)

    def evaluation(self, split: Split) -> Iterator[Batch]:
        self.photographs(split)
        return super().evaluation(split)
