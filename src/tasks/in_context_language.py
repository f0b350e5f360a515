"""Regular languages learned in context, after Akyürek et al. (2024), "In-Context Language Learning" (RegBench).

Shapes: N examples, T time steps, S states of an automaton, V symbols.
"""

import itertools
from functools import cached_property
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from src.specs import Batch, InputSpec, Output, OutputSpec
from src.tasks.base import RIGHT, WRONG, Metrics, Task, fraction

SYMBOLS = "abcdefghijklmnopqrstuvwxyz"
SEPARATOR = "|"


class InContextLanguage(Task):
    """Which symbols may come next, in a language known only from the strings so far?

        | a b a | a b c a | a b c   ->   at the end: a or b

    Each sequence has a random automaton of its own with up to S states. In each state, one to `max_edges` symbols are
    legal, and each leads to a random other state. The automaton generates strings of 1 to `max_string_length` symbols,
    always from state 0 and with all legal symbols equally likely. Each string is preceded by a separator; the sequence
    is cut off after T steps. RegBench (arXiv 2401.12973) has up to 12 states, 18 symbols and 4 edges, and 10 to 20
    strings of up to 50 symbols.

    The target is the set of legal symbols, as bits, and the loss is the cross-entropy with a uniform draw from it, the
    expected cross-entropy with the symbol that comes next. An answer is wrong if its most likely symbol is not legal.

    Args:
        seed: seed of all data.
        num_states: S, the largest number of states; an automaton has 2 to S, all equally likely.
        num_symbols: V, the number of symbols.
        max_edges: largest number of symbols that are legal in a state.
        max_string_length: largest number of symbols in a string.
        sequence_length: T, the number of steps.
        train_size: number of training sequences; null for fresh ones at every update.
        val_size: number of validation sequences.
        test_size: number of test sequences.
    """

    def __init__(
        self,
        seed: int,
        *,
        num_states: Annotated[int, Ge(2)] = 5,
        num_symbols: Annotated[int, Ge(2), Le(26)] = 6,
        max_edges: Annotated[int, Ge(1)] = 3,
        max_string_length: Annotated[int, Ge(1)] = 10,
        sequence_length: Annotated[int, Ge(4)] = 56,
        train_size: Annotated[int, Ge(1)] | None = None,
        val_size: Annotated[int, Ge(1)] = 1000,
        test_size: Annotated[int, Ge(1)] = 2000,
    ):
        super().__init__(seed, train_size=train_size, val_size=val_size, test_size=test_size)
        if max_edges > num_symbols:
            raise ValueError(f"max_edges={max_edges}: must be at most {num_symbols}, the number of symbols")
        self.input_spec = InputSpec("tokens", num_symbols + 1)
        self.output_spec = OutputSpec("bits", num_symbols, every_step=True)
        self.num_states = num_states
        self.num_symbols = num_symbols
        self.max_edges = max_edges
        self.max_string_length = max_string_length
        self.sequence_length = sequence_length

    def generate(self, num_examples: int, generator: torch.Generator) -> Batch:
        size, length = num_examples, self.sequence_length
        legal_NSV, next_NSV = self._automata(size, generator)
        string_NT = torch.randint(1, self.max_string_length + 1, (size, length), generator=generator)
        start_NT = torch.cat([torch.zeros(size, 1, dtype=torch.int64), (string_NT + 1).cumsum(1)], dim=1)
        separated_NT = torch.zeros(size, length + 1, dtype=torch.bool).scatter_(1, start_NT.clamp(max=length), True)
        choice_NTV = torch.rand(size, length, self.num_symbols, generator=generator)

        start_N = torch.arange(size) * self.num_states  # states are numbered across all automata
        legal_SV, next_SV = legal_NSV.flatten(0, 1).float(), next_NSV.add(start_N[:, None, None]).flatten(0, 1)
        state_N = start_N
        symbols, states = [], []
        for separated_N, choice_NV in zip(separated_NT.unbind(1)[:length], choice_NTV.unbind(1), strict=True):
            symbol_N = choice_NV.mul_(legal_SV[state_N]).argmax(1)
            state_N = torch.where(separated_N, start_N, next_SV[state_N, symbol_N])
            symbols.append(symbol_N)
            states.append(state_N)
        inputs_NT = torch.stack(symbols, dim=1).masked_fill_(separated_NT[:, :length], self.num_symbols)
        return Batch(inputs_NT, legal_SV[torch.stack(states, dim=1)])

    def _automata(self, num_examples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Which symbols may follow each state, [N, S, V], and the states to which they lead."""
        shape = num_examples, self.num_states, self.num_symbols
        degree_NS1 = torch.randint(1, self.max_edges + 1, (*shape[:2], 1), generator=generator)
        legal_NSV = torch.rand(shape, generator=generator).argsort(2).argsort(2) < degree_NS1
        others_N11 = torch.randint(1, self.num_states, (num_examples, 1, 1), generator=generator)
        other_NSV = (torch.rand(shape, generator=generator) * others_N11).long()
        return legal_NSV, other_NSV + (other_NSV >= torch.arange(self.num_states)[:, None])

    def criterion(self, prediction: Tensor, batch: Batch) -> Tensor:
        """The cross-entropy with a uniform draw from the legal symbols, in nats per step."""
        shares_NTV = batch.targets / batch.targets.sum(-1, keepdim=True)
        return -(shares_NTV * prediction.log_softmax(-1)).sum(-1).mean()

    def metrics(self, output: Output, batch: Batch) -> Metrics:
        """`error`: the fraction of steps at which the most likely symbol is not legal; `nll`: nats per step.

        `early_error` and `late_error` are the errors in the first and in the last quarter of the sequence.
        """
        wrong_NT = _wrong(output.prediction, batch)
        quarter = wrong_NT.shape[1] // 4
        return super().metrics(output, batch) | {
            "error": fraction(wrong_NT),
            "early_error": fraction(wrong_NT[:, :quarter]),
            "late_error": fraction(wrong_NT[:, -quarter:]),
        }

    @cached_property
    def floors(self) -> dict[str, dict[str, float]]:
        """Floors measured on 2,000 sequences from a separate generator; nothing can beat the last one."""
        batch = self.generate(2000, torch.Generator().manual_seed(0))
        following_NTV = following(batch.inputs, self.num_symbols)
        last = {"error": 0.0, "nll": float(batch.targets.sum(-1).log().mean())}
        seen = {"error": float(_wrong(following_NTV, batch).float().mean())}
        uniform = torch.zeros_like(batch.targets)
        legal_share = float(batch.targets.mean())
        return {
            "chance": {"error": 1 - legal_share, "nll": float(self.criterion(uniform, batch))},
            "what followed this symbol before": seen,
            "knows the language": last,
        }

    def render(self, batch: Batch, row: int, output: Output) -> str:
        wrong_T = _wrong(output.prediction, batch)[row]
        legal = "".join(SYMBOLS[symbol] for symbol in batch.targets[row, -1].nonzero()[:, 0].tolist())
        answer = SYMBOLS[int(output.prediction[row, -1].argmax())]
        shown = f"{''.join(self.labels(batch, row))} -> {legal}   predicted {answer}"
        wrong = int(wrong_T.sum())
        return f"{shown}   {wrong} of {len(wrong_T)} steps wrong   {WRONG}" if wrong else f"{shown}   {RIGHT}"

    def labels(self, batch: Batch, row: int) -> list[str]:
        return [(SYMBOLS[: self.num_symbols] + SEPARATOR)[symbol] for symbol in batch.inputs[row].tolist()]


def _wrong(prediction_NTV: Tensor, batch: Batch) -> Tensor:
    """Whether the most likely symbol is not legal, [N, T]."""
    return batch.targets.gather(-1, prediction_NTV.argmax(-1, keepdim=True))[..., 0] == 0


def following(inputs_NT: Tensor, num_symbols: int) -> Tensor:
    """How often each symbol has followed the current one earlier in the sequence, [N, T, V]: bigrams in context."""
    row_N, by_step = torch.arange(len(inputs_NT)), inputs_NT.unbind(1)
    counts_NSS = torch.zeros(len(inputs_NT), num_symbols + 1, num_symbols + 1)  # the separator is a symbol here
    counts = [counts_NSS[row_N, by_step[0]]]
    for before_N, symbol_N in itertools.pairwise(by_step):
        counts_NSS[row_N, before_N, symbol_N] += 1
        counts.append(counts_NSS[row_N, symbol_N])
    return torch.stack(counts, dim=1)[..., :num_symbols]
