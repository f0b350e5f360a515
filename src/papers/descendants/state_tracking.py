"""Beyond the papers: which recurrences track parity and S3 beyond the length of training."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from src.papers.descendants import percents, row_of
from src.reports.style import FLOOR as FLOOR_LINE
from src.reports.style import RC, legend, panels, styles_of
from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction
from src.reproduction.effects import mean

LENGTHS = (20, 40, 80, 160)
CHANCE = {"parity": 1 / 2, "S3": 5 / 6}
CELLS: dict[str, dict[str, Any]] = {
    "LSTM": {"model": "lstm"},
    "fast weights (2016)": {"model": "fastweights"},
    "recurrent DeltaNet": {"model": "recurrent_deltanet"},
    "DeltaNet, β ≤ 1": {"model": "deltanet", "model__max_beta": 1},
    "DeltaNet, β ≤ 2": {"model": "deltanet", "model__max_beta": 2},
    "DeltaProduct, 2 factors": {"model": "deltaproduct"},
}


def _errors(evidence: Evidence, cell: str, group: str, length: int) -> np.ndarray:
    return evidence.values(f"test/error_at_{length}", task__group=group, **CELLS[cell])


def _solves(cell: str, group: str, why: str, length: int = LENGTHS[0]) -> Claim:
    def test(evidence: Evidence) -> Finding:
        by_length = {t: _errors(evidence, cell, group, t) for t in LENGTHS}
        measured = "; ".join(f"{t} steps: {percents(errors)} %" for t, errors in by_length.items())
        return Finding(measured, [mean(by_length[length], f"{length} steps").within(most=0.05)])

    return Claim(
        f"{cell[:1].upper()}{cell[1:]}: {group} is tracked over {length} steps.",
        why,
        f"trained on 20 steps: mean error after {length} steps below 5 %",
        test,
    )


def _fails(cell: str, group: str, why: str, least: float) -> Claim:
    def test(evidence: Evidence) -> Finding:
        by_length = {t: _errors(evidence, cell, group, t) for t in LENGTHS}
        measured = "; ".join(f"{t} steps: {percents(errors)} %" for t, errors in by_length.items())
        return Finding(measured, [mean(by_length[40], "40 steps").within(least=least)])

    return Claim(
        f"{cell}: {group} is not tracked.",
        why,
        f"trained on 20 steps: mean error after 40 steps above {100 * least:g} % (chance {100 * CHANCE[group]:.0f} %)",
        test,
    )


def table(evidence: Evidence) -> pd.DataFrame:
    """One row per cell and group: errors by length."""
    rows: list[dict[str, Any]] = []
    for group in CHANCE:
        for cell, settings in CELLS.items():
            row = {"group": group, "cell": cell}
            try:
                runs = evidence.select(task__group=group, **settings)
            except NotRunError:
                continue
            rows.append(row | row_of(runs, {f"{t} steps": f"test/error_at_{t}" for t in LENGTHS}))
    return pd.DataFrame(rows)


def draw(evidence: Evidence) -> Figure:
    """Accuracy by length, a panel for each group."""
    with rc_context(RC):
        figure, all_axes = panels([*CHANCE], sharey=True)
        styles = styles_of({cell: settings["model"] for cell, settings in CELLS.items()})
        for axes, (group, chance) in zip(all_axes, CHANCE.items(), strict=True):
            for cell, style in styles.items():
                try:
                    accuracies = np.stack([1 - _errors(evidence, cell, group, t) for t in LENGTHS])
                except NotRunError:
                    continue
                spread = accuracies.std(1, ddof=1) if accuracies.shape[1] > 1 else None
                axes.errorbar(LENGTHS, accuracies.mean(1), spread, label=cell, capsize=2, **style)
            axes.axhline(1 - chance, label="chance", **FLOOR_LINE)
            axes.set_xscale("log", base=2)
            axes.set_xticks(LENGTHS, [str(t) for t in LENGTHS])
            axes.set(xlabel="steps (trained on 20)", ylim=(0, 1.03))
        all_axes[0].set_ylabel("accuracy at this step")
        legend(figure, all_axes)
    return figure


REPRODUCTION = Reproduction(
    title="Descendants of fast weights: which recurrences track a state",
    experiments=(
        "descendants/state_tracking",
        "descendants/state_tracking_linear",
        "descendants/state_tracking_product",
    ),
    claims=(
        _fails("DeltaNet, β ≤ 1", "parity", "Grazzi et al. 2024: it takes a negative eigenvalue", 0.4),
        _solves("DeltaNet, β ≤ 2", "parity", "Grazzi et al. 2024: a reflection is a change of sign"),
        _solves("LSTM", "parity", "its recurrence is nonlinear", 160),
        _solves("fast weights (2016)", "parity", "not in the paper: its recurrence is nonlinear"),
        _fails("DeltaNet, β ≤ 2", "S3", "Siems et al. 2025: one reflection in a step", 0.1),
        _solves("LSTM", "S3", "its recurrence is nonlinear", 160),
        _solves("fast weights (2016)", "S3", "not in the paper: its recurrence is nonlinear"),
        _solves("DeltaProduct, 2 factors", "S3", "Siems et al. 2025: two reflections are a rotation"),
        _solves("recurrent DeltaNet", "S3", "Irie et al. 2021, 2023: its recurrence is nonlinear"),
    ),
    table=table,
    figures={"lengths": draw},
    quick=("optimizer.lr=1e-2", "seed=0", "trainer.max_updates=800"),
    replayed=({"model": "fastweights", "task.group": "parity", "seed": 0},),
)
