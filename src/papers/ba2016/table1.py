"""Table 1: test error on associative retrieval, four architectures at three widths."""

import numpy as np
import pandas as pd

from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, chosen_lr, percent
from src.reproduction.effects import difference, mean
from src.tasks.associative_retrieval import AssociativeRetrieval

MODELS = {"irnn": "IRNN", "lstm": "LSTM", "alstm": "A-LSTM", "fastweights": "Fast weights"}
WIDTHS = (20, 50, 100)
PRINTED = {
    "irnn": (0.6211, 0.6023, 0.0034),
    "lstm": (0.6081, 0.0185, 0.0),
    "alstm": (0.6013, 0.0162, 0.0),
    "fastweights": (0.0181, 0.0, 0.0),
}
"""Ba et al., Table 1."""
STUDENTS = {"irnn": (0.712, 0.646, 0.0311), "lstm": (0.533, 0.0388, 0.0102), "fastweights": (0.0378, 0.0, 0.0)}
"""Wayman & Mathew, final report of a project in the course CSE847 at Michigan State University: one run each."""
TABLE = "ba2016-table1"
LONGER = {("irnn", 100): "ba2016-table1-long-irnn", ("fastweights", 20): "ba2016-table1-long"}
"""Folder names: of the runs of all cells, and of the longer runs that some cells have as well."""
FLOOR = 0.6165
"""Test error of a predictor that knows the digits but not the binding, with four pairs."""
PAPER_UPDATES = 750_000
PAPER_HORIZON = "ba2016-table1-paper-horizon"
"""Folder name of the runs of this length."""
CONFIDENCE = 0.98
"""Level of the two-sided intervals of differences between models, for one-sided tests at 1 %."""
QUICK = ("trainer.max_updates=10000", "model.hidden_size=20,50", "optimizer.lr=1e-3,3e-3", "seed=0,1")


def floor_of(num_pairs: int) -> float:
    """The same floor as `FLOOR`, for another number of pairs."""
    task = AssociativeRetrieval(0, num_pairs=num_pairs, train_size=None, val_size=1, test_size=1)
    return task.floors["knows the digits, not the binding"]["error"]


def errors(evidence: Evidence, model: str, width: int, name: str = TABLE) -> np.ndarray:
    """Test errors, one per seed."""
    return evidence.values("test/error", name=name, model=model, model__hidden_size=width)


def _fast_weights_err_less(width: int, name: str = TABLE) -> Claim:
    def test(evidence: Evidence) -> Finding:
        ours = errors(evidence, "fastweights", width, name)
        theirs = {MODELS[model]: errors(evidence, model, width, name) for model in ("irnn", "lstm")}
        measured = f"{percent(ours)} against " + " and ".join(f"{percent(v)} ({label})" for label, v in theirs.items())
        effects = [
            difference(ours, values, f"to {label}", confidence=CONFIDENCE).within(most=0)
            for label, values in theirs.items()
        ]
        return Finding(measured, effects)

    given = f", and {PAPER_UPDATES:,} updates" * (name == PAPER_HORIZON)
    return Claim(
        f"With {width} units{given}, fast weights make fewer errors than the IRNN and the LSTM.",
        "Table 1",
        f"both differences of mean test errors below 0 ({100 * CONFIDENCE:g} % intervals: one-sided tests at 1 %)",
        test,
    )


def _irnn_at_the_floor(evidence: Evidence) -> Finding:
    by_width = {width: errors(evidence, "irnn", width) for width in (20, 50)}
    measured = "; ".join(f"R={width}: {percent(values)}" for width, values in by_width.items())
    return Finding(
        measured, [mean(v, f"R={width}").within(FLOOR - 0.02, FLOOR + 0.02) for width, v in by_width.items()]
    )


def _all_solve_at_100(evidence: Evidence) -> Finding:
    by_model = {model: errors(evidence, model, 100, LONGER.get((model, 100), TABLE)) for model in MODELS}
    measured = "; ".join(f"{MODELS[model]} {percent(values)}" for model, values in by_model.items())
    return Finding(measured, [mean(values, MODELS[model]).within(most=0.005) for model, values in by_model.items()])


def _as_low_as_printed(width: int, bound: float, name: str = TABLE) -> Claim:
    def test(evidence: Evidence) -> Finding:
        values = errors(evidence, "fastweights", width, name)
        return Finding(percent(values), [mean(values).within(most=bound)])

    printed = PRINTED["fastweights"][WIDTHS.index(width)]
    return Claim(
        f"Fast weights with {width} units have a test error of {100 * printed:.2f} %.",
        "Table 1",
        f"mean test error below {100 * bound:g} %" + f", after {PAPER_UPDATES:,} updates" * (name == PAPER_HORIZON),
        test,
    )


def table(evidence: Evidence) -> pd.DataFrame:
    """Printed next to measured numbers, one row per cell and another for its longer runs."""
    rows = []
    for model, label in MODELS.items():
        for column, width in enumerate(WIDTHS):
            for name in filter(None, (TABLE, LONGER.get((model, width)), PAPER_HORIZON)):
                row = {"model": label, "R": width, "paper, %": f"{100 * PRINTED[model][column]:.2f}"}
                row["Wayman & Mathew, %"] = f"{100 * STUDENTS[model][column]:.2f}" if model in STUDENTS else "-"
                ours = _ours(evidence, name, model, width)
                if name == TABLE or "n" in ours:  # not every cell has longer runs
                    rows.append(row | ours)
    return pd.DataFrame(rows)


def _ours(evidence: Evidence, name: str, model: str, width: int) -> dict[str, str]:
    try:
        settings = {"name": name, "model": model, "model__hidden_size": width}
        runs = evidence.select(**settings)
    except NotRunError:
        return {"ours, %": "not run"}
    updates = f"{runs['updates'].mean():,.0f} of {runs['trainer.max_updates'].iloc[0]:,}"
    ours = {"ours, %": evidence.errors(**settings).replace(" %", ""), "n": str(len(runs)), "lr": chosen_lr(runs)}
    return ours | {f"updates (paper: {PAPER_UPDATES:,})": updates}


REPRODUCTION = Reproduction(
    title="Ba et al. 2016, Table 1: test error on associative retrieval, four architectures, three widths",
    experiments=("ba2016/table1", "ba2016/table1_long", "ba2016/table1_long_irnn", "ba2016/table1_paper_horizon"),
    only_in_full=("ba2016/table1_long", "ba2016/table1_long_irnn", "ba2016/table1_paper_horizon"),
    claims=(
        _fast_weights_err_less(20),
        _fast_weights_err_less(50),
        _fast_weights_err_less(20, PAPER_HORIZON),
        _fast_weights_err_less(50, PAPER_HORIZON),
        _as_low_as_printed(20, 0.0181, PAPER_HORIZON),
        _as_low_as_printed(50, 0.002),
        _as_low_as_printed(100, 0.001),
        Claim(
            "With 100 units all four solve the task (IRNN 0.34 %, the others 0).",
            "Table 1",
            "mean test error below 0.5 % for each, for the IRNN after 300,000 updates",
            _all_solve_at_100,
        ),
        Claim(
            "The IRNN with 20 and 50 units knows the digits but not the binding.",
            "Table 1: 62.11 and 60.23 %; the floor is 61.65 %",
            "both mean test errors within 2 points of the floor",
            _irnn_at_the_floor,
        ),
    ),
    table=table,
    quick=QUICK,
    replayed=(
        {"model": "fastweights", "model.hidden_size": 20, "seed": 0},
        {"model": "fastweights", "model.hidden_size": 50, "seed": 0},
        {"model": "lstm", "model.hidden_size": 50, "seed": 0},
        {"model": "irnn", "model.hidden_size": 50, "seed": 0},
        {"model": "alstm", "model.hidden_size": 50, "seed": 0},
    ),
)
