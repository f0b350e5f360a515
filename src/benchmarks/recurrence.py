"""Measures the linear recurrence in each of its forms, alone and within whole updates; see scripts/benchmark.py."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, product
from statistics import median
from time import thread_time
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.nn import functional
from torch.utils.benchmark import Timer

from src.benchmarks.updates import MODELS, ratio_of, update_as_trained
from src.models.sequence import SequenceModel
from src.ops.cpu import calls
from src.ops.cpu.linear_recurrence import linear_recurrence
from src.ops.linear_recurrence import Recurrence, Terms, chunked, scan
from src.tasks.base import Task
from src.tasks.mqar import MQAR
from src.tasks.stacked_recall import StackedRecall

RECURRENCES: dict[str, tuple[str, bool]] = {
    "linear_attention": ("none", False),
    "retnet": ("head", False),
    "gla": ("feature", False),
    "deltanet": ("none", True),
    "gated_deltanet": ("head", True),
    "kda": ("feature", True),
}
"""What has a decay of its own in each model (nothing, each head or each key feature), and whether the model erases."""

SHORTEST = 4
"""The smallest length for which `tasks_of` has tasks."""


def random_terms(decay: str, erases: bool, batch: int, time: int, size: int) -> Terms:
    """Random terms of one head that require gradients, with keys of unit length."""
    q, v = torch.randn(2, batch, time, 1, size)
    k = functional.normalize(torch.randn(batch, time, 1, size), dim=-1)
    log_decay = None if decay == "none" else -0.1 * torch.rand(batch, time, 1, 1 if decay == "head" else size)
    terms = Terms(q, k, v, log_decay, k.clone() if erases else None)
    return Terms(*(None if term is None else term.requires_grad_() for term in terms))  # type: ignore[arg-type]


def passes(form: Recurrence, terms: Terms) -> Callable[[], None]:
    """A function that computes the forward and the backward pass of a form."""
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
    """Milliseconds of both passes in each form, as medians over interleaved rounds, and ratios to the first form."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if chunk_size is None:
        chunk_size = int(OmegaConf.load(MODELS / f"{model}.yaml").chunk_size)
    forms: dict[str, Recurrence] = {"chunked": partial(chunked, chunk_size=chunk_size), "scan": scan}
    if calls.available(torch.empty(0)):
        forms = {"kernel": linear_recurrence, **forms}
    terms = random_terms(*RECURRENCES[model], batch, time, size)
    rounds_ms = interleaved({name: passes(form, terms) for name, form in forms.items()}, rounds, seconds)
    row = {"model": model, "batch_size": batch, "length": time, "size": size, "chunk_size": chunk_size}
    return row | in_ratios(rounds_ms)


def interleaved(runs: dict[str, Callable[[], None]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of processor time of each function, in every one of several interleaved rounds."""
    timers = {name: Timer("run()", timer=thread_time, globals={"run": run}) for name, run in runs.items()}
    for timer in timers.values():
        timer.timeit(1)
    rounds_ms: dict[str, list[float]] = {name: [] for name in timers}
    for _, (name, timer) in product(range(rounds), timers.items()):
        one = timer.blocked_autorange(min_run_time=seconds / rounds / len(timers))
        rounds_ms[name].append(1e3 * one.median)
    return rounds_ms


def in_ratios(rounds_ms: dict[str, list[float]]) -> dict[str, Any]:
    """Medians over the rounds, of the times and of their ratios to the times of the first function."""
    first = next(iter(rounds_ms.values()))
    return (
        {f"{name}_ms": median(values) for name, values in rounds_ms.items()}
        | {f"ratio_of_{name}": ratio_of(values, first) for name, values in rounds_ms.items()}
        | {"rounds_ms": rounds_ms}
    )


def tasks_of(length: int) -> dict[str, Task]:
    """Tasks with sequences of about this length and a head over 64 values, or over one per pair if these are more."""
    pairs, queries = length // 2, max(1, length // 7)
    most = max(64, pairs)
    return {
        "stacked_recall": StackedRecall(0, num_pairs=pairs, num_keys=most, num_values=most),
        "mqar": MQAR(0, num_pairs=queries, num_slots=(length - 2 * queries) // 2, num_keys=most, num_values=most),
    }


def update_of(model: str, task: Task, batch_size: int, size: int, kernel: str | None) -> Callable[[], None]:
    """An update of a network with a memory of size x size numbers and 64 outputs; no recurrence if `kernel` is None."""
    settings = OmegaConf.load(MODELS / f"{model}.yaml")
    sizes = {"hidden_size": 64, "num_heads": 1, "key_size": size, "value_size": size, "conv_size": 0}
    settings = OmegaConf.merge(settings, sizes, {"output_gate": False, "kernel": kernel or "auto"})
    torch.manual_seed(0)
    make_core = partial(instantiate, settings)
    network = SequenceModel(task.input_spec, task.output_spec, make_core, embedding_size=64)
    if kernel is None:
        core: Any = network.core
        core.recur = lambda _, terms, S_BHKV, resets_BT: (terms.value, S_BHKV)
    batches = (task.batch("train", index, batch_size) for index in count())
    return update_as_trained(network, lambda: task.loss(network, next(batches)).loss)


def measure_updates(
    model: str, batch: int, length: int, size: int, rounds: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """Milliseconds of whole updates on each task, in each form and, as "outside", without any recurrence."""
    torch.set_num_threads(1)
    kernels = {"kernel": "fused", "chunked": "vectorized", "scan": "reference", "outside": None}
    if not calls.available(torch.empty(0)):
        del kernels["kernel"]
    for name, task in tasks_of(length).items():
        updates = {form: update_of(model, task, batch, size, kernel) for form, kernel in kernels.items()}
        row = {"task": name, "model": model, "batch_size": batch, "length": length, "size": size}
        yield row | in_ratios(interleaved(updates, rounds, seconds))
