"""Prediction of the next notes, the task of Boulanger-Lewandowski, Bengio and Vincent (2012).

Shapes: N sequences, B of them in a batch, T time steps, F frames of all pieces of a split, K keys.
"""

import math
from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, MinLen
from torch import Tensor
from torch.nn import functional

from src.data import music
from src.models.sequence import SequenceModel
from src.specs import Batch, InputSpec, Objective, Output, OutputSpec, Split
from src.tasks.base import Metrics, Sampled, Task, can_select

LENGTH_SPREAD = 0.25
"""Pieces are batched by length times a random factor that differs from 1 by at most this, drawn anew every epoch."""


class Sequences(NamedTuple):
    """The sequences of a split within one long roll: sequence n has `lengths[n]` steps from frame `starts[n]` on."""

    frames_FK: Tensor
    starts_N: Tensor
    lengths_N: Tensor


class PolyphonicMusic(Task):
    r"""Which of the 88 keys sound in the next frame?

        input     0     x_1   x_2   x_3
        target    x_1   x_2   x_3   x_4          x_t: 88 bits, the keys of a piano from A0 to C8

    Each piece is a sequence of its own that starts from the initial state, and its first frame is predicted from an
    empty one. The loss is the negative log-likelihood of a frame in nats, the sum of the cross-entropies of its keys,
    averaged over all frames of a split; keys are independent given the past. Most papers report this measure.

    `stream` follows Mathews (2016): pieces are joined, each followed by a frame in which only an 89th key sounds, and
    this stream is cut into windows. Each window starts from the initial state, with its first frame as input only.

    A batch has pieces of similar lengths; the shorter ones are padded. Every epoch uses each piece once, in different
    batches and in a different order. The batch with the longest pieces, which may come at any time, is the remainder
    and may have fewer pieces.

    Args:
        seed: seed of the order of the pieces.
        pieces: the collection of pieces.
        stream: whether the pieces are joined and cut into windows.
        window: number of steps in a window of the stream.
        data_dir: the folder of the files; see `src.data.music`.
    """

    objective = Objective("nll")
    evaluation_batch_size = 64

    def __init__(
        self,
        seed: int,
        *,
        pieces: Literal["jsb", "nottingham", "muse", "piano"] = "jsb",
        stream: bool = False,
        window: Annotated[int, Ge(1)] = 100,
        data_dir: Annotated[str, MinLen(1)] = "data",
    ):
        super().__init__(seed, train_size=None, val_size=None, test_size=None)
        num_keys = music.NUM_KEYS + stream
        self.input_spec = InputSpec("vectors", num_keys)
        self.output_spec = OutputSpec("bits", num_keys, every_step=True)
        self.pieces = pieces
        self.stream = stream
        self.window = window
        self.data_dir = data_dir
        self._sequences: dict[Split, Sequences] = {}
        self._batches: tuple[tuple[Split, int, int], list[Tensor]] | None = None

    def to(self, device: torch.device) -> Task:
        """Put all batches on this device from now on."""
        self._sequences.clear()
        self._batches = None
        return super().to(device)

    def sequences(self, split: Split) -> Sequences:
        """The sequences of a split, read when first needed."""
        if not self._sequences:
            for name, rolls in music.pieces(self.pieces, self.data_dir).items():
                made = _windows(rolls, self.window) if self.stream else _separate(rolls)
                self._sequences[name] = Sequences(*(tensor.to(self.device) for tensor in made))
        return self._sequences[split]

    def batch(self, split: Split, index: int, batch_size: int) -> Batch:
        """Batch number `index`; the next epoch begins after each piece has been used once."""
        epoch, number = divmod(index, -(-len(self.sequences(split).lengths_N) // batch_size))
        if self._batches is None or self._batches[0] != (split, epoch, batch_size):
            self._batches = (split, epoch, batch_size), self._epoch(split, epoch, batch_size)
        return self._take(split, self._batches[1][number])

    def _epoch(self, split: Split, epoch: int, batch_size: int) -> list[Tensor]:
        """The numbers of the pieces in each batch of an epoch: pieces of similar lengths, batches in random order."""
        generator = self._generator(split, epoch, "order")
        lengths_N = self.sequences(split).lengths_N.cpu()
        spread_N = 1 + LENGTH_SPREAD * (2 * torch.rand(len(lengths_N), generator=generator) - 1)
        batches = (lengths_N * spread_N).argsort().split(batch_size)
        order = torch.randperm(len(batches), generator=generator).tolist()
        return [batches[number].to(self.device) for number in order]

    def evaluation(self, split: Split) -> Iterator[Batch]:
        """All pieces of a split, sorted by length; only as many training pieces as there are validation pieces."""
        lengths_N = self.sequences(split).lengths_N
        if split == "train":
            lengths_N = lengths_N[: len(self.sequences("val").lengths_N)]
        for rows in lengths_N.argsort(stable=True).split(self.evaluation_batch_size):
            yield self._take(split, rows)

    def example(self) -> Batch:
        """The longest training piece."""
        return self._take("train", self.sequences("train").lengths_N.argmax()[None])

    def _take(self, split: Split, rows: Tensor) -> Batch:
        """The sequences with these numbers as a batch."""
        frames_FK, starts_N, lengths_N = self.sequences(split)
        lengths_B, starts_B1 = lengths_N[rows], starts_N[rows, None]
        steps_T = torch.arange(int(lengths_B.max()), device=lengths_B.device)
        mask_BT = steps_T < lengths_B[:, None]
        at_BT = torch.where(mask_BT, starts_B1 + steps_T, 0)
        inputs_BTK, targets_BTK = (frames_FK[at_BT + late] * mask_BT[..., None] for late in (0, 1))
        whole = bool((lengths_B == len(steps_T)).all())
        return Batch(inputs_BTK.float(), targets_BTK.float(), *((None, None) if whole else (mask_BT, lengths_B)))

    def criterion(self, prediction: Tensor, batch: Batch) -> Tensor:
        """The negative log-likelihood in nats per frame."""
        if not can_select(prediction):
            return super().criterion(prediction, batch) * self.output_spec.num_outputs
        logits, targets = self._counted(prediction, batch)
        return functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / max(len(targets), 1)

    def count(self, batch: Batch) -> int:
        """The number of frames."""
        return batch.inputs.shape[:2].numel() if batch.mask is None else int(batch.mask.sum())

    def metrics(self, output: Output, batch: Batch) -> Metrics:
        """`nll` and `nll_by_piece` in nats per frame, the `error` per key, and the `accuracy` of Bay et al. (2009).

        `nll` gives every frame the same weight, `nll_by_piece` every piece, however long; papers seldom say which they
        report. The accuracy is the fraction of keys that both sound and are predicted to, among those for which at
        least one of the two is true.
        """
        logits, targets = self._counted(output.prediction, batch)
        said, sounds = logits > 0, targets > 0
        accuracy = (said & sounds).sum(), int((said | sounds).sum())
        nats_BTK = functional.binary_cross_entropy_with_logits(output.prediction, batch.targets, reduction="none")
        mask_BT = torch.ones_like(nats_BTK[..., 0]) if batch.mask is None else batch.mask
        by_piece_B = (nats_BTK.sum(-1) * mask_BT).sum(1) / mask_BT.sum(1)
        by_piece = by_piece_B.sum(), len(by_piece_B)
        return super().metrics(output, batch) | {"nll_by_piece": by_piece, "accuracy": accuracy}

    @property
    def floors(self) -> dict[str, dict[str, float]]:
        """The floors on the test set, from frequencies in the training set."""
        (train, train_at), (test, test_at) = (self._frames(split) for split in ("train", "test"))
        ones, before = train[train_at + 1], train[train_at]
        share_K = _share(ones.sum(0), len(ones))
        after_0, after_1 = (_share((ones & (before == bit)).sum(0), (before == bit).sum(0)) for bit in (0, 1))
        target, last = test[test_at + 1], test[test_at]
        return {
            "every key at chance": {"nll": self.output_spec.size * math.log(2)},
            "how often each key sounds": {"nll": _nats(target, share_K)},
            "and whether it just did": {"nll": _nats(target, np.where(last == 1, after_1, after_0))},
        }

    def _frames(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """All frames of a split, and the numbers of the frames that precede the predicted ones."""
        frames, starts, lengths = (tensor.numpy(force=True) for tensor in self.sequences(split))
        spans = zip(starts, lengths, strict=True)
        return frames, np.concatenate([np.arange(start, start + length) for start, length in spans])

    def render(self, batch: Batch, row: int, output: Output) -> str:
        """The last predicted frame and how well the whole piece is predicted."""
        length = batch.inputs.shape[1] if batch.lengths is None else int(batch.lengths[row])
        logits, targets = output.prediction[row, :length], batch.targets[row, :length]
        nats = functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / length
        sounds, said = (_names(bits) for bits in (targets[-1] > 0, logits[-1] > 0))
        return f"{length} frames, {float(nats):.2f} nats per frame; the last one {sounds}   predicted {said}"

    @torch.no_grad()
    def sample(self, model: SequenceModel, num_steps: int, generator: torch.Generator, temperature: float) -> Sampled:
        """A new piece, frame by frame; each key of a frame is drawn with its predicted probability."""
        frame_K, state, frames = torch.zeros(self.input_spec.size), None, []
        frame_K[music.NUM_KEYS :] = 1  # in a stream a piece follows the end of another
        for _ in range(num_steps):
            output = model(frame_K.to(self.device)[None, None], state)
            state = output.state
            frame_K = torch.bernoulli(torch.sigmoid(output.prediction[0, 0].cpu() / temperature), generator=generator)
            frames.append(frame_K)
        text = "\n".join(_names(bits_K > 0) for bits_K in frames)
        return Sampled(text, torch.stack(frames)[:, : music.NUM_KEYS].to(torch.uint8).numpy())


def _separate(rolls: list[np.ndarray]) -> tuple[Tensor, Tensor, Tensor]:
    """Frames, starts and lengths of pieces, each with an empty frame before it."""
    frames = np.concatenate([np.concatenate([np.zeros_like(roll[:1]), roll]) for roll in rolls])
    lengths = torch.tensor([len(roll) for roll in rolls])
    return torch.from_numpy(frames), (lengths + 1).cumsum(0) - lengths - 1, lengths


def _windows(rolls: list[np.ndarray], window: int) -> tuple[Tensor, Tensor, Tensor]:
    """Frames, starts and lengths of the windows of one stream, with an end frame after each piece."""
    end = np.zeros((1, music.NUM_KEYS + 1), np.uint8)
    end[0, -1] = 1
    frames = np.concatenate([np.concatenate([np.pad(roll, ((0, 0), (0, 1))), end]) for roll in rolls])
    starts = torch.arange(0, len(frames) - 1, window)
    return torch.from_numpy(frames), starts, (len(frames) - 1 - starts).clamp(max=window)


def _share(count: np.ndarray, of: np.ndarray | int) -> np.ndarray:
    """The probability of a bit that was set `count` times out of `of`, by Laplace's rule of succession."""
    return (count + 1) / (of + 2)


def _nats(targets_FK: np.ndarray, share_K: np.ndarray) -> float:
    return float(-np.log(np.where(targets_FK == 1, share_K, 1 - share_K)).sum(1).mean())


def _names(bits_K: Tensor) -> str:
    """The notes of a frame: "C4 E4 G4", or "-" for silence."""
    names = ["C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"]
    keys = [music.LOWEST_KEY + key for key in bits_K.nonzero()[:, 0].tolist()]
    shown = [f"{names[key % 12]}{key // 12 - 1}" if key < music.LOWEST_KEY + music.NUM_KEYS else "end" for key in keys]
    return " ".join(shown) or "-"
