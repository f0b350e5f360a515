"""Beyond the papers: recall of 8 pairs against the size of the state, a curve for each cell."""

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from src.papers.descendants import BY_AGE, Cell, is_below, is_better, label_of, models_of, percents, row_of
from src.reports.style import FLOOR as FLOOR_LINE
from src.reports.style import RC, legend, panels, styles_of
from src.reproduction.base import Claim, Evidence, Finding, Reproduction
from src.reproduction.effects import difference

_KINDS = ("", "-fastweights", "-vector", "-further", "-long")
NAME, FAST, VECTOR, FURTHER, LONG = (f"descendants-capacity{kind}" for kind in _KINDS)
NAMES = {"fastweights": FAST, "lstm": VECTOR}
TIMES_LONGER = 8
MATRIX_SIZE, LSTM_SIZE = 16, 128
"""Units with a state of about 256 numbers: 16 x 16, and twice 128."""
OF_STATE = "a state of about 256 numbers: "
NUM_PAIRS = 8
LARGE = ("descendants/capacity_large", "descendants/capacity_large_vector")


def _cell(model: str, size: int = MATRIX_SIZE, name: str | None = None) -> Cell:
    """Settings of the runs of a cell with `size` units; an LSTM always has as much state as others with 16 units."""
    size = LSTM_SIZE if model == "lstm" else size
    return {"name": name or NAMES.get(model, NAME), "model": model, "model__hidden_size": size}


def _solved(model: str) -> Claim:
    return is_below(
        f"With a state of 256 numbers, {label_of(model)} recalls 8 pairs.",
        "recall by a matrix is exact for as many orthogonal keys as it has rows",
        [_cell(model)],
        0.02,
    )


def _is_better(statement: str, ours: str, theirs: str) -> Claim:
    source = "recall and memory trade off along one curve per mechanism (Arora et al. 2024, “Based”)"
    return is_better(statement, source, _cell(ours), _cell(theirs), 0.1, where=OF_STATE)


def _longer_helps(model: str) -> Claim:
    statement = (
        f"{label_of(model)}, a state of about 256 numbers: {TIMES_LONGER} times the updates lower the error by more "
        "than 10 points."
    )
    return is_better(statement, "not in a paper", _cell(model, name=LONG), _cell(model), 0.1)


def _size_matters(model: str) -> Claim:
    def test(evidence: Evidence) -> Finding:
        sizes = (8, 16, 32)
        errors = [evidence.values("test/error", **_cell(model, size)) for size in sizes]
        measured = "; ".join(f"{size} x {size}: {percents(one)} %" for size, one in zip(sizes, errors, strict=True))
        effects = [
            difference(errors[i + 1], errors[i], f"{sizes[i + 1]} against {sizes[i]}").within(most=0) for i in range(2)
        ]
        return Finding(measured, effects)

    return Claim(
        f"A larger state lets {label_of(model)} recall more.",
        "as above",
        "mean test errors fall from 8 x 8 to 16 x 16 and to 32 x 32",
        test,
    )


def table(evidence: Evidence) -> pd.DataFrame:
    """One row per cell and state size: errors, sizes of state and weights, learning rate."""
    rows = []
    for model in models_of(evidence.runs):
        of_model = evidence.runs[evidence.runs["model"] == model]
        for (updates, _), runs in of_model.groupby(["trainer.max_updates", "state_size"]):
            rows.append({"cell": label_of(model), "updates": f"{updates:,}"} | row_of(runs, BY_AGE))
    return pd.DataFrame(rows)


def draw(evidence: Evidence) -> Figure:
    """Accuracy against the state size, a curve per cell; hollow markers are runs with eight times the updates."""
    runs = evidence.runs
    further = runs["name"] == FURTHER
    with rc_context(RC):
        figure, both = panels(["", "further linear cells"] if further.any() else [""])
        styles = styles_of({label_of(model): model for model in models_of(runs)})
        for axes, shown in zip(both, (runs[~further], runs[further]), strict=False):
            for (model, is_long), of_model in shown.groupby(["model", shown["name"] == LONG], sort=False):
                by_size = of_model.groupby("state_size")["test/error"]
                label = label_of(model)
                style = styles[label] | ({"markerfacecolor": "white"} if is_long else {})
                label += f", {TIMES_LONGER} times the updates" * is_long
                axes.errorbar(by_size.mean().index, 1 - by_size.mean(), by_size.std(), label=label, capsize=2, **style)
            axes.axhline(1 / NUM_PAIRS, label="knows the values only", **FLOOR_LINE)
            axes.set_xscale("log", base=2)
            ticks = [64, 256, 1024, 4096]
            axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
            axes.set(xlabel="state size", ylabel="accuracy", ylim=(0, 1.03))
        legend(figure, both)
    return figure


REPRODUCTION = Reproduction(
    title="Descendants of fast weights: recall of 8 pairs against the size of the state",
    experiments=(
        "descendants/capacity",
        "descendants/capacity_fastweights",
        "descendants/capacity_vector",
        "descendants/capacity_further",
        "descendants/capacity_long",
        *LARGE,
    ),
    only_in_full=("descendants/capacity_further", "descendants/capacity_long", *LARGE),
    claims=(
        _solved("deltanet"),
        _solved("gated_deltanet"),
        _is_better("At equal state DeltaNet recalls more than an LSTM.", "deltanet", "lstm"),
        _is_better("At equal state DeltaNet recalls more than fast weights.", "deltanet", "fastweights"),
        _is_better("At equal state fast weights recall more than an LSTM.", "fastweights", "lstm"),
        _longer_helps("fastweights"),
        _longer_helps("lstm"),
        is_better(
            f"At equal state fast weights recall more than an LSTM, after {TIMES_LONGER} times the updates too.",
            "not in a paper",
            _cell("fastweights", name=LONG),
            _cell("lstm", name=LONG),
            0.1,
            where=OF_STATE,
        ),
        is_better(
            f"At equal state DeltaNet recalls more than fast weights that are trained {TIMES_LONGER} times as long.",
            "not in a paper",
            _cell("deltanet"),
            _cell("fastweights", name=LONG),
            0.1,
            where=OF_STATE,
        ),
        _size_matters("deltanet"),
        _size_matters("fastweights"),
    ),
    table=table,
    figures={"capacity": draw},
    quick=("optimizer.lr=3e-3,1e-2", "seed=0", "trainer.max_updates=800"),
    replayed=({"name": NAME, "model": "deltanet", "model.hidden_size": 16, "seed": 0},),
)
