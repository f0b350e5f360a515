"""Schlag, Irie & Schmidhuber 2021: how many pairs fit into a given number of key features, and overwriting."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from src.papers.descendants import LABELS
from src.reports.style import FLOOR as FLOOR_LINE
from src.reports.style import RC, legend, panels, styles_of
from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, chosen_lr
from src.reproduction.effects import difference, mean

ELU, DPFP, OVERWRITING = "descendants-key-value-elu", "descendants-key-value-dpfp", "descendants-key-value-overwriting"
KEY_SIZE = 16
NUM_KEYS = (8, 16, 32, 64)
CELLS: dict[str, dict[str, Any]] = {"elu + 1": {"name": ELU}} | {
    f"DPFP-{order}": {"name": DPFP, "model__dpfp_order": order} for order in (1, 2)
}
FEATURES = {"elu + 1": KEY_SIZE} | {f"DPFP-{order}": 2 * KEY_SIZE * order for order in (1, 2)}
RULES = ("linear_attention", "deltanet")
SOURCE = "Schlag, Irie & Schmidhuber 2021, section 6.1"
METRIC = "test/squared_error"


def _losses(evidence: Evidence, cell: dict[str, Any], num_keys: int) -> np.ndarray:
    return evidence.values(METRIC, **cell, task__num_keys=num_keys)


def _fits(label: str, num_keys: int) -> Claim:
    def test(evidence: Evidence) -> Finding:
        losses = _losses(evidence, CELLS[label], num_keys)
        return Finding(f"{losses.mean():.3f}", [mean(losses, unit="squared error").within(most=0.05)])

    return Claim(
        f"{FEATURES[label]} features ({label}) hold {num_keys} pairs.",
        SOURCE,
        "½ ‖v - v̂‖² below 0.05, a tenth of that of the answer 0",
        test,
    )


def _too_many(label: str, num_keys: int) -> Claim:
    def test(evidence: Evidence) -> Finding:
        losses = _losses(evidence, CELLS[label], num_keys)
        return Finding(f"{losses.mean():.3f}", [mean(losses, unit="squared error").within(least=0.1)])

    return Claim(
        f"{FEATURES[label]} features ({label}) do not hold {num_keys} pairs.",
        SOURCE,
        "½ ‖v - v̂‖² above 0.1",
        test,
    )


def _corrects(num_keys: int) -> Claim:
    def test(evidence: Evidence) -> Finding:
        added, corrected = (_losses(evidence, {"name": OVERWRITING, "model": rule}, num_keys) for rule in RULES)
        measured = f"sum {added.mean():.3f}, delta rule {corrected.mean():.3f}"
        return Finding(measured, [difference(corrected, added, unit="squared error").within(most=-0.05)])

    return Claim(
        f"With {num_keys} keys that come again, the delta rule is better than a sum.",
        SOURCE,
        "½ ‖v - v̂‖² lower by more than 0.05",
        test,
    )


def table(evidence: Evidence) -> pd.DataFrame:
    """One row per feature map or rule: squared errors, a column per number of keys."""
    cells = {f"capacity, {label}": cell for label, cell in CELLS.items()} | {
        f"overwriting, {LABELS[rule]}, DPFP-1": {"name": OVERWRITING, "model": rule} for rule in RULES
    }
    rows = []
    for label, cell in cells.items():
        try:
            runs = evidence.select(**cell)
        except NotRunError:
            continue
        row = {"setting": label}
        for num_keys in NUM_KEYS:
            found = runs[runs["task.num_keys"] == num_keys]
            row[f"{num_keys} keys"] = f"{found[METRIC].mean():.3f} ± {found[METRIC].std():.3f}" if len(found) else "-"
        lrs = sorted({chosen_lr(found) for _, found in runs.groupby("task.num_keys")})
        state = f"{runs['state_size'].min():,}"
        rows.append(row | {"state": state, "lr": "; ".join(lrs), "n": str(runs["seed"].nunique())})
    return pd.DataFrame(rows)


def draw(evidence: Evidence) -> Figure:
    """Squared error against the number of keys per feature of the memory."""
    with rc_context(RC):
        figure, (axes,) = panels([""])
        for label, style in styles_of(dict.fromkeys(CELLS, "linear_attention")).items():
            found = {}
            for num_keys in NUM_KEYS:
                try:
                    found[num_keys / FEATURES[label]] = _losses(evidence, CELLS[label], num_keys).mean()
                except NotRunError:
                    continue
            if found:
                axes.plot([*found], [*found.values()], label=f"{label}, {FEATURES[label]} features", **style)
        axes.axhline(0.5, label="answers 0", **FLOOR_LINE)
        axes.axvline(1, **FLOOR_LINE)
        axes.set_xscale("log", base=2)
        ticks = [1 / 8, 1 / 4, 1 / 2, 1, 2, 4]
        axes.set_xticks(ticks, ["1/8", "1/4", "1/2", "1", "2", "4"])
        axes.set(xlabel="pairs for each feature", ylabel="½ ‖v - v̂‖²", ylim=(0, None))
        legend(figure, [axes])
    return figure


REPRODUCTION = Reproduction(
    title="Schlag et al. 2021 on a small scale: how many pairs a memory holds, and overwriting",
    experiments=("descendants/key_value/elu", "descendants/key_value/dpfp", "descendants/key_value/overwriting"),
    claims=(
        _fits("elu + 1", 16),
        _fits("DPFP-1", 32),
        _fits("DPFP-2", 64),
        _too_many("elu + 1", 32),
        _too_many("DPFP-1", 64),
        *map(_corrects, NUM_KEYS[:3]),
    ),
    table=table,
    figures={"features": draw},
    quick=("task.num_keys=8,32", "optimizer.lr=1e-2", "seed=0", "trainer.max_updates=1000"),
    replayed=({"name": ELU, "task.num_keys": 16, "seed": 0},),
    replayed_curve="val/squared_error",
    curves=("val/error", "val/squared_error"),
)
