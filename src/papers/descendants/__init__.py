"""Fast weights and their descendants under equal conditions; this module has the helpers that the reports share."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from src.reproduction.base import Claim, Evidence, Finding, NotRunError, chosen_lr, mean_and_sd, sd
from src.reproduction.effects import difference, mean

LABELS = {
    "fastweights": "fast weights (2016)",
    "lstm": "LSTM",
    "linear_attention": "linear attention",
    "retnet": "retention",
    "mamba2": "Mamba-2",
    "gla": "GLA",
    "mlstm": "mLSTM",
    "deltanet": "DeltaNet",
    "gated_deltanet": "Gated DeltaNet",
    "kda": "KDA",
    "rwkv7": "RWKV-7",
    "deltaproduct": "DeltaProduct",
    "recurrent_deltanet": "recurrent DeltaNet",
    "srwm": "SRWM",
    "ttt_linear": "TTT-Linear",
    "titans": "Titans",
    "mesanet": "MesaNet",
    "fastweights_softmax": "fast weights, softmax",
    "attention": "attention",
}
"""Labels of cells by the name of their configuration file, in the order of tables."""


def label_of(model: str) -> str:
    """The name of a cell in tables and figures."""
    return LABELS.get(model, model)


def models_of(runs: pd.DataFrame) -> list[str]:
    """The cells that these runs belong to, in the order of tables."""
    order = [*LABELS]
    return sorted(runs["model"].unique(), key=lambda model: order.index(model) if model in order else len(order))


def percents(values: np.ndarray) -> str:
    """Mean and standard deviation of errors in %, without the percent sign: "1.2 ± 0.1"."""
    return mean_and_sd(values, ".1f", 100)


def errors_or_none(evidence: Evidence, metric: str = "test/error", **settings: Any) -> np.ndarray | None:
    """A metric of the runs with these settings; None if there are none."""
    with suppress(NotRunError):
        return evidence.values(metric, **settings)
    return None


Cell = Mapping[str, Any]
"""Settings that select the runs of a cell, as in `Evidence.select`; None stands for a setting that the cell lacks."""


BY_AGE = {"error": "test/error", "written first": "test/oldest_error", "written last": "test/newest_error"}
"""Recall errors by the name of their column: on all pairs, and on those that were written first and last."""


def row_of(runs: pd.DataFrame, metrics: Mapping[str, str]) -> dict[str, str]:
    """A row of a table: errors in % by the name of their column, sizes of state and weights, learning rate, seeds."""
    errors = {f"{name}, %": percents(runs[metric].to_numpy(float)) for name, metric in metrics.items()}
    sizes = {"state": f"{runs['state_size'].iloc[0]:,}", "weights": f"{runs['num_parameters'].iloc[0]:,}"}
    return errors | sizes | {"lr": chosen_lr(runs), "n": str(len(runs))}


def rows_of(evidence: Evidence, cells: Mapping[str, Cell], metrics: Mapping[str, str]) -> list[dict[str, str]]:
    """A row for each cell, under its label."""
    rows = []
    for label, cell in cells.items():
        try:
            runs = evidence.select(**cell)
        except NotRunError:
            rows.append({"cell": label} | {f"{name}, %": "not run" for name in metrics})
            continue
        rows.append({"cell": label} | row_of(runs, metrics))
    return rows


def is_better(
    statement: str, source: str, ours: Cell, theirs: Cell, points: float, metric: str = "test/error", where: str = ""
) -> Claim:
    """A claim that the mean error of `ours` is lower than that of `theirs` by more than `points`, as a fraction."""

    def test(evidence: Evidence) -> Finding:
        mine, others = evidence.values(metric, **ours), evidence.values(metric, **theirs)
        measured = f"{percents(mine)} % against {percents(others)} %"
        return Finding(measured, [difference(mine, others).within(most=-points)])

    return Claim(statement, source, f"{where}mean test error more than {100 * points:g} points lower", test)


def is_below(
    statement: str, source: str, cells: Iterable[Cell], most: float, metric: str = "test/error", where: str = ""
) -> Claim:
    """A claim that the mean error of each of these cells is below a bound."""
    test = _within(cells, metric, most=most)
    return Claim(statement, source, f"{where}mean test error below {100 * most:g} %", test)


def is_above(
    statement: str, source: str, cells: Iterable[Cell], least: float, metric: str = "test/error", where: str = ""
) -> Claim:
    """A claim that the mean error of each of these cells is above a bound."""
    test = _within(cells, metric, least=least)
    return Claim(statement, source, f"{where}mean test error above {100 * least:g} %", test)


def _within(cells: Iterable[Cell], metric: str, **bounds: float) -> Callable[[Evidence], Finding]:
    def test(evidence: Evidence) -> Finding:
        found = [evidence.values(metric, **cell) for cell in cells]
        effects = [mean(errors).within(**bounds) for errors in found]
        return Finding("; ".join(f"{percents(errors)} %" for errors in found), effects)

    return test


def draw_accuracies(axes: Axes, errors: Mapping[int, np.ndarray | None], **style: Any) -> None:
    """Plot mean and standard deviation of a cell's accuracy against a number; errors are None where nothing was run."""
    accuracies = {number: 1 - found for number, found in errors.items() if found is not None}
    if accuracies:
        spreads = [sd(values) for values in accuracies.values()]
        axes.errorbar([*accuracies], [values.mean() for values in accuracies.values()], spreads, capsize=2, **style)
