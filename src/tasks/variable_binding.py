"""Variable binding, the task of Mathews (2016): tell patterns apart by when they came and with which flag.

Shapes: N examples, T time steps, K items, D bits of a pattern, C = K + 1 counts.
"""

import math
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from src.specs import Batch, InputSpec, Objective, Output, OutputSpec
from src.tasks.base import RIGHT, WRONG, Metrics, Task, fraction
from src.tasks.recall import distinct


class VariableBinding(Task):
    """Which pattern came with which flag?

    The input at every step is the D bits of a pattern and K flags; the flag of item i has index K - 1 - i. With D = 3
    bits, K = 2 items and no noise:

        recall        bits   000 101 000 011 000 000
                      flags   00  01  00  10  00  01   ->   101, the pattern of the item flagged at the last step
        order         bits   000 101 000 011 000 011
                      flags   00  01  00  10  00  00   ->   item 1, whose pattern is shown again at the last step
        continuous    bits   000 101 000 011 000 000
                      flags   01  01  11  10  10  00
                      target 000 000 000 101 000 011   (asked at every step)

    - `recall` and `order`: the items are flagged at different steps, uniform in all but the last step, and each is
      equally likely to be asked for. The pattern is at the flagged step, or right after it with offset = 1; then flags
      are never at adjacent steps, nor at the next-to-last step. In `order` the patterns of an example are different.
    - `continuous`: each flag turns on at one of the first T // 2 steps, no two at the same step, and stays on for a
      random time. Its pattern comes at the second step of the flag and is asked for at the first step after it; at
      all other steps the target is 0. Flags that are still on turn off at the last step, so several may do so at
      once: then the target is the OR of their patterns (for real patterns the sum, at most 1).

    Real patterns are uniform in [0, 1]; recall and continuous then use the squared error.

    Args:
        seed: seed of all data.
        variant: recall, order or continuous, as above.
        sequence_length: T, the number of steps.
        num_items: K, the number of items.
        num_bits: D, the number of bits of a pattern.
        offset: number of steps from the flag to the pattern; recall and order only.
        noise: whether all steps without an item have random patterns instead of zeros.
        real_patterns: whether patterns consist of real numbers instead of bits.
        min_keep: least number of steps between a pattern and its recall, unless the sequence ends first; a flag is on
            for at least two steps more. Continuous only.
        max_keep: largest number of steps for which a flag is on; null for T. Continuous only.
        train_size: number of training sequences; null for fresh ones at every update.
        val_size: number of validation sequences.
        test_size: number of test sequences.
    """

    def __init__(
        self,
        seed: int,
        *,
        variant: Literal["recall", "order", "continuous"] = "recall",
        sequence_length: Annotated[int, Ge(3)] = 100,
        num_items: Annotated[int, Ge(1)] = 2,
        num_bits: Annotated[int, Ge(1), Le(32)] = 8,
        offset: Literal[0, 1] = 0,
        noise: bool = True,
        real_patterns: bool = False,
        min_keep: Annotated[int, Ge(0)] = 1,
        max_keep: Annotated[int, Ge(1)] | None = None,
        train_size: Annotated[int, Ge(1)] | None = None,
        val_size: Annotated[int, Ge(1)] = 2000,
        test_size: Annotated[int, Ge(1)] = 5000,
    ):
        super().__init__(seed, train_size=train_size, val_size=val_size, test_size=test_size)
        if variant == "continuous":
            most_items = sequence_length // 2
            if offset != 0:
                raise ValueError(f"offset={offset}: must be 0 with variant=continuous")
            if max_keep is not None and max_keep < min_keep + 2:
                raise ValueError(f"max_keep={max_keep}: must be at least min_keep + 2 = {min_keep + 2}")
            if sequence_length < min_keep + 2:
                raise ValueError(f"sequence_length={sequence_length}: must be at least min_keep + 2 = {min_keep + 2}")
        else:
            most_items = sequence_length - 1 if offset == 0 else (sequence_length - 1) // 2
            if min_keep != 1:
                raise ValueError(f"min_keep={min_keep}: must be 1 unless variant=continuous")
            if max_keep is not None:
                raise ValueError(f"max_keep={max_keep}: must be null unless variant=continuous")
        if num_items > most_items:
            raise ValueError(
                f"num_items={num_items}: must be at most {most_items} with sequence_length={sequence_length}"
            )
        if variant == "order" and num_items == 1:
            raise ValueError(f"num_items={num_items}: must be at least 2 with variant=order")
        if variant == "order" and not real_patterns and num_items > 2**num_bits:
            raise ValueError(f"num_items={num_items}: must be at most {2**num_bits} with num_bits={num_bits}")
        self.variant = variant
        self.sequence_length = sequence_length
        self.num_items = num_items
        self.num_bits = num_bits
        self.offset = offset
        self.noise = noise
        self.real_patterns = real_patterns
        # The number of steps for which a flag stays on after its first.
        self.shortest_delay = min_keep + 1
        self.longest_delay = (max_keep or sequence_length) - 1

        self.input_spec = InputSpec("vectors", num_bits + num_items)
        if variant == "order":
            self.output_spec = OutputSpec("class", num_items)
        else:
            kind: Literal["value", "bits"] = "value" if real_patterns else "bits"
            self.output_spec = OutputSpec(kind, num_bits, every_step=variant == "continuous")
        asked_metric = "nats" if variant == "continuous" else "error"
        self.objective = Objective("mse" if self.output_spec.kind == "value" else asked_metric)

    def generate(self, num_examples: int, generator: torch.Generator) -> Batch:
        if self.variant == "continuous":
            return self._generate_continuous(num_examples, generator)
        row_N1 = torch.arange(num_examples)[:, None]
        flag_K = self.num_items - 1 - torch.arange(self.num_items)
        flagged_NK = self._flagged(num_examples, generator)
        asked_N = torch.randint(self.num_items, (num_examples,), generator=generator)
        if self.variant == "order" and not self.real_patterns:
            codes_NK = _different_codes(num_examples, self.num_items, 2**self.num_bits, generator)
            patterns_NKD = (codes_NK[..., None] >> torch.arange(self.num_bits) & 1).float()
        else:
            patterns_NKD = self._patterns((num_examples, self.num_items), generator)
        asked_ND = patterns_NKD[row_N1[:, 0], asked_N]

        bits_NTD = self._background(num_examples, generator)
        bits_NTD[row_N1, flagged_NK + self.offset] = patterns_NKD
        flags_NTK = torch.zeros(num_examples, self.sequence_length, self.num_items)
        flags_NTK[row_N1, flagged_NK, flag_K] = 1
        if self.variant == "order":
            bits_NTD[:, -1] = asked_ND
            return Batch(torch.cat([bits_NTD, flags_NTK], dim=2), asked_N)
        flags_NTK[row_N1[:, 0], -1, flag_K[asked_N]] = 1
        return Batch(torch.cat([bits_NTD, flags_NTK], dim=2), asked_ND)

    def _generate_continuous(self, num_examples: int, generator: torch.Generator) -> Batch:
        row_N1 = torch.arange(num_examples)[:, None]
        shape = (num_examples, self.num_items)
        first_NK = distinct(num_examples, self.num_items, self.sequence_length // 2, generator)
        delay_NK = torch.randint(self.shortest_delay, self.longest_delay + 1, shape, generator=generator)
        last_NK = (first_NK + delay_NK).clamp(max=self.sequence_length - 2)
        patterns_NKD = self._patterns(shape, generator)

        bits_NTD = self._background(num_examples, generator)
        bits_NTD[row_N1, first_NK + 1] = patterns_NKD
        step_T1 = torch.arange(self.sequence_length)[:, None]
        flags_NTK = (step_T1 >= first_NK[:, None]) & (step_T1 <= last_NK[:, None])
        targets_NTD = torch.zeros_like(bits_NTD)
        targets_NTD.index_put_((row_N1, last_NK + 1), patterns_NKD, accumulate=True).clamp_(max=1)
        return Batch(torch.cat([bits_NTD, flags_NTK.float()], dim=2), targets_NTD)

    def _flagged(self, num_examples: int, generator: torch.Generator) -> Tensor:
        """A step for every item, [N, K]; all sets of steps are equally likely."""
        if self.offset == 0:
            return distinct(num_examples, self.num_items, self.sequence_length - 1, generator)
        # Sets without adjacent steps are arbitrary sets with one step inserted after each but the last.
        num_steps = self.sequence_length - 2 - (self.num_items - 1)
        flagged_NK = distinct(num_examples, self.num_items, num_steps, generator)
        return flagged_NK + flagged_NK.argsort(1).argsort(1)

    def _patterns(self, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        numbers = torch.rand(*shape, self.num_bits, generator=generator)
        return numbers if self.real_patterns else numbers.round()

    def _background(self, num_examples: int, generator: torch.Generator) -> Tensor:
        shape = (num_examples, self.sequence_length)
        return self._patterns(shape, generator) if self.noise else torch.zeros(*shape, self.num_bits)

    def metrics(self, output: Output, batch: Batch) -> Metrics:
        """The metrics of each variant, averaged over the batch.

        recall: `error` and `nll` per bit, `exact_error` per pattern; order: `error` and `nll`; continuous: `nats` per
        sequence, `nll` per bit and step, `error` per bit at the steps where a pattern is asked for. For real patterns,
        recall and continuous have `mse` instead, and continuous also `recall_mse` at the steps where a pattern is asked
        for.
        """
        metrics = super().metrics(output, batch)
        real = self.output_spec.kind == "value"
        if self.variant == "continuous":
            asked = self._asked(batch)
            prediction, targets = output.prediction[asked], batch.targets[asked]
            if real:
                return metrics | {"recall_mse": ((prediction - targets).square().sum(), targets.numel())}
            nll, count = metrics["nll"]
            nats = nll * self.sequence_length * self.num_bits
            return metrics | {"error": fraction((prediction > 0) != (targets > 0)), "nats": (nats, count)}
        if self.variant == "recall" and not real:
            metrics["exact_error"] = fraction(((output.prediction > 0) != (batch.targets > 0)).any(-1))
        return metrics

    def _asked(self, batch: Batch) -> Tensor:
        """Where `continuous` asks for a pattern, [N, T]: the first step after a flag was on."""
        on_NTK = batch.inputs[..., self.num_bits :] > 0
        asked_NT = torch.zeros_like(on_NTK[..., 0])
        asked_NT[:, 1:] = (on_NTK[:, :-1] & ~on_NTK[:, 1:]).any(2)
        return asked_NT

    @property
    def floors(self) -> dict[str, dict[str, float]]:
        num_items = self.num_items
        if self.variant == "order":
            return {"chance": {"error": 1 - 1 / num_items, "nll": math.log(num_items)}}
        if self.variant == "continuous":
            ended_TC = _ended_together(self.sequence_length, num_items, self.shortest_delay, self.longest_delay)
            return _real_floors(ended_TC) if self.real_patterns else self._bit_floors(ended_TC)
        binding = "knows the patterns, not the binding"
        if self.real_patterns:
            return {"chance": {"mse": 1 / 12}, binding: {"mse": (1 - 1 / num_items) / 12}}
        ones = np.arange(num_items + 1)
        probability = np.array([math.comb(num_items, n) / 2**num_items for n in ones])
        share = ones / num_items
        return {
            "chance": {"error": 0.5, "nll": math.log(2), "exact_error": 1 - 0.5**self.num_bits},
            binding: {
                "error": float(probability @ np.minimum(share, 1 - share)),
                "nll": float(probability @ _entropy(share)),
            },
        }

    def _bit_floors(self, ended_TC: np.ndarray) -> dict[str, dict[str, float]]:
        """The floors of the best constant probability, and of the best one for each number of patterns asked for."""
        size = self.sequence_length * self.num_bits
        zero_C = 0.5 ** np.arange(ended_TC.shape[1])
        asked_C = ended_TC[:, 1:].sum(0) / ended_TC[:, 1:].sum()
        constant = float(_entropy(np.mean(ended_TC @ (1 - zero_C))))
        when = float(np.mean(ended_TC @ _entropy(zero_C)))
        return {
            "the same answer at every step": {
                "error": float(asked_C @ (1 - zero_C[1:])),
                "nll": constant,
                "nats": constant * size,
            },
            "knows when, not what": {"error": float(asked_C @ zero_C[1:]), "nll": when, "nats": when * size},
        }

    def render(self, batch: Batch, row: int, output: Output) -> str:
        prediction, targets = output.prediction[row], batch.targets[row]
        flags_TK = batch.inputs[row, :, self.num_bits :].flip(1)
        if self.variant == "continuous":
            asked = self._asked(batch)[row].nonzero()[:, 0].tolist()
            pairs = [f"{self._show(targets[t])} predicted {self._show(prediction[t], True)} at {t}" for t in asked]
            return f"{'; '.join(pairs)}   {self._verdict(prediction, targets)}"
        steps = flags_TK[:-1].argmax(0).tolist()
        items = ", ".join(f"{i} at step {steps[i]}" for i in range(self.num_items))
        if self.variant == "recall":
            shown, answer = self._show(targets), self._show(prediction, True)
            asked_item = int(flags_TK[-1].argmax())
            return f"{items}; {asked_item}? -> {shown}   predicted {answer}   {self._verdict(prediction, targets)}"
        shown = self._show(batch.inputs[row, -1, : self.num_bits])
        probabilities = prediction.softmax(-1)
        best, target = int(probabilities.argmax()), int(targets)
        sign = RIGHT if best == target else WRONG
        return f"{items}; {shown}? -> {target}   predicted {best} (p={float(probabilities[best]):.3f})   {sign}"

    def _show(self, pattern_D: Tensor, predicted: bool = False) -> str:
        if self.real_patterns:
            return " ".join(f"{number:.2f}" for number in pattern_D.tolist())
        return "".join("1" if number > (0 if predicted else 0.5) else "0" for number in pattern_D.tolist())

    def _verdict(self, prediction: Tensor, targets: Tensor) -> str:
        if self.real_patterns:
            return f"off by {float((prediction - targets).abs().max()):.2f} at most"
        return RIGHT if torch.equal(prediction > 0, targets > 0) else WRONG


def _different_codes(num_examples: int, num_items: int, num_codes: int, generator: torch.Generator) -> Tensor:
    """Different numbers below `num_codes`, [N, K]: item i is drawn from those not taken by earlier items."""
    codes_NK = torch.empty(num_examples, 0, dtype=torch.int64)
    for i in range(num_items):
        code_N = torch.randint(num_codes - i, (num_examples,), generator=generator)
        for taken_N in codes_NK.sort(1).values.unbind(1):
            code_N = code_N + (code_N >= taken_N)
        codes_NK = torch.cat([codes_NK, code_N[:, None]], dim=1)
    return codes_NK


def _ended_together(length: int, num_items: int, shortest: int, longest: int) -> np.ndarray:
    """The exact probability that c items are asked for at step t, [T, C].

    The first T // 2 steps are visited in turn. Each is the start of an item with its conditional probability given the
    earlier starts (K different ones in all), and that item is asked for at step t with probability q_t.
    """
    num_starts = length // 2
    delays = np.arange(shortest, longest + 1)
    probability = np.zeros((length, num_items + 1, num_items + 1))  # step, items started, items asked for
    probability[:, 0, 0] = 1
    for start in range(num_starts):
        asked = np.minimum(start + delays, length - 2) + 1
        q = (np.bincount(asked, minlength=length) / len(delays))[:, None, None]
        chosen = np.clip((num_items - np.arange(num_items + 1)) / (num_starts - start), 0, 1)
        started = probability * chosen[:, None]
        probability -= started
        probability[:, 1:] += started[:, :-1] * (1 - q)
        probability[:, 1:, 1:] += started[:, :-1, :-1] * q
    return probability[:, num_items]


def _real_floors(ended_TC: np.ndarray) -> dict[str, dict[str, float]]:
    """The floors of the best constant and of the best number for every c; targets are min(1, sum of c uniform numbers).

    P(sum <= x) = x^c / c! for x in [0, 1] gives the mean 1 - 1 / (c + 1)! and the mean square 1 - 2 / (c! (c + 2)).
    """
    counts = range(ended_TC.shape[1])
    mean_C = np.array([1 - 1 / math.factorial(c + 1) for c in counts])
    square_C = np.array([1 - 2 / (math.factorial(c) * (c + 2)) for c in counts])
    constant = float(np.mean(ended_TC @ mean_C))
    asked_C = ended_TC[:, 1:].sum(0) / ended_TC[:, 1:].sum()
    off_C = square_C - 2 * constant * mean_C + constant**2
    variance_C = square_C - mean_C**2
    return {
        "the same answer at every step": {
            "mse": float(np.mean(ended_TC @ square_C)) - constant**2,
            "recall_mse": float(asked_C @ off_C[1:]),
        },
        "knows when, not what": {
            "mse": float(np.mean(ended_TC @ variance_C)),
            "recall_mse": float(asked_C @ variance_C[1:]),
        },
    }


def _entropy(p: np.ndarray) -> np.ndarray:
    """The entropy of a bit that is 1 with probability p, in nats."""
    from scipy.special import entr

    return entr(p) + entr(1 - p)
