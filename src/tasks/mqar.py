"""Multi-query associative recall, the task of Arora et al. (2023), "Zoology: Measuring and Improving Recall in
Efficient Language Models".

Shapes: N examples, K pairs, W writes, S slots, T time steps, L symbols of a key.
"""

import math
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from src.specs import Batch, InputSpec, Output, OutputSpec
from src.tasks.base import RIGHT, WRONG, Metrics, Task
from src.tasks.recall import Written, by_age, by_update, check_sizes, draw, floors_of


class MQAR(Task):
    """Which value followed the key, for every key that occurs again?

        k3 v7 k1 v2 | k1 . . . k3 .   ->   _ _ _ _ v2 _ _ _ v7 _

    A sequence consists of `num_pairs` pairs of two symbols, then `num_slots` slots of two symbols, at least as many. K
    of the slots hold a key, and the answer is due at the step of the key. These slots are drawn without replacement
    with probabilities ∝ s^(a - 1), s = 1 ... S, so that with a = `slot_power` < 1 near slots are more likely. All other
    symbols are blank or, as in the original, random; a random symbol can by chance be a key, followed by a wrong value.
    The keys of an example are all different, and so are its values (arXiv 2312.04927, and its code).

    - `plain`: as above.
    - `forgetting`: after all passes, U of the keys are written again with new values; the answer is the last value.
    - `compositional`: a key is two symbols, `i j`, and the keys of an example are all combinations of √K first and √K
      second symbols, so that neither symbol suffices by itself; pairs and slots have three symbols.

    Args:
        seed: seed of all data.
        variant: plain, forgetting or compositional, as above.
        num_pairs: K, the number of pairs; compositional: a square number.
        num_keys: number of different keys; compositional: number of different symbols for each half of a key.
        num_values: number of different values, the classes of the answer.
        num_slots: S, the number of slots.
        slot_power: a, which sets the probabilities of the slots.
        num_passes: number of times that all pairs are written, in the same order.
        num_updates: U, the number of keys that are written again; forgetting only.
        random_fillers: whether the other symbols are random; otherwise they are blank.
        train_size: number of training sequences; null for fresh ones at every update.
        val_size: number of validation sequences.
        test_size: number of test sequences.
    """

    def __init__(
        self,
        seed: int,
        *,
        variant: Literal["plain", "forgetting", "compositional"] = "plain",
        num_pairs: Annotated[int, Ge(1)] = 16,
        num_keys: Annotated[int, Ge(2)] = 64,
        num_values: Annotated[int, Ge(2)] = 64,
        num_slots: Annotated[int, Ge(1)] = 32,
        slot_power: Annotated[float, Gt(0)] = 0.01,
        num_passes: Annotated[int, Ge(1)] = 1,
        num_updates: Annotated[int, Ge(0)] = 8,
        random_fillers: bool = True,
        train_size: Annotated[int, Ge(1)] | None = None,
        val_size: Annotated[int, Ge(1)] = 1000,
        test_size: Annotated[int, Ge(1)] = 2000,
    ):
        super().__init__(seed, train_size=train_size, val_size=val_size, test_size=test_size)
        self.compositional = variant == "compositional"
        self.side = math.isqrt(num_pairs)
        if self.compositional and self.side**2 != num_pairs:
            raise ValueError(f"num_pairs={num_pairs}: must be a square number with variant=compositional")
        self.num_updates = num_updates if variant == "forgetting" else 0
        self.key_length = 2 if self.compositional else 1
        check_sizes(num_pairs, num_keys**self.key_length, num_values, self.num_updates)
        if num_slots < num_pairs:
            raise ValueError(f"num_slots={num_slots}: must be at least {num_pairs}, the number of pairs")
        self.num_pairs = num_pairs
        self.num_keys = num_keys
        self.num_values = num_values
        self.num_slots = num_slots
        self.slot_power = slot_power
        self.num_passes = num_passes
        self.random_fillers = random_fillers
        self.num_writes = num_passes * num_pairs + self.num_updates
        self.first_value = 1 + self.key_length * num_keys  # symbol 0 is the blank
        self.input_spec = InputSpec("tokens", self.first_value + num_values)
        self.output_spec = OutputSpec("class", num_values, every_step=True)

    def generate(self, num_examples: int, generator: torch.Generator) -> Batch:
        num_keys = self.num_pairs if self.compositional else self.num_keys
        sizes = self.num_pairs, num_keys, self.num_values, self.num_passes, self.num_updates
        written = draw(num_examples, *sizes, generator)
        symbols_NKL = self._symbols(written, generator)

        row_N1 = torch.arange(num_examples)[:, None]
        pairs_NWL = torch.cat(
            [symbols_NKL[row_N1, written.order_NW], self.first_value + written.values_NW[..., None]], 2
        )
        width = self.key_length + 1
        slots_NSL = torch.zeros(num_examples, self.num_slots, width, dtype=torch.int64)
        if self.random_fillers:
            slots_NSL = torch.randint(self.input_spec.size, slots_NSL.shape, generator=generator)
        slot_NK = self._slots(num_examples, generator)
        slots_NSL[row_N1, slot_NK, : self.key_length] = symbols_NKL
        inputs_NT = torch.cat([pairs_NWL, slots_NSL], dim=1).flatten(1)

        asked_NK = (self.num_writes + slot_NK) * width + self.key_length - 1
        targets_NT = torch.zeros_like(inputs_NT).scatter(1, asked_NK, written.answers_NK)
        mask_NT = torch.zeros(inputs_NT.shape, dtype=torch.bool).scatter(1, asked_NK, True)
        return Batch(inputs_NT, targets_NT, mask_NT)

    def _symbols(self, written: Written, generator: torch.Generator) -> Tensor:
        """The symbols of each key, [N, K, L]."""
        if not self.compositional:
            return 1 + written.keys_NK[..., None]
        shape = len(written.keys_NK), 2, self.num_keys
        halves_N2S = 1 + torch.rand(shape, generator=generator).topk(self.side).indices
        first_NK = halves_N2S[:, 0].gather(1, written.keys_NK // self.side)
        second_NK = halves_N2S[:, 1].gather(1, written.keys_NK % self.side) + self.num_keys
        return torch.stack([first_NK, second_NK], dim=2)

    def _slots(self, num_examples: int, generator: torch.Generator) -> Tensor:
        """The slot of each key, [N, K], drawn without replacement by the largest log-probability plus Gumbel noise."""
        log_p_S = (self.slot_power - 1) * torch.arange(1, self.num_slots + 1).log()
        noise_NS = torch.empty(num_examples, self.num_slots).exponential_(generator=generator).log()
        return (log_p_S - noise_NS).topk(self.num_pairs).indices

    def metrics(self, output: Output, batch: Batch) -> Metrics:
        """`error` and `nll` of all answers; `oldest_error` and `newest_error` of the quarters written first and last.

        With updates, `kept_error` and `updated_error` take the place of the last two.
        """
        metrics = super().metrics(output, batch)
        shape = len(batch.inputs), self.num_pairs
        wrong_NK = (output.prediction[batch.mask].argmax(-1) != batch.targets[batch.mask]).view(shape)
        at_NK = batch.mask.nonzero()[:, 1].view(shape)  # type: ignore[union-attr]
        asked_NK = _key_at(batch.inputs, at_NK, self.key_length, self.input_spec.size)
        last_of_write_W = (torch.arange(self.num_writes) + 1) * (self.key_length + 1) - 2
        written_NW = _key_at(
            batch.inputs, last_of_write_W.expand(len(at_NK), -1), self.key_length, self.input_spec.size
        )
        same_NKW = asked_NK[:, :, None] == written_NW[:, None]
        if not self.num_updates:
            return metrics | by_age(wrong_NK, same_NKW.int().argmax(2), self.num_pairs)
        return metrics | by_update(wrong_NK, same_NKW[:, :, -self.num_updates :].any(2))

    @property
    def floors(self) -> dict[str, dict[str, float]]:
        floors = floors_of(self.num_pairs, self.num_values, self.num_passes, self.num_updates)
        if self.compositional:
            floors["knows half of each key"] = {"error": 1 - 1 / self.side, "nll": math.log(self.side)}
        return floors

    def render(self, batch: Batch, row: int, output: Output) -> str:
        asked = batch.mask[row].nonzero()[:, 0].tolist()  # type: ignore[index]
        labels = self.labels(batch, row)
        targets, answers = batch.targets[row, asked].tolist(), output.prediction[row, asked].argmax(-1).tolist()
        pairs = " ".join(
            f"{''.join(labels[at - self.key_length + 1 : at + 1])}->v{target}"
            for at, target in zip(asked, targets, strict=True)
        )
        shown = " ".join(f"v{answer}" for answer in answers)
        return f"{pairs}   predicted {shown}   {RIGHT if answers == targets else WRONG}"

    def labels(self, batch: Batch, row: int) -> list[str]:
        return [self._label(symbol) for symbol in batch.inputs[row].tolist()]

    def _label(self, symbol: int) -> str:
        if symbol == 0:
            return "_"
        if symbol >= self.first_value:
            return f"v{symbol - self.first_value}"
        half, number = divmod(symbol - 1, self.num_keys)
        return f"{'kj'[half]}{number}"


def _key_at(inputs_NT: Tensor, at_NK: Tensor, key_length: int, num_symbols: int) -> Tensor:
    """A number that identifies each key that ends at these steps, [N, K]."""
    at_NK = at_NK.to(inputs_NT.device)
    last_NK = inputs_NT.gather(1, at_NK)
    return last_NK if key_length == 1 else last_NK + num_symbols * inputs_NT.gather(1, at_NK - 1)
