"""The claims about glimpses hold for the printed results, and fail for results that contradict them."""

import numpy as np
import pandas as pd
import pytest

from src.papers.ba2016 import table2, table3
from src.papers.ba2016.table2 import FAST_WEIGHTS
from src.reproduction.base import Evidence

SEEDS = range(3)


def rows_of(name, model, error, **settings):
    """Runs with the given error, slightly larger for each further seed."""
    fixed = {"status": "finished", "optimizer.lr": 1e-3, "grid_points": 3, "edge": ""}
    fixed |= {"updates": 860, "trainer.max_updates": 860, "num_parameters": 1000, "model.wipe": None}
    rows = [{"name": name, "model": model, "seed": seed} | fixed | settings for seed in SEEDS]
    of_width = settings.get("model.hidden_size", 200)
    return [
        row | {"run": f"{name}-{model}{of_width}-{row['seed']}", "test/error": error + 1e-4 * row["seed"]}
        for row in rows
    ]


def printed_table_2():
    """Runs with the errors of Table 2; the lower the final error of a run, the lower its validation errors.

    Before the first update and after the second epoch, where they must not count, fast weights have the largest.
    """
    rows = []
    for model, errors in table2.PRINTED.items():
        for width, error in zip(table2.WIDTHS, errors, strict=True):
            rows += rows_of(table2.TABLE, model, error, **{"model.hidden_size": width})
        rows += rows_of(table2.MATCHED, model, errors[0], **{"model.hidden_size": 50})
    for width, error in zip(table2.WIDTHS, table2.PRINTED[FAST_WEIGHTS], strict=True):
        dropout = {"network.input_dropout": 0.3, "network.output_dropout": 0.2}
        rows += rows_of(table2.LONG, FAST_WEIGHTS, error - 0.001, **{"model.hidden_size": width}, **dropout)
    for wipe, error in ((True, 0.21), (False, 0.09)):
        settings = {"model.hidden_size": 50, "model.wipe": wipe}
        rows += [
            row | {"run": f"{row['run']}-{wipe}"} for row in rows_of(table2.MEMORY, FAST_WEIGHTS, error, **settings)
        ]
    updates = np.arange(0, 1721, 215)
    errors = np.exp(-updates / 215)
    soon = (updates > 0) & (updates <= 860)
    curves = [
        pd.DataFrame({"run": row["run"], "update": updates}).assign(
            **{"val/error": np.where(soon, 0.9 * errors + row["test/error"], 0.9 * (row["model"] == FAST_WEIGHTS))}
        )
        for row in rows
    ]
    return Evidence(pd.DataFrame(rows), pd.concat(curves, ignore_index=True))


def printed_table_3():
    """Runs with the accuracies of Table 3."""
    rows = [row for model, accuracy in table3.PRINTED.items() for row in rows_of(table3.NAME, model, 1 - accuracy)]
    answers = dict.fromkeys(table3.ANSWERS, 0.6)
    measured = pd.DataFrame([{"run": row["run"], "model": row["model"]} | answers for row in rows])
    return Evidence(pd.DataFrame(rows), pd.DataFrame(), measured[measured["model"] == FAST_WEIGHTS])


CASES = [(table2, printed_table_2), (table3, printed_table_3)]


@pytest.mark.parametrize(("module", "printed"), CASES)
def test_the_printed_results_satisfy_every_claim_about_them(module, printed):
    for claim in module.REPRODUCTION.claims:
        found = claim.judge(printed())
        assert found.verdict == "reproduced", (claim.statement, found)


@pytest.mark.parametrize(
    ("module", "printed", "others"),
    [(table2, printed_table_2, {"lstm": "convnet", "convnet": "lstm"}), (table3, printed_table_3, {})],
)
def test_exchanging_the_models_refutes_the_claims(module, printed, others):
    evidence, exchanged = printed(), {FAST_WEIGHTS: "irnn", "irnn": FAST_WEIGHTS} | others
    names = evidence.runs["model"].map(lambda model: exchanged.get(model, model))
    exchanged = Evidence(evidence.runs.assign(model=names), evidence.curves)
    verdicts = [claim.judge(exchanged).verdict for claim in module.REPRODUCTION.claims]
    assert set(verdicts) <= {"not reproduced", "not run"}  # only fast weights have runs without memory and longer runs
    assert "not reproduced" in verdicts


@pytest.mark.parametrize(("wipe", "says"), [(True, "with the wipe"), (False, "instead of wiping")])
def test_a_memory_that_does_not_help_refutes_that_it_is_needed(wipe, says):
    evidence = printed_table_2()
    without = (evidence.runs["name"] == table2.MEMORY) & (evidence.runs["model.wipe"] == wipe)
    evidence.runs.loc[without, "test/error"] = 0.01 + 1e-4 * evidence.runs.loc[without, "seed"]
    verdicts = {claim.statement: claim.judge(evidence).verdict for claim in table2.REPRODUCTION.claims}
    (refuted,) = (statement for statement, verdict in verdicts.items() if verdict == "not reproduced")
    assert "memory" in refuted
    assert says in refuted


@pytest.mark.parametrize("module", [table2, table3])
def test_without_its_runs_a_claim_is_not_run_and_tables_and_figures_are_still_made(module):
    nothing = Evidence(printed_table_2().runs.assign(model="gru", name="other"), printed_table_2().curves)
    for claim in module.REPRODUCTION.claims:
        assert claim.judge(nothing).verdict == "not run"
    for draw in module.REPRODUCTION.figures.values():
        draw(nothing)
    assert (module.table(nothing).filter(like="ours") == "not run").all(axis=None)


def test_tables_show_printed_next_to_measured_numbers():
    table = table2.table(printed_table_2()).set_index(["model", "features"])
    assert table.loc[("LSTM", 100), ["paper, %", "ours, %", "n", "epochs"]].tolist() == [
        "1.55",
        "1.56 ± 0.01",
        "3",
        "2",
    ]
    assert table.loc[("Fast weights, η = 0, no wipe", 50), "ours, %"] == "9.01 ± 0.01"
    regularized = table.loc[("Fast weights, regularized", 200), ["ours, %", "lr", "dropout"]]
    assert regularized.tolist() == ["0.76 ± 0.01", "0.001, fixed", "0.3 and 0.2 of 3"]
    drawings = table3.table(printed_table_3()).set_index("model")
    assert drawings.loc["ConvNet", ["paper, Multi-PIE, %", "ours, stand-in, %"]].tolist() == ["88.23", "88.22 ± 0.01"]
    assert drawings.loc["the nearest image", "ours, stand-in, %"] == "40.00 ± 0.00"
