"""Multi-query associative recall with the key and its value in one step, after Arora et al. (2023), "Zoology".

Shapes: N examples, K pairs, W writes, T time steps, D features of a key, E of a value.
"""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn import functional

from src.specs import Batch, InputSpec, Output, OutputSpec
from src.tasks.base import RIGHT, WRONG, Metrics, Task
from src.tasks.recall import by_age, by_update, check_sizes, draw, floors_of


class StackedRecall(Task):
    """Which value came with the key?

        (k3 v7) (k1 v2) (k8 v4)  (k8 0) (k3 0) (k1 0)   ->   _ _ _ v4 v7 v2

    A sequence consists of `num_pairs` pairs, one at every step, and then all keys in random order, with zeros in place
    of the value: T = (passes + 1) K + U. Keys and values have their own embeddings on the unit sphere, which are drawn
    once and not trained; an input is the embeddings of both, [D + E]. The keys of an example are different, and so are
    its values, so that a network that knows the values but not the binding errs in 1 - 1/K of its answers.

    Since key and value come together, no shift or convolution is needed to bind them: the task measures the capacity of
    a memory and, with U updates, whether it overwrites. After all passes, U of the keys are written again with new
    values, and the answer is the last value (arXiv 2312.04927, whose code has similar variants).

    Args:
        seed: seed of all data, the embeddings included.
        num_pairs: K, the number of pairs.
        num_keys: number of different keys.
        num_values: number of different values, the classes of the answer.
        key_size: D, the number of features of the embedding of a key.
        value_size: E, the number of features of the embedding of a value.
        num_passes: number of times that all pairs are written, in the same order.
        num_updates: U, the number of keys that are then written again with another value.
        train_size: number of training sequences; null for fresh ones at every update.
        val_size: number of validation sequences.
        test_size: number of test sequences.
    """

    def __init__(
        self,
        seed: int,
        *,
        num_pairs: Annotated[int, Ge(1)] = 8,
        num_keys: Annotated[int, Ge(2)] = 64,
        num_values: Annotated[int, Ge(2)] = 64,
        key_size: Annotated[int, Ge(2)] = 32,
        value_size: Annotated[int, Ge(2)] = 32,
        num_passes: Annotated[int, Ge(1)] = 1,
        num_updates: Annotated[int, Ge(0)] = 0,
        train_size: Annotated[int, Ge(1)] | None = None,
        val_size: Annotated[int, Ge(1)] = 1000,
        test_size: Annotated[int, Ge(1)] = 2000,
    ):
        super().__init__(seed, train_size=train_size, val_size=val_size, test_size=test_size)
        check_sizes(num_pairs, num_keys, num_values, num_updates)
        self.input_spec = InputSpec("vectors", key_size + value_size)
        self.output_spec = OutputSpec("class", num_values, every_step=True)
        self.num_pairs = num_pairs
        self.num_keys = num_keys
        self.num_values = num_values
        self.num_passes = num_passes
        self.num_updates = num_updates
        self.num_writes = num_passes * num_pairs + num_updates
        generator = torch.Generator().manual_seed(seed)
        self.keys_VD = functional.normalize(torch.randn(num_keys, key_size, generator=generator))
        self.values_VE = functional.normalize(torch.randn(num_values, value_size, generator=generator))

    def generate(self, num_examples: int, generator: torch.Generator) -> Batch:
        sizes = self.num_pairs, self.num_keys, self.num_values, self.num_passes, self.num_updates
        written = draw(num_examples, *sizes, generator)
        asked_NK = torch.rand(num_examples, self.num_pairs, generator=generator).argsort(1)
        keys_NT = written.keys_NK.gather(1, torch.cat([written.order_NW, asked_NK], dim=1))
        values_NTE = functional.embedding(written.values_NW, self.values_VE)
        values_NTE = functional.pad(values_NTE, (0, 0, 0, self.num_pairs))
        inputs_NTX = torch.cat([functional.embedding(keys_NT, self.keys_VD), values_NTE], dim=2)

        answers_NK = written.answers_NK.gather(1, asked_NK)
        mask_NT = (torch.arange(keys_NT.shape[1]) >= self.num_writes).repeat(num_examples, 1)
        return Batch(inputs_NTX, functional.pad(answers_NK, (self.num_writes, 0)), mask_NT)

    def metrics(self, output: Output, batch: Batch) -> Metrics:
        """`error` and `nll` of all answers; `oldest_error` and `newest_error` of the quarters written first and last.

        With updates, `kept_error` and `updated_error` take the place of the last two.
        """
        metrics = super().metrics(output, batch)
        wrong_NK = output.prediction[:, self.num_writes :].argmax(-1) != batch.targets[:, self.num_writes :]
        if not self.num_updates:
            return metrics | by_age(wrong_NK, self._same_keys(batch, 0, self.num_pairs).int().argmax(2), self.num_pairs)
        updated_NKU = self._same_keys(batch, self.num_writes - self.num_updates, self.num_updates)
        return metrics | by_update(wrong_NK, updated_NKU.any(2))

    def _same_keys(self, batch: Batch, first: int, count: int) -> Tensor:
        """Whether each query has the same key as each of `count` writes from `first` on, [N, K, count]."""
        keys_NTD = batch.inputs[..., : self.keys_VD.shape[1]]
        asked_NKD, written_NCD = keys_NTD[:, self.num_writes :], keys_NTD[:, first : first + count]
        return torch.cdist(asked_NKD, written_NCD, p=0) == 0  # p=0 counts the features that differ

    @property
    def floors(self) -> dict[str, dict[str, float]]:
        return floors_of(self.num_pairs, self.num_values, self.num_passes, self.num_updates)

    def render(self, batch: Batch, row: int, output: Output) -> str:
        labels = self.labels(batch, row)
        answers = output.prediction[row, self.num_writes :].argmax(-1).tolist()
        targets = batch.targets[row, self.num_writes :].tolist()
        asked = " ".join(f"{key}->v{value}" for key, value in zip(labels[self.num_writes :], targets, strict=True))
        shown = " ".join(f"v{answer}" for answer in answers)
        sign = RIGHT if answers == targets else WRONG
        return f"{' '.join(labels[: self.num_writes])}; {asked}   predicted {shown}   {sign}"

    def labels(self, batch: Batch, row: int) -> list[str]:
        keys_TD, values_TE = batch.inputs[row].cpu().split([self.keys_VD.shape[1], self.values_VE.shape[1]], dim=1)
        keys = (keys_TD @ self.keys_VD.t()).argmax(1).tolist()
        values = (values_TE @ self.values_VE.t()).argmax(1).tolist()
        return [
            f"k{key}" + f"v{value}" * (t < self.num_writes)
            for t, (key, value) in enumerate(zip(keys, values, strict=True))
        ]
