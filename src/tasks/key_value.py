"""Retrieval of one value among many pairs, the synthetic tasks of Schlag, Irie and Schmidhuber (2021), "Linear
Transformers Are Secretly Fast Weight Programmers".

Shapes: N examples, K keys (and values), T pairs.
"""

from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn import functional

from src.specs import Batch, InputSpec, Objective, Output, OutputSpec
from src.tasks.base import RIGHT, WRONG, Metrics, Task, fraction
from src.tasks.recall import distinct


class KeyValue(Task):
    """Which value came with the key most recently?

        (k3 v1) (k0 v2) (k2 v0) (k1 v3)  k2   ->   v0

    Each step has a key and a value, as one-hot vectors, [2K]; the last step has only a key. The answer is the one-hot
    vector of the value, and the loss is ½ ‖v - v̂‖² (arXiv 2102.11174, section 6.1, and its code):

    - `capacity`, setting 1: K different keys, each with a value of its own, T = K. How many pairs fit into a memory?
    - `overwriting`, setting 2: T = 2K pairs, keys and values drawn with replacement; the answer is the last value of
      the key. As in the original code, the key of a random step is asked for, so frequent keys are more likely. That
      code evaluates on sequences of K pairs; here validation and test sequences have 2K pairs, as in training.

    Args:
        seed: seed of all data.
        setting: capacity or overwriting, as above.
        num_keys: K, the number of keys and of values.
        train_size: number of training sequences; null for fresh ones at every update.
        val_size: number of validation sequences.
        test_size: number of test sequences.
    """

    objective = Objective("squared_error")

    def __init__(
        self,
        seed: int,
        *,
        setting: Literal["capacity", "overwriting"] = "capacity",
        num_keys: Annotated[int, Ge(2)] = 20,
        train_size: Annotated[int, Ge(1)] | None = None,
        val_size: Annotated[int, Ge(1)] = 500,
        test_size: Annotated[int, Ge(1)] = 2000,
    ):
        super().__init__(seed, train_size=train_size, val_size=val_size, test_size=test_size)
        self.input_spec = InputSpec("vectors", 2 * num_keys)
        self.output_spec = OutputSpec("value", num_keys)
        self.overwriting = setting == "overwriting"
        self.num_keys = num_keys

    def generate(self, num_examples: int, generator: torch.Generator) -> Batch:
        size = self.num_keys
        if self.overwriting:
            keys_NT, values_NT = torch.randint(size, (2, num_examples, 2 * size), generator=generator)
        else:
            keys_NT, values_NT = (distinct(num_examples, size, size, generator) for _ in range(2))
        at_N1 = torch.randint(keys_NT.shape[1], (num_examples, 1), generator=generator)
        asked_N1 = keys_NT.gather(1, at_N1)
        steps_T = torch.arange(keys_NT.shape[1])
        last_N1 = torch.where(keys_NT == asked_N1, steps_T, -1).amax(1, keepdim=True)

        pairs_NTX = torch.cat([self._one_hot(keys_NT), self._one_hot(values_NT)], dim=2)
        query_N1X = functional.pad(self._one_hot(asked_N1), (0, size))
        answer_NK = self._one_hot(values_NT.gather(1, last_N1)[:, 0])
        return Batch(torch.cat([pairs_NTX, query_N1X], dim=1), answer_NK)

    def _one_hot(self, symbols: Tensor) -> Tensor:
        return functional.one_hot(symbols, self.num_keys).float()

    @property
    def loss_name(self) -> str:
        """The name of the loss, the mean of ½ ‖v - v̂‖² over examples."""
        return "squared_error"

    def criterion(self, prediction: Tensor, batch: Batch) -> Tensor:
        return (prediction - batch.targets).square().sum(1).mean() / 2

    def metrics(self, output: Output, batch: Batch) -> Metrics:
        """`squared_error`: ½ ‖v - v̂‖²; `error`: the fraction of answers whose largest entry is not where v is 1."""
        wrong_N = output.prediction.argmax(1) != batch.targets.argmax(1)
        return super().metrics(output, batch) | {"error": fraction(wrong_N)}

    @property
    def floors(self) -> dict[str, dict[str, float]]:
        chance = 1 - 1 / self.num_keys
        return {
            "zeros": {"squared_error": 0.5},
            "the mean of all values": {"squared_error": chance / 2, "error": chance},
        }

    def render(self, batch: Batch, row: int, output: Output) -> str:
        target, answer = int(batch.targets[row].argmax()), int(output.prediction[row].argmax())
        off = float((output.prediction[row] - batch.targets[row]).square().sum()) / 2
        sign = RIGHT if answer == target else WRONG
        return f"{' '.join(self.labels(batch, row))} -> v{target}   predicted v{answer} (off by {off:.3f})   {sign}"

    def labels(self, batch: Batch, row: int) -> list[str]:
        keys_TK, values_TK = batch.inputs[row].split(self.num_keys, dim=1)
        keys, values = keys_TK.argmax(1).tolist(), values_TK.argmax(1).tolist()
        pairs = [f"k{key}v{value}" for key, value in zip(keys, values, strict=True)]
        return [*pairs[:-1], f"k{keys[-1]}"]
