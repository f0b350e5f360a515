"""Prediction of the next character or word of a text.

Shapes: B rows of a batch, T time steps, V symbols.
"""

import hashlib
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, MinLen
from torch import Tensor

from src.data import text as texts
from src.models.sequence import SequenceModel
from src.specs import Batch, InputSpec, Objective, Output, OutputSpec, Split, State, Step
from src.tasks.base import Metrics, Sampled, Task

EVALUATION_ROWS = 32
PPM_ORDER, PPM_MEMORY = 6, 2**28
SHOWN = 60
"""The largest number of symbols of an example that are shown."""


class LanguageModel(Task):
    r"""Which symbol comes next?

        Well, Prince, so Geno   ->   ell, Prince, so Genoa

    A split is one sequence of symbols. Its predictions, one for each symbol but the first, are divided into as many
    contiguous rows as a batch has, and the rows are read side by side, window after window. The state is carried from
    window to window, and gradients end at the start of a window. An epoch reads every symbol exactly once, and the
    next one starts from the initial state. The last window may be shorter; where a row ends early, its rest is masked.

    Symbols are the characters of War and Peace (82 different ones), of tiny Shakespeare (65) or of a file; such a text
    is divided into 80 % training, 10 % validation and 10 % test. For the Penn Treebank they are the 10,000 words of
    Mikolov et al. (2010), with their splits.

    The floor "PPM" is the code length of the test text when it is compressed after the training text, by prediction by
    partial matching (Cleary and Witten 1984) of order 6 in the variant PPMd of Shkarin (2002): an n-gram model that
    continues to learn. It predicts bytes, even where the symbols are words.

    Args:
        seed: has no effect on the data.
        text: the published text.
        file: path of a text file in UTF-8 to use instead; null for none. The path stands for the content, and a run is
            not resumed after the file has changed.
        window: number of steps in a window.
        data_dir: the folder of the published texts; see `src.data.text`.
    """

    objective = Objective("nll")
    carries_state = True

    def __init__(
        self,
        seed: int,
        *,
        text: Literal["war_and_peace", "tiny_shakespeare", "penn_treebank"] = "war_and_peace",
        file: Annotated[str, MinLen(1)] | None = None,
        window: Annotated[int, Ge(1)] = 100,
        data_dir: Annotated[str, MinLen(1)] = "data",
    ):
        super().__init__(seed, train_size=None, val_size=None, test_size=None)
        self.text = text
        self.file = file
        self.window = window
        self.data_dir = data_dir
        self.words = text == "penn_treebank" and file is None
        self._corpus: texts.Corpus | None = None
        self._symbols: dict[Split, Tensor] = {}
        num_symbols = texts.NUM_SYMBOLS[text] if file is None else len(self.corpus.symbols)
        self.input_spec = InputSpec("tokens", num_symbols)
        self.output_spec = OutputSpec("class", num_symbols, every_step=True)

    @property
    def data_digest(self) -> str:
        return "" if self.file is None else hashlib.sha256(b"".join(self.corpus.texts.values())).hexdigest()[:16]

    @property
    def vocabulary(self) -> list[str]:
        return self.corpus.symbols

    @property
    def corpus(self) -> texts.Corpus:
        """The text, read when first needed."""
        if self._corpus is None:
            self._corpus = texts.published(self.text, self.data_dir) if self.file is None else texts.own(self.file)
        return self._corpus

    def to(self, device: torch.device) -> Task:
        """Put all batches on this device from now on."""
        self._symbols.clear()
        return super().to(device)

    def symbols(self, split: Split) -> Tensor:
        """The numbers of the symbols of a split, in the order of the text."""
        if split not in self._symbols:
            self._symbols[split] = torch.from_numpy(self.corpus.splits[split]).to(self.device)
        return self._symbols[split]

    def batch(self, split: Split, index: int, batch_size: int) -> Batch:
        """Window number `index` of all rows, epoch after epoch; `resets` marks the first window of a later epoch."""
        symbols = self.symbols(split)
        epoch, number = divmod(index, self.num_windows(len(symbols), batch_size))
        batch = self._window(symbols, number, batch_size)
        if number > 0 or epoch == 0:
            return batch
        resets_BT = torch.zeros_like(batch.inputs, dtype=torch.bool)
        resets_BT[:, 0] = True
        return batch._replace(resets=resets_BT)

    def num_windows(self, num_symbols: int, num_rows: int) -> int:
        """The number of batches in an epoch."""
        return -(-_row_length(num_symbols, num_rows) // self.window)

    def _window(self, symbols: Tensor, number: int, num_rows: int) -> Batch:
        length, num_predictions = _row_length(len(symbols), num_rows), len(symbols) - 1
        steps_T = torch.arange(number * self.window, min((number + 1) * self.window, length), device=self.device)
        at_BT = length * torch.arange(num_rows, device=self.device)[:, None] + steps_T
        mask_BT = None
        if length * num_rows > num_predictions:
            mask_BT = at_BT < num_predictions
            at_BT = at_BT.clamp(max=num_predictions - 1)
        return Batch(symbols[at_BT], symbols[at_BT + 1], mask_BT)

    def evaluation(self, split: Split) -> Iterator[Batch]:
        """The whole split in 32 rows; of the training text, only a beginning as long as the validation text."""
        symbols = self.symbols(split)
        if split == "train":
            symbols = symbols[: len(self.symbols("val"))]
        num_rows = min(EVALUATION_ROWS, len(symbols) - 1)
        for number in range(self.num_windows(len(symbols), num_rows)):
            yield self._window(symbols, number, num_rows)

    def example(self) -> Batch:
        """The first window of the training text."""
        return self._window(self.symbols("train"), 0, 1)

    def loss(self, model: SequenceModel, batch: Batch, state: State | None = None) -> Step:
        """Run the model over a window from `state`, or from the initial state for the first window of an epoch."""
        if batch.resets is not None:  # all rows are reset at their first step: the same as no state, and faster
            batch, state = batch._replace(resets=None), None
        return super().loss(model, batch, state)

    def count(self, batch: Batch) -> int:
        """The number of predicted symbols."""
        return batch.inputs.numel() if batch.mask is None else int(batch.mask.sum())

    def metrics(self, output: Output, batch: Batch) -> Metrics:
        """`nll` in nats and `bits` per symbol, and `error`: how often the most likely symbol is not the next one."""
        metrics = super().metrics(output, batch)
        nats, count = metrics["nll"]
        return metrics | {"bits": (nats / math.log(2), count)}

    def averaged(self, means: dict[str, float]) -> dict[str, float]:
        """The metrics, together with the perplexity if symbols are words."""
        return means | {"perplexity": math.exp(min(means["nll"], 700.0))} if self.words else means

    @property
    def floors(self) -> dict[str, dict[str, float]]:
        """The floors on the test set, from frequencies in the training set."""
        train, test, num_symbols = self.corpus.splits["train"], self.corpus.splits["test"], self.output_spec.size
        share_V = (np.bincount(train, minlength=num_symbols) + 1) / (len(train) + num_symbols)
        num_bytes = _ppm_bytes(self.corpus.texts["train"], self.corpus.texts["test"])
        nats = {
            "every symbol at chance": math.log(num_symbols),
            "how often each symbol comes": float(-np.log(share_V[test[1:]]).mean()),
            "how often it follows the one before": float(-np.log(_bigram(train, test, share_V)).mean()),
            f"PPM of order {PPM_ORDER}": 8 * math.log(2) * num_bytes / len(test),
        }
        worst_first = sorted(nats.items(), key=lambda item: -item[1])
        return {name: {"nll": value, "bits": value / math.log(2)} for name, value in worst_first}

    def examples(self, batch: Batch, output: Output, num_examples: int) -> list[int]:
        """The first rows, except those that are masked entirely because a short text has ended before them."""
        return [row for row in range(len(batch.inputs)) if _num_read(batch, row)][:num_examples]

    def render(self, batch: Batch, row: int, output: Output) -> str:
        """The end of a window, the symbol that comes next and the most likely ones."""
        end = _num_read(batch, row)
        shown = self._joined(batch.inputs[row, max(end - SHOWN, 0) : end].tolist())
        share_V, symbols_V = output.prediction[row, end - 1].softmax(-1).topk(min(3, self.output_spec.size))
        likely = zip(symbols_V.tolist(), share_V.tolist(), strict=True)
        predicted = ", ".join(f"{self._name(symbol)} ({share:.2f})" for symbol, share in likely)
        return f"{shown} -> {self._name(int(batch.targets[row, end - 1]))}   predicted {predicted}"

    def labels(self, batch: Batch, row: int) -> list[str]:
        return [self._name(symbol) for symbol in batch.inputs[row].tolist()]

    def _joined(self, numbers: list[int]) -> str:
        return (" " if self.words else "").join(map(self._name, numbers))

    def _name(self, number: int) -> str:
        """A symbol as text that is visible and fits on one line."""
        symbols = self.corpus.symbols
        symbol = symbols[number] if number < len(symbols) else "?"
        return {"\n": "⏎", " ": "␣"}.get(symbol, symbol if symbol.isprintable() else f"U+{ord(symbol[0]):04X}")

    @torch.no_grad()
    def sample(self, model: SequenceModel, num_steps: int, generator: torch.Generator, temperature: float) -> Sampled:
        """A new text, symbol by symbol, starting after a line break or, if there is none, the most frequent symbol."""
        symbols = self.corpus.symbols
        first = "\n" if "\n" in symbols else texts.END_OF_LINE
        train = self.corpus.splits["train"]
        number = symbols.index(first) if first in symbols else int(np.bincount(train).argmax())
        state, numbers = None, []
        for _ in range(num_steps):
            output = model(torch.tensor([[number]], device=self.device), state)
            state = output.state
            share_V = (output.prediction[0, 0, : len(symbols)].cpu() / temperature).softmax(-1)
            number = int(torch.multinomial(share_V, 1, generator=generator))
            numbers.append(number)
        if not self.words:
            return Sampled("".join(symbols[number] for number in numbers))
        return Sampled(" ".join(symbols[number] for number in numbers).replace(f" {texts.END_OF_LINE}", "\n"))


@lru_cache(maxsize=1)  # it takes seconds, and all runs of a sweep read the same text
def _ppm_bytes(train: bytes, test: bytes) -> int:
    """The compressed size of the test text in bytes, when it is compressed after the training text."""
    from pyppmd import Ppmd7Encoder

    def size(content: bytes) -> int:
        encoder = Ppmd7Encoder(PPM_ORDER, PPM_MEMORY)
        return len(encoder.encode(content)) + len(encoder.flush())

    return size(train + test) - size(train)


def _num_read(batch: Batch, row: int) -> int:
    """The number of steps in a row before its text ends."""
    return batch.inputs.shape[1] if batch.mask is None else int(batch.mask[row].sum())


def _row_length(num_symbols: int, num_rows: int) -> int:
    """The number of predictions in a row."""
    return -(-(num_symbols - 1) // num_rows)


def _bigram(train: np.ndarray, test: np.ndarray, share_V: np.ndarray) -> np.ndarray:
    """The probability of each symbol of a test text but the first, given the one before.

    (c(a b) + t(a) p(b)) / (c(a) + t(a)), with counts c in the training text, in which t(a) different symbols follow a:
    interpolation of Witten and Bell (1991).
    """
    size = len(share_V)
    pairs, counts = np.unique(train[:-1] * size + train[1:], return_counts=True)
    count_V = np.bincount(train[:-1], minlength=size)
    followers_V = np.bincount(pairs // size, minlength=size)
    before, after = test[:-1], test[1:]
    wanted = before * size + after
    at = np.searchsorted(pairs, wanted).clip(max=len(pairs) - 1)
    together = np.where(pairs[at] == wanted, counts[at], 0)
    unseen = count_V[before] == 0
    share = (together + followers_V[before] * share_V[after]) / np.maximum(count_V[before] + followers_V[before], 1)
    return np.where(unseen, share_V[after], share)
