"""Selection, compared with numbers computed by hand."""

import csv
import io
import math
from dataclasses import replace

import pytest

from src.reports.summary import caption, pivot, plus_minus, select, selection_csv, selection_rows
from src.results.runs import load_runs
from src.results.selection import cells
from src.specs import Objective


def summaries(folder, **search):
    """The summaries of the cells, and the settings chosen for each."""
    found = select(load_runs(folder.path), replace(folder.search, **search))
    return [(summary, dict(summary.cell.choice.point if summary.cell.choice else ())) for summary in found]


def csv_rows(folder, **search):
    text = selection_csv(load_runs(folder.path), replace(folder.search, **search))
    return list(csv.DictReader(io.StringIO(text)))


def test_the_point_with_the_best_mean_validation_error_is_tested(folder):
    for lr, seed, val, test in [
        (1, 0, 0.1, 0.7),
        (1, 1, 0.3, 0.9),
        (2, 0, 0.3, 0.1),
        (2, 1, 0.2, 0.1),
        (3, 0, 0.9, 0.0),
        (3, 1, 0.9, 0.0),
    ]:
        folder.add(lr=lr, seed=seed, val=val, test=test)
    ((summary, chosen),) = summaries(folder)
    # means 0.2, 0.25 and 0.9: the first is chosen, although the others are better on the test set
    assert chosen == {"optimizer.lr": 1}
    assert summary.val == pytest.approx(0.2)
    assert (summary.metric, summary.mean, summary.n) == ("test/error", pytest.approx(0.8), 2)
    assert summary.sd == pytest.approx(math.sqrt(0.02))  # sample: sum of squares 0.01 + 0.01 over n - 1
    assert summary.ci95 == pytest.approx(12.706 * math.sqrt(0.02) / math.sqrt(2), rel=1e-4)
    assert summary.spread == pytest.approx((0.2, 0.25, 0.9))
    assert summary.notes == "lr 1 is at the edge of the grid"

    (row,) = csv_rows(folder)
    assert list(row) == [
        "optimizer.lr", "metric", "mean", "sd", "ci95", "n", "val", "grid_min", "grid_median", "grid_max", "points",
        "runs", "notes",
    ]  # fmt: skip
    assert (row["optimizer.lr"], row["n"], row["points"], row["runs"]) == ("1", "2", "3", "6")
    numbers = (summary.mean, summary.sd, summary.ci95, summary.val, *summary.spread)
    names = ("mean", "sd", "ci95", "val", "grid_min", "grid_median", "grid_max")
    assert tuple(float(row[name]) for name in names) == numbers


def test_the_point_with_the_highest_mean_validation_return_is_tested(folder):
    for lr, seed, val, test in [
        (1, 0, -4.0, 9.0),
        (1, 1, -2.0, 9.0),
        (2, 0, 1.0, -1.0),
        (2, 1, 2.0, -2.0),
        (3, 0, 1.0, 5.0),
        (3, 1, 1.0, 5.0),
        (4, 0, 1.5, 6.0),
        (4, 1, 1.5, 6.0),
    ]:
        folder.add(lr=lr, seed=seed, val=val, test=test, objective="return", higher_is_better=True)
    folder.add(lr=5, val=8.0, status="diverged", objective="return", higher_is_better=True)
    folder.add(lr=6, status=None)
    folder.expect_all()
    ((summary, chosen),) = summaries(folder)
    # means -3, 1.5, 1 and 1.5
    assert summary.cell.objective == Objective("return", higher_is_better=True)
    assert chosen == {"optimizer.lr": 2}
    assert (summary.metric, summary.val, summary.mean, summary.n) == ("test/return", 1.5, -1.5, 2)
    assert summary.spread == (-3.0, 1.25, 1.5)
    assert summary.notes == "2 points tied, the first taken; 1 diverged at lr 5; 1 missing at lr 6"


def test_points_are_compared_by_the_seeds_that_all_of_them_have(folder):
    """So a point that was chosen and then repeated is not beaten by one with a single lucky seed."""
    for lr, seed, val in [(1, 0, 0.3), (2, 0, 0.2), (3, 0, 0.25), (2, 1, 0.4), (2, 2, 0.5), (3, 5, 0.01)]:
        folder.add(lr=lr, seed=seed, val=val, test=val)
    folder.add(lr=4, seed=1, val=0.1, status="diverged")
    ((summary, chosen),) = summaries(folder)
    assert chosen == {"optimizer.lr": 2}
    assert (summary.val, summary.n) == (0.2, 3)
    folder.add(lr=1, seed=1, val=0.1, test=0.1)
    folder.add(lr=3, seed=1, val=0.4, test=0.4)
    folder.add(lr=4, seed=0, val=0.1)  # where another one diverged
    ((summary, chosen),) = summaries(folder)
    assert chosen == {"optimizer.lr": 1}
    assert summary.val == pytest.approx(0.2)  # of seeds 0 and 1, where the others have 0.3 and 0.325


def test_each_cell_has_its_own_choice(folder):
    for model, best in (("lstm", 1), ("irnn", 2)):
        for lr in (1, 2):
            folder.add(model, lr=lr, val=0.1 if lr == best else 0.2, test=lr / 10)
    found = {dict(summary.cell.settings)["model"]: (summary, chosen) for summary, chosen in summaries(folder)}
    assert {model: chosen["optimizer.lr"] for model, (_, chosen) in found.items()} == {"lstm": 1, "irnn": 2}
    assert {model: summary.mean for model, (summary, _) in found.items()} == {"lstm": 0.1, "irnn": 0.2}
    assert all(math.isnan(summary.sd) and math.isnan(summary.ci95) for summary, _ in found.values())
    assert [row["sd"] for row in csv_rows(folder)] == ["", ""]


def test_a_tie_goes_to_the_first_point_and_is_noted(folder):
    for lr, test in ((3, 0.3), (1, 0.1), (2, 0.2)):
        folder.add(lr=lr, val=0.0 if lr != 1 else 0.5, test=test)
    folder.expect_all()
    ((summary, chosen),) = summaries(folder)
    assert (chosen["optimizer.lr"], summary.mean) == (3, 0.3)
    assert summary.notes == "2 points tied, the first taken"  # not an edge, since 2 is as good as 3


@pytest.mark.parametrize(
    ("objectives", "beyond"),
    [
        ({3e-4: 0.1, 1e-3: 0.2, 3e-3: 0.3}, 1e-4),
        ({3e-4: 0.3, 1e-3: 0.2, 3e-3: 0.1}, 1e-2),
        ({1e-4: 0.1, 1e-3: 0.2}, 1e-5),
        ({0.25: 0.1, 0.5: 0.2}, 0.1),
        ({0.0: 0.1, 0.5: 0.2}, None),
        ({0.0: 0.3, 0.2: 0.2, 0.4: 0.1}, None),
        ({0.8: 0.1, 0.9: 0.2, 0.95: 0.3}, None),
        ({0.0041: 0.3, 0.0061: 0.2, 0.0062: 0.1}, None),
        ({0.0032: 0.2, 0.0049: 0.1}, 0.01),
        ({3e-4: 0.2, 1e-3: 0.1, 3e-3: 0.3}, "inside"),
        ({3e-4: 0.1, 1e-3: 0.1, 3e-3: 0.3}, "inside"),
        ({3e-4: 0.1, 1e-3: 0.3, 3e-3: 0.1}, "either end"),
        ({3e-4: 0.1}, "inside"),
    ],
)
def test_a_choice_at_the_edge_of_its_grid_is_marked_with_the_next_value(folder, objectives, beyond):
    for lr, val in objectives.items():
        folder.add(lr=lr, val=val)
    (cell,) = cells(load_runs(folder.path), folder.search)
    if beyond == "either end":  # both are as good, and the first of them in the folder is taken
        beyond = {3e-4: 1e-4, 3e-3: 1e-2}[cell.edges[0].chosen]
    assert [edge.beyond for edge in cell.edges] == ([] if beyond == "inside" else [beyond])
    (row,) = csv_rows(folder)
    offered = "" if beyond in ("inside", None) else f", try {beyond:g} next"
    assert ("is at the edge of the grid" + offered in row["notes"]) == (beyond != "inside")


def test_a_value_that_was_not_tried_or_diverged_is_no_better_and_no_edge(folder):
    folder.add(lr=1e-4, status=None)
    folder.add(lr=3e-4, val=0.1)
    folder.add(lr=1e-3, val=0.2)
    folder.add("irnn", lr=3e-4, val=0.2)
    folder.add("irnn", lr=1e-3, val=0.1)
    folder.add("irnn", lr=3e-3, status="diverged")
    folder.expect_all()
    found = {dict(cell.settings)["model"]: cell.edges for cell in cells(load_runs(folder.path), folder.search)}
    assert [edge.chosen for edge in found["lstm"]] == [3e-4]
    assert found["irnn"] == []


def test_diverged_failed_and_missing_runs_are_noted_with_their_points(folder):
    folder.add(lr=1, seed=0, val=0.5, test=0.5)
    folder.add(lr=1, seed=1, status=None)
    folder.add(lr=2, seed=0, val=0.1, test=0.0)
    folder.add(lr=2, seed=1, status="diverged", val=0.0, test=0.0)
    folder.add(lr=3, seed=0, status="failed", reason="ValueError: no")
    folder.add(lr=3, seed=1, status="failed", reason="ValueError: no")
    folder.expect_all()
    ((summary, chosen),) = summaries(folder)
    # a run at 2 diverged: a point without lost runs is preferred
    assert (chosen["optimizer.lr"], summary.mean, summary.n) == (1, 0.5, 1)
    assert (len(summary.cell.points), len(summary.cell.runs)) == (3, 6)
    assert (
        summary.notes
        == "lr 1 is at the edge of the grid; 1 missing at lr 1; 1 diverged at lr 2; 2 failed at lr 3 (ValueError: no)"
    )


def test_a_mean_is_that_of_finished_runs_even_if_a_point_with_a_lost_one_is_all_there_is(folder):
    folder.add(seed=0, test=0.25)
    folder.add(seed=1, test=0.75, status="diverged")
    ((summary, _),) = summaries(folder)
    assert (summary.mean, summary.n, summary.notes) == (0.25, 1, "1 diverged")


def test_notes_are_in_sweep_order_and_distinguish_pruned_runs(folder):
    folder.add(lr=1, seed=0)
    folder.add(lr=2, seed=0, status="diverged", reason="pruned at update 50")
    folder.add(lr=2, seed=1, status="failed", reason="ValueError: no")
    folder.add(lr=1, seed=1, status="failed", reason="RuntimeError: yes")
    folder.expect_all()
    ((summary, _),) = summaries(folder)
    assert summary.notes == (
        "lr 1 is at the edge of the grid; "
        "1 pruned at lr 2; 2 failed at lr 2 and lr 1 (ValueError: no, RuntimeError: yes)"
    )


def test_a_cell_without_a_finished_run_stays_in_the_table(folder):
    folder.add("irnn", lr=1, val=0.5)
    folder.add("lstm", lr=1, status="diverged")
    folder.add("lstm", lr=2, status="diverged")
    found = {dict(summary.cell.settings)["model"]: summary for summary, _ in summaries(folder)}
    assert found["lstm"].n == 0
    assert math.isnan(found["lstm"].mean)
    assert all(map(math.isnan, found["lstm"].spread))
    assert found["lstm"].notes == "no finished run to choose; 2 diverged at lr 1 and lr 2"


def test_the_table_keeps_its_columns_while_no_run_has_finished(folder):
    for lr in (1, 2):
        folder.add(lr=lr, status=None)
    folder.expect_all()
    (row,) = selection_rows([summary for summary, _ in summaries(folder)], folder.search)
    assert row == {
        "test/error": "–",
        "n": 0,
        "val/error over the grid (min / median / max)": "– / – / –",
        "grid points": 2,
        "notes": "no finished run to choose; 2 missing at lr 1 and lr 2",
    }


def test_two_stages_choose_with_the_first_repetition_only(folder):
    for lr, val in ((1, 0.3), (2, 0.1)):
        folder.add(lr=lr, seed=7, val=val, test=val)
    folder.add(lr=1, seed=8, val=0.3, test=0.5)
    folder.add(lr=2, seed=8, val=0.9, test=0.5)
    folder.expect_all(two_stage=True)
    ((_, chosen),) = summaries(folder)
    assert chosen["optimizer.lr"] == 1  # 0.3 against 0.5 over all runs
    ((summary, chosen),) = summaries(folder, two_stage=True)
    assert (chosen["optimizer.lr"], summary.val, summary.n) == (2, 0.1, 2)
    assert summary.mean == pytest.approx(0.3)
    assert summary.spread[2] == 0.3


def test_two_stages_choose_with_the_repetition_at_the_most_points(folder):
    folder.add(lr=1, seed=5, val=0.2)  # a single run, before the sweep
    for lr, val in ((1, 0.3), (2, 0.1)):
        for seed in (0, 1):
            folder.add(lr=lr, seed=seed, val=val)
    folder.expect_all(two_stage=True)
    ((summary, chosen),) = summaries(folder, two_stage=True)
    assert (chosen["optimizer.lr"], summary.val, summary.n) == (2, 0.1, 2)


def test_columns_go_across(folder):
    for model in ("lstm", "irnn"):
        for width in (50, 20):
            for seed in (0, 1):
                folder.add(model, width=width, seed=seed, test=width / 100 + seed / 10)
    folder.add("irnn", width=20, seed=2, status="failed", reason="no")
    folder.expect_all()
    search = replace(folder.search, columns=["model.hidden_size"])
    found = select(load_runs(folder.path), search)
    assert pivot(found, search) == [
        {"model": "lstm", "50 units": "0.550 ± 0.071", "20 units": "0.250 ± 0.071"},
        {"model": "irnn", "50 units": "0.550 ± 0.071", "20 units": "0.250 ± 0.071 *"},
    ]
    assert pivot(found, folder.search) is None
    long = selection_rows(found, search)
    assert list(long[0]) == ["model", "model.hidden_size", "test/error", "n", "notes"]
    assert [row["notes"] for row in long] == ["", "", "", "1 failed (no)"]


def test_rows_with_the_same_first_setting_are_adjacent(folder):
    for lr in (1, 2):
        for model in ("lstm", "irnn"):
            for width in (50, 20):
                folder.add(model, width=width, lr=lr, test=width / 100)
    folder.expect_all()
    search = replace(folder.search, grid=[], columns=["model.hidden_size"])
    rows = pivot(select(load_runs(folder.path), search), search)
    assert [(row["model"], row["optimizer.lr"]) for row in rows] == [
        ("lstm", "1"), ("lstm", "2"), ("irnn", "1"), ("irnn", "2"),
    ]  # fmt: skip


def test_a_model_without_the_setting_across_has_its_own_column(folder):
    folder.add("lstm", test=0.25)
    for decay in (0.9, 0.5):
        folder.add("fastweights", decay=decay, test=decay)
    search = replace(folder.search, columns=["model.decay"])
    rows = pivot(select(load_runs(folder.path), search), search)
    assert {row["model"]: row for row in rows} == {
        "lstm": {"model": "lstm", "–": "0.25", "decay 0.5": None, "decay 0.9": None},
        "fastweights": {"model": "fastweights", "–": None, "decay 0.5": "0.5", "decay 0.9": "0.9"},
    }


def test_columns_alone_make_a_table_of_one_row(folder):
    for width in (20, 50):
        folder.add(width=width, test=width / 100)
    search = replace(folder.search, columns=["model.hidden_size"])
    assert pivot(select(load_runs(folder.path), search), search) == [{"20 units": "0.2", "50 units": "0.5"}]


def test_the_objective_is_that_of_the_task(folder):
    for lr, nll in ((1, 3.0), (2, 2.0)):
        name = folder.add(lr=lr)
        folder.change(name, objective="nll", metrics={"val/error": lr, "val/nll": nll, "test/nll": nll + 1})
    (cell,) = cells(load_runs(folder.path), folder.search)
    assert cell.objective == Objective("nll")
    assert cell.choice.point == (("optimizer.lr", 2),)
    ((summary, _),) = summaries(folder)
    assert (summary.metric, summary.mean) == ("test/nll", 3.0)
    assert csv_rows(folder)[0]["metric"] == "test/nll"


def test_the_caption_names_the_metric_of_the_finished_runs(folder):
    folder.add("lstm", lr=1, val=3.0, test=2.0, objective="return", higher_is_better=True)
    for model, lr in (("lstm", 2), ("irnn", 1), ("irnn", 2)):
        folder.add(model, lr=lr, status=None)
    folder.expect_all()
    runs = load_runs(folder.path)
    found = select(runs, folder.search)
    assert caption(found, runs, folder.search).startswith(
        "test/return at the optimizer.lr chosen on val/return. Over the grid: minimum / median / maximum"
    )
    assert [row["test/return"] for row in selection_rows(found, folder.search)] == ["2", "–"]


@pytest.mark.parametrize(("values", "mean", "n"), [((0.5, math.nan), 0.5, 1), ((0.5, math.inf), math.inf, 2)])
def test_an_infinite_test_metric_counts_and_nan_does_not(folder, values, mean, n):
    for seed, test in enumerate(values):
        folder.add(seed=seed, test=test)
    ((summary, _),) = summaries(folder)
    assert (summary.mean, summary.n) == (mean, n)
    assert summary.notes == "1 without a finite test metric"
    assert math.isnan(summary.sd)
    assert math.isnan(summary.ci95)


@pytest.mark.parametrize(
    ("mean", "sd", "text"),
    [
        (0.10784, 0.01123, "0.108 ± 0.011"),
        (0.00036, 0.00015, "0.00036 ± 0.00015"),
        (0.61738, 0.00064, "0.6174 ± 0.0006"),
        (0.0, 0.0, "0 ± 0"),
        (12.5, 3.21, "12.5 ± 3.2"),
        (-12.5, 3.21, "-12.5 ± 3.2"),
        (0.5, math.nan, "0.5"),
        (math.nan, math.nan, "–"),
        (2.5e9, 1e9, "2.5e+09 ± 1e+09"),
        (1.5e-10, 7.07e-11, "1.5e-10 ± 7.1e-11"),
        (0.0, 1e-10, "0 ± 1e-10"),
    ],
)
def test_a_mean_and_its_deviation_have_significant_digits_only(mean, sd, text):
    assert plus_minus(mean, sd) == text
