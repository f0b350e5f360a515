"""Measures the linear recurrence alone, in each of its forms; see scripts/benchmark.py."""

from collections.abc import Callable
from functools import partial
from itertools import product
from time import thread_time
from typing import Any

import torch
from omegaconf import OmegaConf
from torch.nn import functional
from torch.utils.benchmark import Timer

from src.config.paths import CONFIGS
from src.ops.cpu import calls
from src.ops.cpu.linear_recurrence import linear_recurrence
from src.ops.linear_recurrence import Recurrence, Terms, chunked, scan

RECURRENCES: dict[str, tuple[str, bool]] = {
    "linear_attention": ("none", False),
    "retnet": ("head", False),
    "gla": ("feature", False),
    "deltanet": ("none", True),
    "gated_deltanet": ("head", True),
    "kda": ("feature", True),
}
"""What decays in the cell, nothing, a head or every key feature, and whether it erases."""


def random_terms(decay: str, erases: bool, batch: int, time: int, size: int) -> Terms:
    """Terms of one head, with keys of unit length, that require gradients."""
    q, v = torch.randn(2, batch, time, 1, size)
    k = functional.normalize(torch.randn(batch, time, 1, size), dim=-1)
    log_decay = None if decay == "none" else -0.1 * torch.rand(batch, time, 1, 1 if decay == "head" else size)
    terms = Terms(q, k, v, log_decay, k.clone() if erases else None)
    return Terms(*(None if term is None else term.requires_grad_() for term in terms))  # type: ignore[arg-type]


def passes(form: Recurrence, terms: Terms) -> Callable[[], None]:
    """The forward and the backward pass."""
    batch, _, heads, size = terms.query.shape
    S_BHKV, weights = torch.zeros(batch, heads, size, size), torch.randn_like(terms.query)
    wanted = [term for term in terms if term is not None]

    def run() -> None:
        o_BTHV, _ = form(terms, S_BHKV)
        torch.autograd.grad(o_BTHV, wanted, weights)

    return run


def measure(
    model: str, batch: int, time: int, size: int, chunk_size: int | None, rounds: int, seconds: float
) -> dict[str, Any]:
    """Milliseconds of both passes in each form, medians of interleaved rounds, and ratios to the first form."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if chunk_size is None:
        chunk_size = int(OmegaConf.load(CONFIGS / "model" / f"{model}.yaml").chunk_size)
    forms: dict[str, Recurrence] = {"chunked": partial(chunked, chunk_size=chunk_size), "scan": scan}
    if calls.available(torch.empty(0)):
        forms = {"kernel": linear_recurrence, **forms}
    terms = random_terms(*RECURRENCES[model], batch, time, size)
    timers = {
        name: Timer("run()", timer=thread_time, globals={"run": passes(form, terms)}) for name, form in forms.items()
    }
    for timer in timers.values():
        timer.timeit(1)
    rounds_ms: dict[str, list[float]] = {name: [] for name in timers}
    for _, (name, timer) in product(range(rounds), timers.items()):
        one = timer.blocked_autorange(min_run_time=seconds / rounds / len(timers))
        rounds_ms[name].append(1e3 * one.median)
    ms = {name: sorted(values)[len(values) // 2] for name, values in rounds_ms.items()}
    row = {"model": model, "batch_size": batch, "length": time, "size": size, "chunk_size": chunk_size}
    first = next(iter(ms.values()))
    return (
        row
        | {f"{name}_ms": value for name, value in ms.items()}
        | {f"ratio_of_{name}": value / first for name, value in ms.items()}
        | {"rounds_ms": rounds_ms}
    )
