"""Continuous variable binding of one to three patterns."""

from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd

from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, chosen_lr, mean_and_sd
from src.reproduction.effects import difference, mean

NAME = "mathews2016-binding"
MODELS = {
    "cp_gate": "CP gate",
    "tgu": "TGU",
    "gru": "GRU",
    "lstm": "LSTM",
    "irnn": "IRNN",
    "fastweights": "Fast weights",
}
ITEMS = (1, 2, 3)
WHEN = "knows when, not what"


def floor(num_items: int, description: str = WHEN) -> float:
    """A floor of the task, in nats per sequence."""
    from src.tasks.variable_binding import VariableBinding

    return VariableBinding(0, variant="continuous", num_items=num_items).floors[description]["nats"]


def _nats(evidence: Evidence, model: str, num_items: int) -> np.ndarray:
    settings: dict[str, Any] = {"name": NAME, "model": model, "task__num_items": num_items}
    return evidence.values("test/nats", **settings)


def _remembers(num_items: int) -> Claim:
    def test(evidence: Evidence) -> Finding:
        values = _nats(evidence, "cp_gate", num_items)
        measured = f"{mean_and_sd(values)} ({floor(num_items):.2f})"
        return Finding(measured, [mean(values, "", "nats").within(most=floor(num_items))])

    patterns = "one pattern" if num_items == 1 else f"{num_items} patterns"
    return Claim(
        f"A CP gate with ten units for each pattern remembers {patterns}, not only when it is asked for one.",
        "the task of the final experiments; no result is printed",
        "mean nats per test sequence below the floor of knowing when (in brackets)",
        test,
    )


def _binds_better(num_items: int) -> Claim:
    def test(evidence: Evidence) -> Finding:
        ours, others = _nats(evidence, "cp_gate", num_items), _nats(evidence, "gru", num_items)
        effect = difference(ours, others, "", "nats").within(most=0)
        return Finding(f"{mean_and_sd(ours)} against {mean_and_sd(others)}", [effect])

    return Claim(
        f"A CP gate remembers better than a GRU of the same width: K = {num_items}.",
        "the purpose of the architecture; no result is printed",
        "difference of mean nats per test sequence below 0",
        test,
    )


def table(evidence: Evidence) -> pd.DataFrame:
    """Nats per test sequence and errors of the recalled bits, with the floors."""
    rows = []
    for num_items in ITEMS:
        for description in ("the same answer at every step", WHEN):
            rows.append({"K": str(num_items), "model": description, "nats": f"{floor(num_items, description):.2f}"})
        for model, label in MODELS.items():
            with suppress(NotRunError):
                runs = evidence.select(name=NAME, model=model, task__num_items=num_items)
                row = {"K": str(num_items), "model": label, "nats": mean_and_sd(runs["test/nats"].to_numpy(float))}
                row["recall error, %"] = mean_and_sd(100 * runs["test/error"].to_numpy(float))
                row |= {"n": str(len(runs)), "lr": chosen_lr(runs)}
                rows.append(row | {"parameters": f"{runs['num_parameters'].iloc[0]:,}"})
    return pd.DataFrame(rows).fillna("-")


REPRODUCTION = Reproduction(
    title="Mathews 2016: continuous variable binding of 1 to 3 patterns of 8 bits with 10 units for each",
    experiments=("mathews2016/binding",),
    claims=(*map(_remembers, ITEMS), *map(_binds_better, ITEMS)),
    table=table,
    quick=(
        "model=mathews2016/binding/cp_gate,mathews2016/binding/tgu,gru",
        "seed=0",
        "optimizer.lr=1e-2",
        "trainer.max_updates=3000",
    ),
    curves=("val/nats", "val/error", "val/nll"),
    replayed=({"model": "cp_gate", "task.num_items": 1, "seed": 0},),
    replayed_curve="val/nll",
)
