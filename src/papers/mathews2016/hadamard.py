"""Learning the elementwise product of two vectors: the least error at every rank, and whether descent reaches it."""

from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from src.reports.style import FLOOR as FLOOR_LINE
from src.reports.style import RC, legend, panels, styles_of
from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction
from src.reproduction.effects import difference, mean

SIZE = 20
RANKS = (1, 3, 5, 7, 10, 15, 20)
FORMS = {"cp": "CP", "tensor_train": "tensor train"}
MAIN, MOMENTUM, ADAM = (f"mathews2016-hadamard{what}" for what in ("", "-momentum", "-adam"))
PRINTED = {"cp": {0.25: 0.141, 0.5: 0.0945, 0.75: 0.0476, 1.0: 2.8e-13}}
"""Training errors in the author's logs, by R/n: n = 100, momentum, 100,000 updates, mean of the last 100 records."""
NOISE = 5e-4
"""Tolerance for the finite test set of 50,000 pairs and the noise of descent with a constant learning rate."""


def floor(rank: int) -> float:
    """The least error of a CP of this rank, as computed by the task."""
    from src.tasks.hadamard_product import HadamardProduct

    return HadamardProduct(0, vector_size=SIZE).rank_floor(rank)


def num_parameters(form: str, rank: int) -> int:
    """The number of parameters of a map of 20 x 20 x 20 entries."""
    return 3 * SIZE * rank if form == "cp" else 2 * SIZE * rank + SIZE * rank**2


def _mse(evidence: Evidence, form: str, rank: int, name: str = MAIN) -> np.ndarray:
    settings: dict[str, Any] = {"name": name, "model__rank": rank}
    if name == MAIN:
        settings["model__form"] = form
    return evidence.values("test/mse", **settings)


def _reaches_zero(evidence: Evidence) -> Finding:
    values = _mse(evidence, "cp", SIZE)
    return Finding(
        f"largest of {len(values)}: {values.max():.1e}", [mean(values, f"R={SIZE}", "squared error").within(most=1e-6)]
    )


def _in_the_band(evidence: Evidence) -> Finding:
    measured, effects = [], []
    for rank in RANKS[:-1]:
        values, least = _mse(evidence, "cp", rank), floor(rank)
        measured.append(f"R={rank}: {values.mean():.4f} for {least:.4f} to {least + 1 / (16 * SIZE):.4f}")
        most = least + 1 / (16 * SIZE) + NOISE
        effects.append(mean(values, f"R={rank}", "squared error").within(least - NOISE, most))
    return Finding("; ".join(measured), effects)


def _cp_is_better_for_its_size(evidence: Evidence) -> Finding:
    measured, effects = [], []
    for rank, train_rank in ((5, 3), (10, 5), (20, 7)):
        cp, train = _mse(evidence, "cp", rank), _mse(evidence, "tensor_train", train_rank)
        sizes = num_parameters("cp", rank), num_parameters("tensor_train", train_rank)
        measured.append(f"CP, {sizes[0]} parameters: {cp.mean():.4f}; train, {sizes[1]}: {train.mean():.4f}")
        effects.append(difference(cp, train, f"R={rank} against {train_rank}", "squared error").within(most=0))
    return Finding("; ".join(measured), effects)


def _trains_have_the_same_line(evidence: Evidence) -> Finding:
    ranks = (5, 10, 15)
    pairs = {rank: (_mse(evidence, "cp", rank), _mse(evidence, "tensor_train", rank)) for rank in ranks}
    measured = "; ".join(f"R={rank}: {1e3 * (cp.mean() - train.mean()):.2f}e-3" for rank, (cp, train) in pairs.items())
    effects = [difference(*pair, f"R={rank}", "squared error").within(most=1e-3) for rank, pair in pairs.items()]
    return Finding(f"below CP by {measured}", effects)


def _momentum_matters(evidence: Evidence) -> Finding:
    measured, effects = [], []
    for rank in (15, 20):
        plain, momentum = _mse(evidence, "cp", rank, MOMENTUM), _mse(evidence, "cp", rank)
        measured.append(f"R={rank}: {plain.mean():.4f} without, {momentum.mean():.4f} with")
        effects.append(difference(plain, momentum, f"R={rank}", "squared error").within(least=NOISE))
    return Finding("; ".join(measured), effects)


def table(evidence: Evidence) -> pd.DataFrame:
    """Test error by form and rank next to the least error of the rank, and the author's at the same R/n."""
    rows = []
    columns = {"cp": {"ours": MAIN, "no momentum": MOMENTUM, "Adam": ADAM}, "tensor_train": {"ours": MAIN}}
    for form, label in FORMS.items():
        for rank in RANKS:
            row = {"form": label, "R": str(rank), "parameters": f"{num_parameters(form, rank):,}"}
            printed = PRINTED.get(form, {}).get(rank / SIZE)
            row |= {"least of CP": f"{floor(rank):.5f}", "author, n=100": "-" if printed is None else f"{printed:.3g}"}
            for column, name in columns[form].items():
                row[column] = "-"
                with suppress(NotRunError):
                    values = _mse(evidence, form, rank, name)
                    row[column] = f"{values.mean():.4f}" if values.mean() > 1e-4 else f"{values.mean():.1e}"
            rows.append(row)
    return pd.DataFrame(rows).fillna("-")


def draw(evidence: Evidence) -> Figure:
    """Test error against rank for both forms next to the line of least error, and their distance above it."""
    with rc_context(RC):
        figure, (error, above) = panels(["test error (mean square)", "above the least error of CP, × 10⁻³"])
        styles = styles_of(dict.fromkeys(FORMS.values(), "bilinear"))
        for form, label in FORMS.items():
            with suppress(NotRunError):
                runs = evidence.select(name=MAIN, model__form=form).groupby("model.rank")["test/mse"]
                mean, sd = runs.mean(), runs.std().fillna(0)
                error.plot(mean.index, mean, label=label, **styles[label])
                off = [1e3 * (value - floor(int(rank))) for rank, value in mean.items()]
                above.errorbar(mean.index, off, 1e3 * sd, label=label, capsize=2, **styles[label])
        error.plot(RANKS, [floor(rank) for rank in RANKS], label="least error of CP", **FLOOR_LINE)
        above.axhspan(0, 1e3 / (16 * SIZE), color="0.93", zorder=0, label="0 to 1/(16 n): where the best CP lies")
        for axes in (error, above):
            axes.set(xlabel="rank R", xticks=RANKS)
        legend(figure, [error, above])
    return figure


REPRODUCTION = Reproduction(
    title="Mathews 2016: the elementwise product of 20 bits learned in decomposed form, by rank and optimizer",
    experiments=("mathews2016/hadamard", "mathews2016/hadamard_momentum", "mathews2016/hadamard_adam"),
    only_in_full=("mathews2016/hadamard_adam",),
    claims=(
        Claim(
            "CP of full rank reaches the elementwise product.",
            "logs of the author: 2.8e-13 with n = R = 100",
            "mean test error below 1e-6",
            _reaches_zero,
        ),
        Claim(
            "Descent brings CP of a lower rank to the least error of its rank.",
            "logs of the author, within 1/(16 n) of (3/16) (1 - R/n)",
            f"test error between (3/16) (1 - R/n) and 1/(16 n) above it, ± {NOISE:g}, on average",
            _in_the_band,
        ),
        Claim(
            "At about the same number of parameters CP is better than a tensor train.",
            "logs of the author: CP 25 .141, train 8 .173; CP 100 0, train 16 .158",
            "CP minus train, mean test error: below 0 for three pairs of ranks",
            _cp_is_better_for_its_size,
        ),
        Claim(
            "Tensor trains whose ranks are R are hardly better than CP of rank R.",
            "not in the report",
            "mean test error at most 0.001 below that of CP for R = 5, 10, 15",
            _trains_have_the_same_line,
        ),
        Claim(
            "Without momentum the updates do not suffice.",
            "logs of the author: R=100 .047 without, 0 with",
            f"mean test error more than {NOISE:g} higher for R = 15 and 20",
            _momentum_matters,
        ),
    ),
    table=table,
    figures={"hadamard": draw},
    quick=("seed=0",),
    curves=("val/mse",),
    replayed=({"name": MAIN, "model.form": "cp", "model.rank": 10, "seed": 0},),
    replayed_curve="val/mse",
)
