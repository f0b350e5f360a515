"""The parts that measure speed: one run, every model, populations, a sweep."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from src.benchmarks.gpu.compiled import UNITS
from src.benchmarks.gpu.rows import Rows
from src.benchmarks.gpu.updates import How, as_in_torch, as_trained, in_turns
from src.benchmarks.updates import MODELS, Sequences, Yardstick, ratio_of
from src.config.paths import PROJECT
from src.models.fastweights import FastWeights
from src.results.result import ENDED, read_result
from src.tasks.associative_retrieval import AssociativeRetrieval
from src.training.population import Stacked


def one_run(rows: Rows, device: str, tiny: bool) -> None:
    """Fast weights compared with `nn.LSTM`, both as CUDA graphs."""
    how = How.of(device, tiny)
    sizes = [(128, 11, 0.85), (1024, 11, 1.0), (8192, 11, 1.0), (128, 200, 3.0)]
    for batch_size, length, most in [(8, 5, 1.0)] if tiny else sizes:
        what = f"batch {batch_size}, T = {length}"
        with rows.trying(what):
            task, own = Sequences(length).to(how.device), how._replace(batch_size=batch_size)
            updates: dict[str, Callable[[], Any]] = {
                "fast weights": as_trained(task, partial(FastWeights, hidden_size=UNITS), own),
                "nn.LSTM": as_in_torch(task, partial(Yardstick, layer=nn.LSTM, hidden_size=UNITS), own),
            }
            ms = in_turns(updates, how.device, 0.02 if tiny else 2.0)
            fast, lstm = median(ms["fast weights"]), median(ms["nn.LSTM"])
            share = ratio_of(ms["fast weights"], ms["nn.LSTM"])
            found = f"{fast:.3f} ms, nn.LSTM {lstm:.3f} ms, ratio {share:.2f}"
            rows.target(f"fast weights, {UNITS} units, {what}", found, f"ratio at most {most}", share <= most)
            if (batch_size, length) == (128, 11):
                rate = 1000 / fast
                rows.target("the same, updates/s", f"{rate:,.0f}", "at least 4,500", rate >= 4500)


def every_model(rows: Rows, device: str, tiny: bool) -> None:
    """Every model as a CUDA graph in its fastest form, compared with the same model run eagerly in plain PyTorch."""
    how = How.of(device, tiny)
    files = sorted(MODELS.glob("*.yaml"))
    for file in files[:1] if tiny else files:
        with rows.trying(file.stem):
            make = partial(instantiate, OmegaConf.load(file), hidden_size=8 if tiny else UNITS)
            task = Sequences(11).to(how.device)
            updates = {
                "graph": as_trained(task, make, how),
                "eager": as_trained(task, partial(make, kernel="vectorized"), how._replace(graphs=False)),
            }
            ms = in_turns(updates, how.device, 0.02 if tiny else 1.0, rounds=3)
            times = ratio_of(ms["eager"], ms["graph"])
            found = f"{median(ms['graph']):.3f} ms, eager {median(ms['eager']):.2f} ms, {times:.1f} times as fast"
            rows.target(file.stem, found, "5 times as fast", times >= 5)


def populations(rows: Rows, device: str, tiny: bool) -> None:
    """Runs of fast weights, trained as one program."""
    how = How.of(device, tiny)
    for number, least in [(3, 0)] if tiny else [(20, 35_000), (256, 60_000)]:
        with rows.trying(f"{number} runs"):
            tasks = [AssociativeRetrieval(seed, train_size=20_000).to(how.device) for seed in range(min(number, 32))]
            make = partial(FastWeights, hidden_size=8 if tiny else UNITS)
            updates = [
                as_trained(tasks[run % len(tasks)], make, how, seed=run, lr=1e-3 / (1 + run % 4))
                for run in range(number)
            ]
            ms = median(in_turns({"all": Stacked(updates)}, how.device, 0.02 if tiny else 4.0)["all"])
            rate = 1000 * number / ms
            found = f"{rate:,.0f} updates/s in total, {ms:.2f} ms for one update of each run"
            rows.target(f"{number} runs as one program", found, f"at least {least:,}", rate >= least)


def sweep(rows: Rows, device: str, tiny: bool) -> None:
    """A sweep of fast weights by the ordinary command, with a fifth of the updates.

    It has three widths, four learning rates and five seeds.
    """
    how = How.of(device, tiny)
    updates, wanted = (20, 2) if tiny else (10_000, 60)
    settings = ["model.hidden_size=20,50,100", "optimizer.lr=1e-4,3e-4,1e-3,3e-3", "seed=0,1,2,3,4"]
    if tiny:
        settings = ["model.hidden_size=8", "seed=0,1", "task.train_size=64", "task.val_size=64", "task.test_size=64"]
    with tempfile.TemporaryDirectory() as root:
        command = [
            sys.executable,
            "-m",
            "src.train",
            "-m",
            "name=sweep",
            f"run.root={root}",
            f"device={how.device.type}",
        ]
        started = time.perf_counter()
        ended = subprocess.run(
            [*command, f"trainer.max_updates={updates}", *settings],
            cwd=PROJECT,
            env=os.environ | {"COLUMNS": "150"},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - started
        print(ended.stdout[-6000:], ended.stderr[-3000:], flush=True)
        results = [read_result(path.parent) for path in Path(root).glob("sweep/*/result.json")]
    done = sum(result is not None and result["status"] in ENDED for result in results)
    found = f"{done} of {wanted} runs, exit status {ended.returncode}"
    rows.right("a sweep of fast weights", found, f"{wanted} runs", done == wanted and ended.returncode == 0)
    found = f"{seconds:.0f} s for {updates:,} updates each, including startup and the table"
    rows.target("the same with 50,000 updates each", found, "at most 36 s, a fifth of 3 minutes", seconds <= 36)
