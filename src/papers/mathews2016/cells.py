"""Beyond the report: every cell on every synthetic task, at equal size, and which of the tasks a memory helps with."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from src.reports.style import RC
from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, marked
from src.reproduction.effects import difference

TASKS = {
    "associative_retrieval": "associative retrieval",
    "variable_binding": "variable binding",
    "copying": "copying",
    "addition": "addition",
    "template": "template",
    "hadamard_product": "elementwise product",
    "random_tensor": "random tensor",
    "sequence_teacher": "sequence teacher",
}
OURS = "fastweights"
COMPARED = {"rnn": "RNN", "irnn": "IRNN", "lstm": "LSTM", "gru": "GRU", "cp_gate": "CP gate"}
"""The networks that fast weights are compared with, over several seeds."""
BRIGHTEST, DARKEST = 1e-3, 2.0
"""Ends of the color scale, as shares of the floor."""


def measure(folder: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Measure the error of each run as a share of that of the best predictor of limited knowledge.

    Columns: `task`; `share`, the metric by which the weights were selected, on the test set, divided by its value for
    the last floor of the task that has it.
    """
    from src.results.runs import read_run

    rows = []
    for _, row in runs.iterrows():
        run = read_run(folder, row["run"])
        metric = run.objective.metric
        floor = [values[metric] for values in run.floors.values() if metric in values][-1]
        found = {"task": run.settings["task"], "share": run.metrics[f"test/{metric}"] / floor}
        rows.append({"run": run.name, "model": row["model"], "seed": row["seed"], "status": run.status} | found)
    return pd.DataFrame(rows)


def _share(evidence: Evidence, task: str, model: str) -> np.ndarray:
    return evidence.select_measured(task=task, model=model)["share"].to_numpy(float)


def _diverged(evidence: Evidence, task: str, model: str) -> bool:
    return bool((evidence.select_measured(task=task, model=model)["status"] == "diverged").all())


def _a_memory_helps(task: str) -> Claim:
    def test(evidence: Evidence) -> Finding:
        ours = _share(evidence, task, OURS)
        theirs = {label: _share(evidence, task, model) for model, label in COMPARED.items()}
        best = min(theirs, key=lambda label: theirs[label].mean())
        measured = f"fast weights {_percent(ours)}; the best other, {best}, {_percent(theirs[best])}"
        return Finding(
            measured, [difference(ours, values, f"to {label}").within(most=0) for label, values in theirs.items()]
        )

    return Claim(
        f"{TASKS[task].capitalize()}: the associative memory of 2016 helps.",
        "not in the report",
        f"lower mean error than each of {', '.join(COMPARED.values())} of equal size, in % of the floor",
        test,
    )


def _percent(shares: np.ndarray) -> str:
    spread = f" ± {_short(100 * shares.std(ddof=1))}" if len(shares) > 1 else ""
    return f"{_short(100 * shares.mean())}{spread} %"


def _short(percent: float) -> str:
    if 0 < percent < 0.005:
        return "<0.01"
    return f"{percent:.0f}" if percent >= 9.95 else f"{percent:.1f}" if percent >= 0.95 else f"{percent:.1g}"


def _models(evidence: Evidence) -> list[str]:
    """All cells, ordered by the geometric mean of their errors over the tasks, the least first."""
    if evidence.measured.empty:
        return []
    shares = evidence.measured.groupby(["model", "task"])["share"].mean().clip(BRIGHTEST, DARKEST)
    return [str(model) for model in np.log(shares).groupby("model").mean().sort_values(kind="stable").index]


def table(evidence: Evidence) -> pd.DataFrame:
    """Test error in % of the floor, by cell and task."""
    rows = []
    for model in _models(evidence):
        sizes = evidence.select(model=model)["num_parameters"]
        row = {"model": f"`{model}`", "weights": f"{sizes.min():,.0f} to {sizes.max():,.0f}"}
        for task, label in TASKS.items():
            row[label] = "-"
            with suppress(NotRunError):
                shares = _share(evidence, task, model)
                text = "diverged" if _diverged(evidence, task, model) else _percent(shares).removesuffix(" %")
                measured = evidence.select_measured(task=task, model=model)["run"]
                number = f", n={len(shares)}" * (len(shares) > 1)
                remarks = number + marked(evidence.runs[evidence.runs["run"].isin(measured)])
                row[label] = f"{text} ({remarks.removeprefix(', ')})" if remarks else text
        rows.append(row)
    return pd.DataFrame(rows)


def draw(evidence: Evidence) -> Figure:
    """The table as a chart: a row for each cell, a column for each task, darker where more of the error is left."""
    models = _models(evidence)
    with rc_context(RC | {"axes.grid": False}):
        figure = Figure(figsize=(6.9, 1.3 + 0.235 * max(len(models), 1)), layout="constrained")
        axes = figure.subplots()
        shares = np.full((max(len(models), 1), len(TASKS)), np.nan)
        for i, model in enumerate(models):
            for k, task in enumerate(TASKS):
                with suppress(NotRunError):
                    diverged = _diverged(evidence, task, model)
                    shares[i, k] = np.inf if diverged else _share(evidence, task, model).mean()
                    text = "div." if diverged else _short(100 * shares[i, k])
                    color = "white" if shares[i, k] > 0.06 else "black"
                    axes.text(k, i, text, ha="center", va="center", fontsize=7.5, color=color)
        image = axes.imshow(
            np.clip(shares, BRIGHTEST, DARKEST), cmap="cividis_r", norm=LogNorm(BRIGHTEST, DARKEST), aspect="auto"
        )
        axes.set_xticks(range(len(TASKS)), [label.replace(" ", "\n", 1) for label in TASKS.values()], fontsize=7.5)
        axes.set_yticks(range(len(models)), models, fontsize=8)
        axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axes, shrink=0.6, label="test error, % of the floor")
        bar.set_ticks([1e-3, 1e-2, 1e-1, 1], labels=["0.1", "1", "10", "100"])
        bar.minorticks_off()
    return figure


REPRODUCTION = Reproduction(
    title="Mathews 2016, beyond the report: every cell with about 3,000 weights on eight synthetic tasks",
    experiments=tuple(f"mathews2016/cells/{task}" for task in TASKS),
    claims=tuple(_a_memory_helps(task) for task in TASKS),
    table=table,
    measure=measure,
    measure_needs_weights=False,
    figures={"cells": draw},
    quick=(f"model={OURS},lstm,cp_gate", "optimizer.lr=1e-2", "seed=0", "trainer.max_updates=500"),
    curves=("val/error", "val/mse", "val/nll"),
    replayed=({"name": "mathews2016-cells-addition", "model": "cp_gate", "seed": 0},),
    replayed_curve="val/mse",
)
