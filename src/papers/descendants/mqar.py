"""Beyond the papers: multi-query associative recall at equal state size, with and without a short convolution."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.papers.descendants import BY_AGE, LABELS, is_above, is_below, is_better, rows_of
from src.reproduction.base import Claim, Evidence, Finding, Reproduction
from src.reproduction.effects import difference, mean

LINEAR, OTHERS = "descendants-mqar-linear", "descendants-mqar"
MODELS = ("linear_attention", "retnet", "mlstm", "deltanet", "gated_deltanet")
CELLS: dict[str, dict[str, Any]] = {
    f"{LABELS[model]}{'' if size else ', no convolution'}": {"name": LINEAR, "model": model, "model__conv_size": size}
    for model in MODELS
    for size in (2, 0)
} | {
    "fast weights (2016)": {"name": OTHERS, "model": "fastweights", "model__rule": "hebbian"},
    "fast weights, delta rule": {"name": OTHERS, "model": "fastweights", "model__rule": "delta"},
    "LSTM": {"name": OTHERS, "model": "lstm"},
}
POSITIONS = ("key", "value", "filler", "query")
GATED = "gated_deltanet"


def measure(folder: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Measure the mean write strength β and decay α of Gated DeltaNet on validation sequences, by kind of symbol."""
    import torch

    from src.running.load import load_run

    rows: list[dict[str, Any]] = []
    for _, row in runs[runs["model"] == GATED].iterrows():
        run = load_run(folder / row["run"])
        task: Any = run.task
        core: Any = run.model.core
        batch = next(iter(task.evaluation("val")))
        with torch.no_grad():
            z_beta, z_decay = run.model.project(batch.inputs).vectors.gates_G[..., None].chunk(2, dim=-2)
            log_alpha, _ = core.decay(z_decay)
            found = {"beta": core.max_beta * torch.sigmoid(z_beta), "alpha": log_alpha.exp()}
        steps_T = torch.arange(batch.inputs.shape[1])
        is_pair_T = steps_T < 2 * task.num_pairs
        kinds = {
            "key": (is_pair_T & (steps_T % 2 == 0)).expand_as(batch.mask),
            "value": (is_pair_T & (steps_T % 2 == 1)).expand_as(batch.mask),
            "query": batch.mask,
            "filler": ~is_pair_T & ~batch.mask,
        }
        for position, at in kinds.items():
            means = {name: float(values[at].mean()) for name, values in found.items()}
            rows.append({"run": row["run"], "model.conv_size": row["model.conv_size"], "position": position} | means)
    return pd.DataFrame(rows)


def _by_position(evidence: Evidence, name: str) -> dict[str, np.ndarray]:
    return {
        position: evidence.select_measured(model__conv_size=2, position=position)[name].to_numpy(float)
        for position in POSITIONS
    }


def _shown(found: dict[str, np.ndarray]) -> str:
    return "; ".join(f"{position} {values.mean():.2f}" for position, values in found.items())


def _writes_at(other: str, evidence: Evidence) -> Finding:
    found = _by_position(evidence, "beta")
    return Finding(f"β: {_shown(found)}", [difference(found["value"], found[other], unit="of β").within(least=0.2)])


def _keeps(evidence: Evidence) -> Finding:
    found = _by_position(evidence, "alpha")
    return Finding(f"α: {_shown(found)}", [mean(found["filler"]).within(least=0.95)])


def table(evidence: Evidence) -> pd.DataFrame:
    """One row per cell."""
    return pd.DataFrame(rows_of(evidence, CELLS, BY_AGE))


def _beats(ours: str, theirs: str) -> Claim:
    return is_better(
        f"At about equal state, more is recalled by {ours} than by {theirs.replace('LSTM', 'an LSTM')}.",
        "Arora et al. 2023",
        CELLS[ours],
        CELLS[theirs],
        0.05,
    )


REPRODUCTION = Reproduction(
    title="Descendants of fast weights: multi-query associative recall at equal state size",
    experiments=("descendants/mqar/linear", "descendants/mqar/nonlinear"),
    claims=(
        *(
            is_above(
                f"Without a convolution, one layer of {LABELS[model]} knows the values at best, not the binding.",
                "Arora et al. 2025: the convolution joins a key with the value that follows it",
                [CELLS[f"{LABELS[model]}, no convolution"]],
                0.8,
            )
            for model in MODELS
        ),
        is_below(
            "With one, DeltaNet and Gated DeltaNet recall 8 pairs.",
            "the same",
            [CELLS["DeltaNet"], CELLS["Gated DeltaNet"]],
            0.05,
        ),
        _beats("DeltaNet", "linear attention"),
        _beats("DeltaNet", "fast weights (2016)"),
        _beats("DeltaNet", "LSTM"),
        _beats("fast weights (2016)", "LSTM"),
        *(
            Claim(
                f"Gated DeltaNet writes at values, not at {plural}.",
                "not in the papers",
                "with a convolution: mean β at values more than 0.2 above",
                partial(_writes_at, position),
            )
            for position, plural in (("key", "keys"), ("filler", "fillers"))
        ),
        Claim("Gated DeltaNet keeps its memory at fillers.", "not in the papers", "mean α above 95 %", _keeps),
    ),
    table=table,
    measure=measure,
    quick=("optimizer.lr=1e-2", "seed=0", "trainer.max_updates=1000"),
    replayed=({"name": LINEAR, "model": "deltanet", "model.conv_size": 2, "seed": 0},),
)
