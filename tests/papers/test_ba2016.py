"""The claims hold for results as printed, and fail for results that contradict them."""

import numpy as np
import pandas as pd
import pytest

from src.papers.ba2016 import ablations, figure2, generalization, table1, time_to_two_percent
from src.papers.base import Evidence
from src.papers.reproduce import configuration, reproductions
from src.tasks.associative_retrieval import AssociativeRetrieval

SEEDS = range(5)


def as_printed():
    """Runs that err as in Table 1, with the curves of Figure 2."""
    rows, curves = [], []
    for model, errors in table1.PRINTED.items():
        for width, error in zip(table1.WIDTHS, errors, strict=True):
            for seed in SEEDS:
                run = f"{model}{width}-{seed}"
                row = {
                    "name": table1.TABLE,
                    "run": run,
                    "model": model,
                    "model.hidden_size": width,
                    "seed": seed,
                    "optimizer.lr": 1e-3,
                    "grid_points": 4,
                }
                spread = 1e-4 * (seed - 2)
                row |= {"test/error": max(error + spread, 0), "updates": 750_000, "seconds": 60.0}
                row["trainer.max_updates"] = 750_000
                rows.append(row)
                nll = figure2.PRINTED[model]
                # an error that falls with the loss, from chance over the floor to what is printed
                val_error = np.interp(nll, [0.0, 0.6, 1.187, 2.3], [error, 0.3, table1.FLOOR, 0.9])
                curves.append(
                    pd.DataFrame({"run": run, "update": nll.index, "val/nll": nll.values, "val/error": val_error})
                )
    runs = pd.DataFrame(rows)
    longer = runs[runs["model.hidden_size"] == 20].assign(name=table1.LONG)
    runs = pd.concat([runs, longer], ignore_index=True)
    return Evidence(runs, pd.concat(curves, ignore_index=True))


@pytest.mark.parametrize("module", [table1, figure2])
def test_the_printed_results_fulfill_every_claim_about_them(module):
    for claim in module.REPRODUCTION.claims:
        verdict, measured = claim.judge(as_printed())
        assert verdict == "reproduced", (claim.statement, measured)


@pytest.mark.parametrize("module", [table1, figure2])
def test_models_that_change_places_refute_claims(module):
    printed = as_printed()
    exchanged = {"fastweights": "irnn", "irnn": "fastweights", "lstm": "alstm", "alstm": "lstm"}
    swapped = Evidence(printed.runs.assign(model=printed.runs["model"].map(exchanged)), printed.curves)
    verdicts = {claim.statement: claim.judge(swapped)[0] for claim in module.REPRODUCTION.claims}
    assert "not run" not in verdicts.values()
    refuted = [statement for statement, verdict in verdicts.items() if verdict == "not reproduced"]
    assert len(refuted) >= len(verdicts) - 2, verdicts


@pytest.mark.parametrize("module", [table1, figure2, ablations, time_to_two_percent, generalization])
def test_nothing_is_claimed_and_nothing_breaks_without_the_runs(module):
    nothing = Evidence(as_printed().runs.assign(model="gru", name="other"), as_printed().curves)
    for claim in module.REPRODUCTION.claims:
        assert claim.judge(nothing)[0] == "not run"
    for draw in module.REPRODUCTION.figures.values():
        draw(nothing)


def test_the_table_has_print_beside_measurement():
    table = table1.table(as_printed()).set_index(["model", "R"])
    assert len(table) == 13
    row = table.loc[("LSTM", 50)]
    assert (row["paper, %"], row["CSE847, %"], row["ours, %"], row["n"]) == ("1.85", "3.88", "1.85 ± 0.02", "5")
    passed = figure2.table(as_printed()).set_index(["model", "nll at or below"])
    assert passed.loc[("LSTM", "1.1"), "paper, updates"] == "55,000"
    assert passed.loc[("LSTM", "1.1"), "ours, updates: median (range)"] == "55,000"


def test_the_floors_of_the_figure_are_those_of_the_task():
    floors = AssociativeRetrieval(0, num_pairs=4, train_size=None, val_size=1, test_size=1).floors
    assert pytest.approx(floors["knows the digits, not the binding"]["error"], abs=1e-6) == table1.FLOOR
    computed = {name: floor["nll"] for name, floor in floors.items()}
    assert figure2.FLOORS["knows the digits"] == pytest.approx(computed["knows the digits, not the binding"], abs=1e-3)
    for name in ("linear in the digit counts", "uniform over the digits seen"):
        assert figure2.FLOORS[name] == pytest.approx(computed[name], abs=1e-3)


def test_every_experiment_that_is_named_exists_and_has_a_folder_of_its_own():
    named = {experiment for found in reproductions().values() for experiment in found.experiments}
    shared = {"ba2016/figure2", "ba2016/generalization"}  # with Table 1
    names = [configuration(experiment).name for experiment in sorted(named - shared)]
    assert len(set(names)) == len(names)
    assert {configuration(experiment).name for experiment in ablations.REPRODUCTION.experiments} == set(
        ablations.VARIED
    )
