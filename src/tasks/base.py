"""The contract of a task: data, loss, metrics, floors and how an example is shown.

Shapes: N examples, B of them in a batch, T time steps.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from src.config.errors import UserError
from src.models.sequence import SequenceModel
from src.specs import SPLITS, Batch, Film, InputSpec, Objective, Output, OutputSpec, Split, State, Step

RIGHT, WRONG = "right", "WRONG"


Metrics = dict[str, tuple[Tensor, int]]
"""Each metric over a batch as (sum, count), the count being that of examples, positions, ..."""


def fraction(flags: Tensor) -> tuple[Tensor, int]:
    """The fraction of flags that are set, as a metric (sum, count)."""
    return flags.sum(), flags.numel()


def can_select(tensor: Tensor) -> bool:
    """Whether positions can be selected by a mask: how many there are must be known at once.

    On a GPU that means waiting for it, which a CUDA graph cannot, and a population has a number for each run.
    """
    return tensor.is_cpu and not torch._C._are_functorch_transforms_active()


class Sampled(NamedTuple):
    """What a trained model has made up."""

    text: str
    roll_TK: np.ndarray | None = None
    """Which keys of a piano sound in each frame, if it is music."""


class Task(ABC):
    """Examples as a pure function of (settings, seed, split, index), and what is asked about them.

    A subclass sets `input_spec` and `output_spec`, generates examples, and may override everything else. Its
    constructor takes the seed from the code and everything else as annotated keyword-only parameters, which are the
    keys of its configuration file. It must be cheap: data are generated, or read, when first needed. A task whose data
    are read from files has no sizes, and overrides `batch`, `evaluation` and `example` instead of `generate`.

    Args:
        seed: of all its data. What is drawn once and not per example, such as a permutation, is drawn in the
            constructor, so that another `seed` set later gives other examples of the same task.
        train_size: examples in the training set, reshuffled every epoch; None for fresh ones at every update.
        val_size: examples in the validation set.
        test_size: examples in the test set.
    """

    input_spec: InputSpec
    output_spec: OutputSpec
    objective: Objective = Objective("error")
    """The metric for selection, patience and `trainer.stop_at`, and whether higher or lower is better."""
    carries_state: bool = False
    """Whether each batch continues the previous one, from the recurrent state at its end."""
    evaluation_batch_size: int = 1000

    def __init__(self, seed: int, *, train_size: int | None, val_size: int | None, test_size: int | None):
        self.seed = seed
        self.sizes: dict[str, int | None] = {"train": train_size, "val": val_size, "test": test_size}
        self.device = torch.device("cpu")
        self._datasets: dict[str, Batch] = {}
        self._order: tuple[tuple[Split, int], Tensor] | None = None

    def generate(self, num_examples: int, generator: torch.Generator) -> Batch:
        """Draw examples from `generator` alone."""
        raise NotImplementedError

    def generate_for(self, split: Split, num_examples: int, generator: torch.Generator) -> Batch:
        """The same for one split; a task whose validation and test examples differ from training overrides this."""
        return self.generate(num_examples, generator)

    def example(self) -> Batch:
        """A batch of one of the largest training examples, by which the size of the data is estimated."""
        return self.generate_for("train", 1, torch.Generator().manual_seed(0))

    def seen(self, batch: Batch) -> Batch:
        """A batch in the sizes in which a network sees it."""
        return batch

    @property
    @abstractmethod
    def floors(self) -> dict[str, dict[str, float]]:
        """What predictors of limited knowledge reach: {"description": {metric: value}}, worst first."""

    @abstractmethod
    def render(self, batch: Batch, row: int, output: Output) -> str:
        """One example, its target and the prediction as a line, ending in RIGHT or WRONG if it can be judged."""

    def film(self, batch: Batch, row: int, output: Output) -> Film | None:
        """One example as a film, if it is an episode."""
        return None

    def examples(self, batch: Batch, output: Output, num_examples: int) -> list[int]:
        """Rows to show: the first wrong answers, at most half of them, and the first others."""
        rows = range(len(batch.inputs))
        wrong = [row for row in rows if self.render(batch, row, output).endswith(WRONG)][: num_examples // 2]
        others = [row for row in rows if row not in wrong][: num_examples - len(wrong)]
        return sorted(wrong + others)

    @property
    def data_digest(self) -> str:
        """Of data that do not follow from the settings, such as a file of one's own; "" if all do, or none is there."""
        return ""

    @property
    def vocabulary(self) -> list[str] | None:
        """What the numbers of the symbols stand for, if that depends on the data; else None."""
        return None

    def labels(self, batch: Batch, row: int) -> list[str]:
        """A short label for every step of one example; the step number by default."""
        return [str(t) for t in range(batch.inputs.shape[1])]

    def to(self, device: torch.device) -> "Task":
        """Put all batches on this device from now on."""
        self.device = device
        self._datasets.clear()
        self._order = None
        return self

    def batch(self, split: Split, index: int, batch_size: int) -> Batch:
        """Batch number `index` of an endless sequence, always the same for the same settings and seed.

        A set of fixed size is traversed epoch after epoch, each in its own random order and without dropping a
        remainder: a batch may end one epoch and begin the next.
        """
        size = self.sizes[split]
        if size is None:
            return self.generate_for(split, batch_size, self._generator(split, index)).to(self.device)
        start = index * batch_size
        pieces = []
        while batch_size > 0:
            epoch, offset = divmod(start, size)
            pieces.append(self._epoch_order(split, epoch)[offset : offset + batch_size])
            start += len(pieces[-1])
            batch_size -= len(pieces[-1])
        return self._dataset(split).take(pieces[0] if len(pieces) == 1 else torch.cat(pieces))

    def evaluation(self, split: Split) -> Iterator[Batch]:
        """The whole validation or test set, or as many training examples as validation has, in a fixed order."""
        size = self.sizes["val" if split == "train" else split]
        assert size is not None
        dataset = self._dataset(split)
        for start in range(0, min(size, len(dataset.inputs)), self.evaluation_batch_size):
            yield dataset.take(slice(start, min(start + self.evaluation_batch_size, size)))

    def loss(self, model: SequenceModel, batch: Batch, state: State | None = None) -> Step:
        """Run the model over a batch from `state`; the trainer minimizes the sum of the losses."""
        others: dict[str, Any] = {} if batch.resets is None else {"resets": batch.resets}
        if batch.mask is not None and self.output_spec.every_step and can_select(batch.mask):
            others["mask"] = batch.mask
        output = model(batch.inputs, state, lengths=batch.lengths, return_state=self.carries_state, **others)
        return Step({self.loss_name: self.criterion(output.prediction, batch)}, output)

    @property
    def loss_name(self) -> str:
        """The name of `criterion`: `mse` (mean squared error) for values, `nll` (nats) for classes and bits."""
        return "mse" if self.output_spec.kind == "value" else "nll"

    def criterion(self, prediction: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy for classes, squared error for values, binary cross-entropy for bits (nats), averaged."""
        if batch.mask is not None and self.output_spec.every_step and not can_select(prediction):
            return self._masked_mean(prediction, batch.targets, batch.mask)
        prediction, targets = self._counted(prediction, batch)
        return self._distance(prediction, targets)

    def _distance(self, prediction: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """What is averaged, of predictions in one dimension."""
        if self.output_spec.kind == "class":
            return functional.cross_entropy(prediction, targets, reduction=reduction)
        if self.output_spec.kind == "value":
            return functional.mse_loss(prediction, targets, reduction=reduction)
        return functional.binary_cross_entropy_with_logits(prediction, targets, reduction=reduction)

    def _masked_mean(self, prediction: Tensor, targets: Tensor, mask_BT: Tensor) -> Tensor:
        """The mean over the positions of a mask, from all of them."""
        each = self._distance(prediction.flatten(0, 1), targets.flatten(0, 1), "none")
        each_BT = each.reshape(*mask_BT.shape, -1).mean(-1)
        return torch.where(mask_BT, each_BT, 0.0).sum() / mask_BT.sum()

    def metrics(self, output: Output, batch: Batch) -> Metrics:
        """`error` (a fraction) and `nll` (nats) for classes and bits, `mse` for values, each as (sum, count).

        Sums and counts of batches add up to those of the whole split, however it is divided into batches.
        """
        count = self.count(batch)
        mean = self.criterion(output.prediction, batch) if count else output.prediction.new_zeros(())
        totals: Metrics = {self.loss_name: (mean * count, count)}
        if self.output_spec.kind != "value":
            prediction, targets = self._counted(output.prediction, batch)
            answer = prediction.argmax(-1) if self.output_spec.kind == "class" else (prediction > 0).to(targets.dtype)
            totals = {"error": fraction(answer != targets)} | totals
        return totals

    def averaged(self, means: dict[str, float]) -> dict[str, float]:
        """The metrics of a whole split, with those that follow from others but are no averages."""
        return means

    def sample(self, model: SequenceModel, num_steps: int, generator: torch.Generator, temperature: float) -> Sampled:
        """Let a model make up a sequence: what it predicts is drawn, and is its next input.

        Raises:
            UserError: it does not predict its own inputs.
        """
        raise UserError("generate: the answers of this task are not its next inputs")

    def count(self, batch: Batch) -> int:
        """The weight of a batch in an average: its number of examples, or with a mask the steps that count."""
        return len(batch.inputs) if batch.mask is None else int(batch.mask.sum())

    def _counted(self, prediction: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Predictions and targets of the positions that count, flattened into one dimension."""
        if not self.output_spec.every_step:
            return prediction, batch.targets
        prediction, targets = prediction.flatten(0, 1), batch.targets.flatten(0, 1)
        if batch.mask is None:
            return prediction, targets
        rows = batch.mask.flatten().nonzero()[:, 0]  # the gradient of x[mask] takes twice as long
        return prediction.index_select(0, rows), targets.index_select(0, rows)

    def _dataset(self, split: Split) -> Batch:
        if split not in self._datasets:
            size = self.sizes[split] or self.sizes["val"]
            assert size is not None
            self._datasets[split] = self.generate_for(split, size, self._generator(split, 0)).to(self.device)
        return self._datasets[split]

    def _epoch_order(self, split: Split, epoch: int) -> Tensor:
        """The order of one epoch; the last one used is cached."""
        if self._order is None or self._order[0] != (split, epoch):
            size = self.sizes[split]
            assert size is not None
            order = torch.randperm(size, generator=self._generator(split, epoch, "order"))
            self._order = ((split, epoch), order.to(self.device))
        return self._order[1]

    def _generator(self, split: Split, index: int, purpose: Literal["data", "order"] = "data") -> torch.Generator:
        key = [self.seed, SPLITS.index(split), ("data", "order").index(purpose), index]
        return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
