"""Figure 2: learning curves with 50 units."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from src.papers.ba2016.table1 import FLOOR, MODELS, QUICK, errors
from src.reports.style import FLOOR as FLOOR_LINE
from src.reports.style import RC, legend, panels, style_of
from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, mean_and_sd, percent, thousands
from src.reproduction.effects import difference, duration, mean, ratio

PRINTED = pd.read_csv(Path(__file__).with_name("figure2.csv"), index_col="update")
"""Test negative log-likelihood, read from the vector paths of the paper's figure."""
FLOORS = {"linear in the digit counts": 1.426, "uniform over the digits seen": 1.217, "knows the digits": 1.187}
"""Negative log-likelihoods that can be reached without binding; see `src.tasks.associative_retrieval`."""
LEFT = 1.1
"""A negative log-likelihood below all of these floors."""


def _leaving(evidence: Evidence, model: str) -> np.ndarray:
    return evidence.updates_until("val/error", 0.9 * FLOOR, model=model, model__hidden_size=50)


def _lstm_leaves_late(evidence: Evidence) -> Finding:
    left = _leaving(evidence, "lstm")
    return Finding(thousands(left), [duration(left, _length(evidence)).within(least=20_000)])


def _alstm_leaves_later_and_ends_lower(evidence: Evidence) -> Finding:
    left = {model: _leaving(evidence, model) for model in ("lstm", "alstm")}
    ends = {model: errors(evidence, model, 50) for model in left}
    measured = "; ".join(f"{MODELS[m]}: leaves at {thousands(left[m])}, ends at {percent(ends[m])}" for m in left)
    later = ratio(left["alstm"], left["lstm"], _length(evidence), "updates").within(least=1)
    return Finding(measured, [later, difference(ends["alstm"], ends["lstm"], "error").within(most=0)])


def _irnn_stays(evidence: Evidence) -> Finding:
    ends = evidence.last("val/nll", model="irnn", model__hidden_size=50)
    return Finding(f"{mean_and_sd(ends, '.3f')} nats", [mean(ends, unit="nats").within(1.15, 1.23)])


def _fast_weights_converge_fastest(evidence: Evidence) -> Finding:
    reached = {model: evidence.updates_until("val/error", 0.1, model=model, model__hidden_size=50) for model in MODELS}
    measured = "; ".join(f"{MODELS[model]} {thousands(values)}" for model, values in reached.items())
    ours = reached.pop("fastweights")
    ratios = [ratio(ours, theirs, _length(evidence), f"to {MODELS[model]}") for model, theirs in reached.items()]
    return Finding(measured, [effect.within(most=1) for effect in ratios])


def _length(evidence: Evidence) -> float:
    return evidence.updates_of(model="lstm", model__hidden_size=50)


def table(evidence: Evidence) -> pd.DataFrame:
    """The update at which each curve reaches a level, in print and here."""
    rows = []
    for model, label in MODELS.items():
        for level in (LEFT, 0.5, 0.1):
            passed = PRINTED.index[PRINTED[model] <= level]
            row = {
                "model": label,
                "nll at or below": f"{level:g}",
                "paper, updates": f"{passed[0]:,}" if len(passed) else "never",
                "ours, updates: median (range)": "not run",
            }
            with suppress(NotRunError):
                until = evidence.updates_until("val/nll", level, model=model, model__hidden_size=50)
                row["ours, updates: median (range)"] = thousands(until)
            rows.append(row)
    return pd.DataFrame(rows)


def draw(evidence: Evidence) -> Figure:
    """The printed curves, and ours beside them: mean and standard deviation over seeds."""
    with rc_context(RC):
        figure, (printed_axes, axes) = panels(
            ["In print (test set)", "Here (validation set)"], sharex=True, sharey=True
        )
        for model, label in MODELS.items():
            style = style_of(model) | {"markersize": 0}
            printed = PRINTED.loc[PRINTED.index > 0, model]
            printed_axes.plot(printed.index, printed, **style)
            try:
                curve = evidence.mean_curve("val/nll", model=model, model__hidden_size=50)
            except NotRunError:
                continue
            curve = curve[curve.index > 0]
            below, above = curve["mean"] - curve["sd"], curve["mean"] + curve["sd"]
            axes.plot(curve.index, curve["mean"], label=label, **style)
            axes.fill_between(curve.index, below, above, color=style["color"], alpha=0.2, linewidth=0)
        for name, level in FLOORS.items():
            for panel in (printed_axes, axes):
                panel.axhline(level, **(FLOOR_LINE | {"linewidth": 0.8}))
            side = "top" if level == min(FLOORS.values()) else "bottom"
            axes.text(1.01, level, name, transform=axes.get_yaxis_transform(), va=side, fontsize=7, color="0.35")
        for panel in (printed_axes, axes):
            panel.set(xscale="log", ylim=(0, 1.6), xlabel="update")
        printed_axes.set_ylabel("negative log-likelihood, nats")
        legend(figure, [axes])
    return figure


REPRODUCTION = Reproduction(
    title="Ba et al. 2016, Figure 2: learning curves on associative retrieval with 50 units",
    experiments=("ba2016/figure2",),
    claims=(
        Claim(
            "Fast weights converge fastest.",
            "Section 4.1, Figure 2",
            "first update with a validation error at or below 10 %: every ratio to another model below 1",
            _fast_weights_converge_fastest,
        ),
        Claim(
            "The LSTM leaves its plateau late.",
            "Figure 2: after some 45,000 updates",
            "geometric mean of the first update with a validation error at or below 0.9 of the floor: above 20,000",
            _lstm_leaves_late,
        ),
        Claim(
            "The associative LSTM leaves the plateau later than the LSTM and ends slightly lower.",
            "Figure 2 (125,000 against 45,000 updates); Table 1 (1.62 against 1.85 %)",
            "ratio of the updates at which they leave it above 1, difference of mean test errors below 0",
            _alstm_leaves_later_and_ends_lower,
        ),
        Claim(
            "The IRNN falls to the floor of knowing only the digits, and stays there.",
            "Figure 2: 1.19 to 1.21 nats from update 80,000 on",
            "mean validation negative log-likelihood at the end between 1.15 and 1.23",
            _irnn_stays,
        ),
    ),
    table=table,
    settings={"model.hidden_size": 50},
    figures={"figure2": draw},
    quick=(*QUICK, "model.hidden_size=50"),
)
