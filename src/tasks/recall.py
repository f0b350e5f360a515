"""Helpers shared by the tasks of associative recall: pairs of a key and a value, some written again, and floors.

Shapes: N examples, K pairs, U of them updated, W writes, Q queries.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from src.tasks.base import Metrics, fraction


def distinct(num_examples: int, count: int, num_choices: int, generator: torch.Generator) -> Tensor:
    """`count` different numbers below `num_choices` for every example, [N, count], in random order."""
    return torch.rand(num_examples, num_choices, generator=generator).topk(count).indices


class Written(NamedTuple):
    """What is written in each example, in order, and what is to be remembered at the end."""

    keys_NK: Tensor
    """The keys, all different, in the order in which they are first written."""
    answers_NK: Tensor
    """The last value of each key."""
    order_NW: Tensor
    """The pair that each write belongs to: all pairs in every pass, then those that are updated."""
    values_NW: Tensor
    """The value of each write; the values of an example are all different, except that passes repeat them."""


def draw(
    num_examples: int,
    num_pairs: int,
    num_keys: int,
    num_values: int,
    num_passes: int,
    num_updates: int,
    generator: torch.Generator,
) -> Written:
    """Pairs of a key and a value, written `num_passes` times; then `num_updates` of the keys get a new value."""
    keys_NK = distinct(num_examples, num_pairs, num_keys, generator)
    values_NV = distinct(num_examples, num_pairs + num_updates, num_values, generator)
    old_NK, new_NU = values_NV.split([num_pairs, num_updates], dim=1)
    updated_NU = distinct(num_examples, num_updates, num_pairs, generator)
    pairs_NK = torch.arange(num_pairs).expand(num_examples, -1)
    return Written(
        keys_NK,
        old_NK.scatter(1, updated_NU, new_NU),
        torch.cat([pairs_NK.repeat(1, num_passes), updated_NU], dim=1),
        torch.cat([old_NK.repeat(1, num_passes), new_NU], dim=1),
    )


def check_sizes(num_pairs: int, num_keys: int, num_values: int, num_updates: int) -> None:
    """Raise ValueError if there are too few keys or values for the pairs and updates, or more updates than pairs."""
    if num_pairs > num_keys:
        raise ValueError(f"num_pairs={num_pairs}: must be at most {num_keys}, the number of keys")
    if num_updates > num_pairs:
        raise ValueError(f"num_updates={num_updates}: must be at most {num_pairs}, the number of pairs")
    if num_pairs + num_updates > num_values:
        raise ValueError(
            f"num_values={num_values}: must be at least {num_pairs + num_updates}, the values of an example"
        )


def by_age(wrong_NQ: Tensor, pair_NQ: Tensor, num_pairs: int) -> Metrics:
    """Errors on the quarter of the pairs that was written first, and on the quarter that was written last."""
    quarter = -(-num_pairs // 4)
    return {
        "oldest_error": fraction(wrong_NQ[pair_NQ < quarter]),
        "newest_error": fraction(wrong_NQ[pair_NQ >= num_pairs - quarter]),
    }


def by_update(wrong_NQ: Tensor, updated_NQ: Tensor) -> Metrics:
    """Errors on the keys that kept their value, and on those with a new one."""
    flags = {"kept_error": wrong_NQ[~updated_NQ], "updated_error": wrong_NQ[updated_NQ]}
    return {name: fraction(wrong) for name, wrong in flags.items() if wrong.numel()}


def floors_of(num_pairs: int, num_values: int, num_passes: int, num_updates: int) -> dict[str, dict[str, float]]:
    """The floors of memories that lack the binding or the updates, worst first."""
    kept = (num_pairs - num_updates) / num_pairs
    old = kept / num_pairs  # the probability of each value of the first pass; updated values have 1 / K each
    nll = num_updates / num_pairs * math.log(num_pairs) - (kept * math.log(old) if kept else 0)
    floors = {
        "chance": {"error": 1 - 1 / num_values, "nll": math.log(num_values)},
        "knows the values, not the binding": {"error": 1 - 1 / num_pairs, "nll": nll},
    }
    if num_updates:
        floors["remembers the first value of a key"] = {"error": num_updates / num_pairs}
        if num_updates < num_pairs and num_passes == 1:  # otherwise the old value outweighs the new one
            floors["adds the values of a key"] = {"error": num_updates / num_pairs / 2}
    return dict(sorted(floors.items(), key=lambda item: -item[1]["error"]))
