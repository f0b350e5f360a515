"""Table 2: test error on MNIST in 24 glimpses, four architectures at three widths."""

from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from src.reports.style import RC, legend, panels, style_of
from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, chosen_lr, marked, percent
from src.reproduction.effects import difference, mean

FAST_WEIGHTS = "fastweights_multilevel"
MODELS = {"irnn": "IRNN", "lstm": "LSTM", "convnet": "ConvNet", FAST_WEIGHTS: "Fast weights"}
WIDTHS = (50, 100, 200)
PRINTED = {
    "irnn": (0.1295, 0.0195, 0.0142),
    "lstm": (0.12, 0.0155, 0.0110),
    "convnet": (0.0181, 0.0100, 0.009),
    FAST_WEIGHTS: (0.0721, 0.0130, 0.0085),
}
"""Ba et al., Table 2."""
TABLE, MATCHED, MEMORY, LONG = (f"ba2016-table2{suffix}" for suffix in ("", "-matched", "-memory", "-long"))
"""Folder names: all cells; one learning rate for all; networks without memory; longer runs with regularization."""
WITHOUT_MEMORY = {True: "η = 0", False: "η = 0, no wipe"}
UPDATES_PER_EPOCH = 430
FIRST_UPDATES = 2 * UPDATES_PER_EPOCH
"""The first updates, over which networks are compared by how soon they learn."""


def errors(evidence: Evidence, model: str, width: int, name: str = TABLE, **settings: Any) -> np.ndarray:
    """Test errors, one per seed."""
    return evidence.values("test/error", name=name, model=model, model__hidden_size=width, **settings)


def _fast_weights_err_less(width: int) -> Claim:
    def test(evidence: Evidence) -> Finding:
        return _compared({model: errors(evidence, model, width) for model in (FAST_WEIGHTS, "irnn", "lstm")})

    printed = ", ".join(f"{MODELS[m]} {100 * PRINTED[m][WIDTHS.index(width)]:.2f}" for m in ("irnn", "lstm"))
    ours = 100 * PRINTED[FAST_WEIGHTS][WIDTHS.index(width)]
    return Claim(
        f"With {width} features, fast weights make fewer errors than the IRNN and the LSTM.",
        f"Table 2: {ours:.2f} % ({printed})",
        "both differences of mean test errors below 0",
        test,
    )


def _learn_sooner(name: str, rates: str) -> Claim:
    def test(evidence: Evidence) -> Finding:
        return _compared({model: _while_learning(evidence, name, model) for model in (FAST_WEIGHTS, "irnn", "lstm")})

    return Claim(
        f"Fast weights learn sooner than the IRNN and the LSTM, {rates}.",
        "Section 4.2: no numbers",
        "50 features: both differences of mean validation errors over the first two epochs below 0",
        test,
    )


def _while_learning(evidence: Evidence, name: str, model: str) -> np.ndarray:
    """The mean validation error over the first updates, one per seed."""
    runs = evidence.select(name=name, model=model, model__hidden_size=50)["run"]
    early = evidence.curves[evidence.curves["update"].between(1, FIRST_UPDATES)]
    return np.array([early.loc[early["run"] == run, "val/error"].mean() for run in runs])


def _compared(by_model: dict[str, np.ndarray]) -> Finding:
    """Compare the first network with the others: its error has to be below that of each."""
    (_, ours), *others = by_model.items()
    measured = "; ".join(f"{MODELS[model]} {percent(values)}" for model, values in by_model.items())
    return Finding(measured, [difference(ours, theirs, f"to {MODELS[m]}").within(most=0) for m, theirs in others])


def _convnet_leads(evidence: Evidence) -> Finding:
    return _compared({model: errors(evidence, model, 50) for model in ("convnet", FAST_WEIGHTS, "irnn", "lstm")})


def _memory_is_needed(wipe: bool, statement: str) -> Claim:
    def test(evidence: Evidence) -> Finding:
        ours = errors(evidence, FAST_WEIGHTS, 50)
        without = errors(evidence, FAST_WEIGHTS, 50, MEMORY, model__wipe=wipe)
        effect = difference(without, ours).within(least=0)
        return Finding(f"{percent(without)} against {percent(ours)}", [effect])

    criterion = f"50 features: with {WITHOUT_MEMORY[wipe]} the mean test error is higher"
    return Claim(statement, "not in the paper", criterion, test)


def _as_low_as_printed(width: int) -> Claim:
    printed = PRINTED[FAST_WEIGHTS][WIDTHS.index(width)]

    def test(evidence: Evidence) -> Finding:
        values = errors(evidence, FAST_WEIGHTS, width, LONG)
        return Finding(percent(values), [mean(values).within(most=printed)])

    return Claim(
        f"Fast weights with {width} features have a test error of {100 * printed:.2f} %.",
        "Table 2",
        f"mean test error below {100 * printed:.2f} %, in the longer runs",
        test,
    )


def table(evidence: Evidence) -> pd.DataFrame:
    """Printed next to measured numbers: one row per cell, with longer runs, and then networks without memory."""
    rows = []
    for model, label in MODELS.items():
        for width, printed in zip(WIDTHS, PRINTED[model], strict=True):
            row = {"model": label, "features": width, "paper, %": f"{100 * printed:.2f}", "ours, %": "not run"}
            rows.append(row | _ours(evidence, name=TABLE, model=model, model__hidden_size=width))
            regularized = {"name": LONG, "model": model, "model__hidden_size": width}
            if ours := _ours(evidence, **regularized):
                dropout = _dropout(evidence.select(**regularized))
                rows.append(row | {"model": f"{label}, regularized"} | ours | dropout)
    for wipe, without in WITHOUT_MEMORY.items():
        row = {"model": f"{MODELS[FAST_WEIGHTS]}, {without}", "features": 50, "paper, %": "-", "ours, %": "not run"}
        rows.append(row | _ours(evidence, name=MEMORY, model__wipe=wipe))
    return pd.DataFrame(rows).fillna("-")


def _ours(evidence: Evidence, **settings: Any) -> dict[str, str]:
    with suppress(NotRunError):
        runs = evidence.select(**settings)
        ours = {"ours, %": evidence.errors(**settings).removesuffix(" %"), "n": str(len(runs)), "lr": chosen_lr(runs)}
        epochs = f"{runs['updates'].mean() / UPDATES_PER_EPOCH:.3g}"
        return ours | {"epochs": epochs, "weights": f"{runs['num_parameters'].iloc[0]:,.0f}"}
    return {}


def _dropout(runs: pd.DataFrame) -> dict[str, str]:
    """What was chosen for the longer runs: the dropout of inputs and outputs, at a fixed learning rate."""
    first = runs.iloc[0]
    chosen = f"{first['network.input_dropout']:g} and {first['network.output_dropout']:g}"
    points = f" of {first['grid_points']}{marked(runs)}"
    return {"lr": f"{first['optimizer.lr']:g}, fixed", "dropout": chosen + points}


def draw(evidence: Evidence) -> Figure:
    """Validation error against epochs with 50 features: mean and standard deviation over seeds."""
    titles = {"at the chosen learning rates": TABLE, "at one learning rate, 1e-3": MATCHED}
    with rc_context(RC):
        figure, all_axes = panels(list(titles), sharey=True)
        for axes, name in zip(all_axes, titles.values(), strict=True):
            axes.set(yscale="log", xlabel="epoch", ylabel="validation error, %")
            axes.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
            axes.yaxis.set_minor_formatter(NullFormatter())
            for model, label in MODELS.items():
                with suppress(NotRunError):
                    curve = 100 * evidence.mean_curve("val/error", name=name, model=model, model__hidden_size=50)
                    curve = curve[curve.index > 0]
                    epochs, style = curve.index / UPDATES_PER_EPOCH, style_of(model.removesuffix("_multilevel"))
                    axes.plot(epochs, curve["mean"], label=label, **(style | {"markersize": 3}))
                    below, above = curve["mean"] - curve["sd"], curve["mean"] + curve["sd"]
                    axes.fill_between(epochs, below, above, color=style["color"], alpha=0.2, linewidth=0)
        legend(figure, all_axes)
    return figure


REPRODUCTION = Reproduction(
    title="Ba et al. 2016, Table 2: test error on MNIST in 24 glimpses, four architectures, three widths",
    experiments=("ba2016/table2", "ba2016/table2_matched", "ba2016/table2_memory", "ba2016/table2_long"),
    only_in_full=("ba2016/table2_matched", "ba2016/table2_long"),
    claims=(
        *map(_fast_weights_err_less, WIDTHS),
        _learn_sooner(TABLE, "each at its chosen learning rate"),
        _learn_sooner(MATCHED, "all at a learning rate of 1e-3"),
        Claim(
            "With 50 features the ConvNet leads.",
            "Table 2: 1.81 %",
            "all differences of mean test errors below 0",
            _convnet_leads,
        ),
        _memory_is_needed(True, "Without the memory, but with the wipe, fast weights lose what they saw before."),
        _memory_is_needed(False, "The memory is better than keeping the hidden state instead of wiping it."),
        _as_low_as_printed(100),
        _as_low_as_printed(200),
    ),
    table=table,
    figures={"table2": draw},
    quick=("seed=0,1", "trainer.max_updates=1290", "optimizer.lr=3e-3"),
)
