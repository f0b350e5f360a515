"""Beyond the report: does the rank of a network regularize it, and how does that compare with dropout?"""

import itertools
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from src.reports.style import FLOOR, RC, legend, panels, styles_of
from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, chosen_lr, mean_and_sd, sd
from src.reproduction.effects import difference

RANKS = (1, 8, 16, 32, 64)
PREFIX = "mathews2016-rank-on-music"
WIDTH, BUDGET, REGULARIZED = "32 units", "20,000 weights", f"{PREFIX}-regularized"
CELLS = {
    ("cp_gate", False): "CP gate, separate",
    ("cp_gate", True): "CP gate, combined",
    ("tgu", False): "TGU",
    ("tt_rnn", False): "tensor train",
}
"""Labels of cells, by model and whether its linear terms are in the tensor."""
BASELINES = {"gru": "GRU", "lstm": "LSTM", "rnn": "tanh RNN", "fastweights": "Fast weights", "cp_gate": "CP gate, R=20"}
SOURCE = 'the chapter says only "mostly testing rank as regulariser"'
OF_REGULARIZERS = {"network.input_dropout": "dropout", "optimizer.weight_decay": "weight decay"}
DROPOUT, DECAY = (0.0, 0.2, 0.4), (0.0, 0.1)
NEAR_FLOOR = 10.5
"""Nats per frame of a network that has learned little more than how often each key sounds."""
MEASURED = ("test, nats per frame", "validation - training, nats")
"""The quantities that are drawn, in the order of `_values`."""


def measure(folder: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Measure `train`, the nats per frame of the selected weights on as many training pieces as validation pieces."""
    from src.running.load import evaluate_on, load_run

    rows = []
    for _, row in runs.iterrows():
        run = load_run(folder / row["run"])
        rows.append({"run": row["run"], "train": evaluate_on(run.model, run.task, "train")["nll"]})
    return pd.DataFrame(rows)


def _name(held: str, combined: bool) -> str:
    return PREFIX + "-budget" * (held == BUDGET) + "-combined" * combined


def _values(evidence: Evidence, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
    """Nats per frame of the test set, and how much better the training set is predicted than the validation set."""
    runs = evidence.select(**settings)
    if evidence.measured.empty:
        raise NotRunError("the trained networks have not been measured")
    together = runs.merge(evidence.measured[["run", "train"]], on="run")
    if together.empty:
        raise NotRunError("these networks have not been measured")
    return runs["test/nll"].to_numpy(float), (together["val/nll"] - together["train"]).to_numpy(float)


def _of_rank(evidence: Evidence, held: str, model: str, combined: bool, rank: int) -> tuple[np.ndarray, np.ndarray]:
    return _values(evidence, name=_name(held, combined), model=model, model__rank=rank)


def _best_dropout(evidence: Evidence) -> tuple[np.ndarray, str, bool]:
    """The test loss of a CP gate at the dropout above 0 and the weight decay with the best mean validation loss.

    It is followed by their names and values, and by whether one of them is the largest that was tried, or the least and
    above 0.
    """
    of_all = evidence.select(name=REGULARIZED, model="cp_gate")
    keys = [key for key in OF_REGULARIZERS if key in of_all]
    if not keys:
        raise NotRunError("the CP gate has one regularizer only")
    runs = of_all[of_all["network.input_dropout"] > 0] if "network.input_dropout" in keys else of_all
    found = []
    for values, of_cell in runs.groupby(keys):
        tried = [(value, of_all[key]) for key, value in zip(keys, values, strict=True)]
        edge = any(value == those.max() or 0 < value == those.min() for value, those in tried)
        spelled = ", ".join(f"{OF_REGULARIZERS[key]} {value:g}" for key, value in zip(keys, values, strict=True))
        found.append((of_cell["val/nll"].mean(), of_cell["test/nll"].to_numpy(float), spelled, edge))
    return min(found, key=lambda one: one[0])[1:]


def _gap_grows(model: str, combined: bool) -> Claim:
    def test(evidence: Evidence) -> Finding:
        low, high = (_of_rank(evidence, WIDTH, model, combined, rank) for rank in (1, 64))
        measured = f"R=1: {low[1].mean():.2f}; R=64: {high[1].mean():.2f}"
        if count := (np.concatenate([low[0], high[0]]) > NEAR_FLOOR).sum():
            return Finding(f"{measured}; {count} of {len(low[0]) + len(high[0])} networks learned little", [])
        return Finding(measured, [difference(high[1], low[1], unit="nats").within(least=0)])

    return Claim(
        f"{CELLS[model, combined]}: the higher the rank, the more a network of fixed width overfits.",
        SOURCE,
        "32 units: the gap between training and validation likelihood is larger for R=64 than for R=1; not decided if "
        f"a network has more than {NEAR_FLOOR:g} nats on the test set, near the floor",
        test,
    )


def _low_rank_generalizes(model: str, combined: bool) -> Claim:
    def test(evidence: Evidence) -> Finding:
        low, high = (_of_rank(evidence, WIDTH, model, combined, rank)[0] for rank in (8, 64))
        effect = difference(low, high, unit="nats").within(most=0)
        return Finding(f"R=8: {low.mean():.2f}; R=64: {high.mean():.2f}", [effect])

    return Claim(
        f"{CELLS[model, combined]}: a low rank generalizes better than one of twice the width.",
        SOURCE,
        "32 units: mean test negative log-likelihood lower for R=8 than for R=64",
        test,
    )


def _dropout_is_worth_more(evidence: Evidence) -> Finding:
    dropped, label, edge = _best_dropout(evidence)
    by_rank = []
    for rank in RANKS:
        with suppress(NotRunError):
            by_rank.append(evidence.select(name=_name(WIDTH, False), model="cp_gate", model__rank=rank))
    if not by_rank:
        raise NotRunError("no run of a CP gate without dropout")
    best = min(by_rank, key=lambda runs: runs["val/nll"].mean())
    chosen, rank = best["test/nll"].to_numpy(float), best["model.rank"].iloc[0]
    measured = f"{label}, R=20: {dropped.mean():.2f}; without, R={rank:g}: {chosen.mean():.2f}"
    effect = difference(dropped, chosen, unit="nats").within(most=0)
    return Finding(measured, [effect], edge or rank == RANKS[-1])  # there is no rank below 1


def _row(evidence: Evidence, row: dict[str, str], settings: dict[str, Any]) -> Iterator[dict[str, str]]:
    with suppress(NotRunError):
        runs = evidence.select(**settings)
        test = runs["test/nll"].to_numpy(float)
        row |= {"units": f"{runs['model.hidden_size'].iloc[0]:g}", "weights": f"{runs['num_parameters'].iloc[0]:,.0f}"}
        row |= {"val": f"{runs['val/nll'].mean():.2f}", "test": mean_and_sd(test), "n": str(len(test))}
        row |= {"lr": chosen_lr(runs), "val - train": "-"}
        with suppress(NotRunError):
            row["val - train"] = f"{_values(evidence, **settings)[1].mean():.2f}"
        yield row


def table(evidence: Evidence) -> pd.DataFrame:
    """Nats per frame by cell and rank, at a fixed width and a fixed number of weights, and with other regularizers."""
    rows: list[dict[str, str]] = []
    for held in (WIDTH, BUDGET):
        for (model, combined), label in CELLS.items():
            for rank in RANKS:
                row = {"fixed": held, "model": label, "R": str(rank), "dropout": "-", "weight decay": "-"}
                settings = {"name": _name(held, combined), "model": model, "model__rank": rank}
                rows.extend(_row(evidence, row, settings))
    for model, label in BASELINES.items():
        for dropout in DROPOUT:
            for decay in DECAY:
                row = {
                    "fixed": WIDTH,
                    "model": label,
                    "R": "-",
                    "dropout": f"{dropout:g}",
                    "weight decay": f"{decay:g}",
                }
                settings = {"name": REGULARIZED, "model": model}
                for key, value in zip(OF_REGULARIZERS, (dropout, decay), strict=True):
                    if key in evidence.runs:  # only where it varies
                        settings[key.replace(".", "__")] = value
                if "optimizer.weight_decay" in evidence.runs or decay == 0:
                    rows.extend(_row(evidence, row, settings))
    return pd.DataFrame(rows, columns=None if rows else ["fixed", "model", "R"])


def draw(evidence: Evidence) -> Figure:
    """Test likelihood and the gap between training and validation against the rank."""
    names = set(evidence.runs.get("name", ()))
    shown = [held for held in (WIDTH, BUDGET) if {_name(held, False), _name(held, True)} & names] or [WIDTH]
    styles = styles_of({label: model for (model, _), label in CELLS.items()})
    with rc_context(RC):
        drawn = list(itertools.product(range(len(MEASURED)), shown))
        figure, all_axes = panels([held for _, held in drawn], sharex=True, sharey="row" if len(shown) > 1 else False)
        for axes, (measure_number, held) in zip(all_axes, drawn, strict=True):
            for (model, combined), label in CELLS.items():
                points = []
                for rank in RANKS:
                    with suppress(NotRunError):
                        values = _of_rank(evidence, held, model, combined, rank)[measure_number]
                        points.append((rank, values.mean(), sd(values)))
                if points:
                    ranks, means, spreads = zip(*points, strict=True)
                    axes.errorbar(ranks, means, spreads, label=label, capsize=2, **styles[label])
            if held == WIDTH and measure_number == 0:
                with suppress(NotRunError):
                    dropped, regularized, _ = _best_dropout(evidence)
                    axes.axhline(dropped.mean(), label=f"{BASELINES['cp_gate']}, {regularized}", **FLOOR)
            axes.set(
                xscale="log", xticks=RANKS, xticklabels=[str(rank) for rank in RANKS], ylabel=MEASURED[measure_number]
            )
            axes.minorticks_off()
        for axes in all_axes[-len(shown) :] if len(shown) > 1 else all_axes:
            axes.set_xlabel("rank")
        legend(figure, all_axes)
    return figure


REPRODUCTION = Reproduction(
    title="Mathews 2016, beyond the report: does the rank regularize? Chorales of Bach, nats per frame",
    experiments=(
        "mathews2016/rank_on_music",
        "mathews2016/rank_on_music_combined",
        "mathews2016/rank_on_music_regularized",
        "mathews2016/rank_on_music_budget",
        "mathews2016/rank_on_music_budget_combined",
    ),
    only_in_full=("mathews2016/rank_on_music_budget", "mathews2016/rank_on_music_budget_combined"),
    claims=(
        *(claim(*cell) for claim in (_gap_grows, _low_rank_generalizes) for cell in CELLS),
        Claim(
            "Dropout is worth more than the choice of the rank.",
            "not in the report",
            "CP gate with 32 units: mean test negative log-likelihood with the dropout and weight decay chosen on the "
            "validation set, after 150 epochs, lower than with the rank chosen on it, after 50",
            _dropout_is_worth_more,
        ),
    ),
    table=table,
    measure=measure,
    figures={"rank": draw},
    quick=("seed=0", "optimizer.lr=1e-2", "trainer.max_updates=435"),
    curves=("val/nll",),
)
