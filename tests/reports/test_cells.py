"""Selection against numbers worked out by hand."""

import math

import pytest

from src.reports.cells import select, selection
from src.reports.runs import load_runs
from src.reports.summary import pivot, plus_minus, readable


def table(folder, **search):
    return selection(load_runs(folder.path), folder.search | search)


def test_the_point_with_the_best_mean_on_validation_is_tested(folder):
    for lr, seed, val, test in [
        (1, 0, 0.1, 0.7),
        (1, 1, 0.3, 0.9),
        (2, 0, 0.3, 0.1),
        (2, 1, 0.2, 0.1),
        (3, 0, 0.9, 0.0),
    ]:
        folder.add(lr=lr, seed=seed, val=val, test=test)
    (row,) = table(folder).to_dict("records")
    # 0.2, 0.25 and 0.9 on average: the first, although the others are better on the test set
    assert row["optimizer.lr"] == 1
    assert row["val"] == pytest.approx(0.2)
    assert (row["mean"], row["n"]) == (pytest.approx(0.8), 2)
    assert row["sd"] == pytest.approx(math.sqrt(0.02))  # of the sample: sum of squares 0.01 + 0.01 over n - 1
    assert row["ci95"] == pytest.approx(12.706 * math.sqrt(0.02) / math.sqrt(2), rel=1e-4)
    assert [row[f"grid_{name}"] for name in ("min", "median", "max")] == pytest.approx([0.2, 0.25, 0.9])
    assert (row["points"], row["runs"], row["notes"]) == (3, 5, "")


def test_each_cell_has_its_own_choice(folder):
    for model, best in (("lstm", 1), ("irnn", 2)):
        for lr in (1, 2):
            folder.add(model, lr=lr, val=0.1 if lr == best else 0.2, test=lr / 10)
    rows = table(folder)
    assert dict(zip(rows["model"], rows["optimizer.lr"], strict=True)) == {"lstm": 1, "irnn": 2}
    assert dict(zip(rows["model"], rows["mean"], strict=True)) == {"lstm": 0.1, "irnn": 0.2}
    assert rows["sd"].isna().all()


def test_a_tie_goes_to_the_first_point_and_is_noted(folder):
    for lr, test in ((3, 0.3), (1, 0.1), (2, 0.2)):
        folder.add(lr=lr, val=0.0 if lr != 1 else 0.5, test=test)
    folder.expect_all()
    (row,) = table(folder).to_dict("records")
    assert (row["optimizer.lr"], row["mean"]) == (3, 0.3)
    assert row["notes"] == "2 points tied, the first taken"


def test_diverged_failed_and_missing_runs_are_noted_with_their_points(folder):
    folder.add(lr=1, seed=0, val=0.5, test=0.5)
    folder.add(lr=1, seed=1, status=None)
    folder.add(lr=2, seed=0, val=0.1, test=0.0)
    folder.add(lr=2, seed=1, status="diverged", val=0.0, test=0.0)
    folder.add(lr=3, seed=0, status="failed", reason="ValueError: no")
    folder.add(lr=3, seed=1, status="failed", reason="ValueError: no")
    folder.expect_all()
    (row,) = table(folder).to_dict("records")
    # at 2 one of the runs diverged: a point without such a run comes before it
    assert (row["optimizer.lr"], row["mean"], row["n"], row["points"], row["runs"]) == (1, 0.5, 1, 3, 6)
    assert row["notes"] == "1 missing at lr 1; 1 diverged at lr 2; 2 failed at lr 3 (ValueError: no)"


def test_a_cell_without_a_finished_run_stays_in_the_table(folder):
    folder.add("irnn", lr=1, val=0.5)
    folder.add("lstm", lr=1, status="diverged")
    folder.add("lstm", lr=2, status="diverged")
    rows = table(folder).set_index("model")
    assert rows.loc["lstm", "n"] == 0
    assert math.isnan(rows.loc["lstm", "mean"])
    assert rows.loc["lstm", "notes"] == "nothing to choose from; 2 diverged at lr 1 and lr 2"


def test_two_stages_choose_with_the_first_repetition_alone(folder):
    for lr, val in ((1, 0.3), (2, 0.1)):
        folder.add(lr=lr, seed=7, val=val, test=val)
    folder.add(lr=2, seed=8, val=0.9, test=0.5)
    folder.expect_all(two_stage=True)
    assert table(folder)["optimizer.lr"][0] == 1  # all runs taken together: 0.3 against 0.5
    (row,) = table(folder, two_stage=True).to_dict("records")
    assert (row["optimizer.lr"], row["val"], row["n"]) == (2, 0.1, 2)
    assert row["mean"] == pytest.approx(0.3)
    assert row["grid_max"] == 0.3


def test_columns_go_across(folder):
    for model in ("lstm", "irnn"):
        for width in (50, 20):
            for seed in (0, 1):
                folder.add(model, width=width, seed=seed, test=width / 100 + seed / 10)
    folder.add("irnn", width=20, seed=2, status="failed", reason="no")
    folder.expect_all()
    runs, search = load_runs(folder.path), folder.search | {"columns": ["model.hidden_size"]}
    wide = pivot(selection(runs, search), runs, search)
    assert wide.to_dict("records") == [
        {"model": "lstm", "50 units": "0.550 ± 0.071", "20 units": "0.250 ± 0.071"},
        {"model": "irnn", "50 units": "0.550 ± 0.071", "20 units": "0.250 ± 0.071 *"},
    ]
    assert pivot(selection(runs, folder.search), runs, folder.search) is None
    long = readable(selection(runs, search), runs, search)
    assert list(long) == ["model", "model.hidden_size", "test/error", "n", "notes"]
    assert list(long["notes"]) == ["", "", "", "1 failed (no)"]


def test_the_objective_is_that_of_the_task(folder):
    import json

    for lr, nll in ((1, 3.0), (2, 2.0)):
        path = folder.path / folder.add(lr=lr, val=lr) / "result.json"
        result = json.loads(path.read_text()) | {"objective": "nll"}
        result["metrics"]["val/nll"] = nll
        path.write_text(json.dumps(result))
    (cell,) = select(load_runs(folder.path), folder.search)
    assert cell.objective == "val/nll"
    assert cell.choice.point == (("optimizer.lr", 2),)
    assert table(folder)["metric"][0] == "test/nll"


@pytest.mark.parametrize(
    ("mean", "sd", "text"),
    [
        (0.10784, 0.01123, "0.108 ± 0.011"),
        (0.00036, 0.00015, "0.00036 ± 0.00015"),
        (0.61738, 0.00064, "0.6174 ± 0.0006"),
        (0.0, 0.0, "0 ± 0"),
        (12.5, 3.21, "12.5 ± 3.2"),
        (0.5, math.nan, "0.5"),
        (math.nan, math.nan, "–"),
        (2.5e9, 1e9, "2.5e+09 ± 1e+09"),
    ],
)
def test_mean_and_deviation_have_the_digits_that_count(mean, sd, text):
    assert plus_minus(mean, sd) == text


def test_columns_alone_make_a_table_of_one_line(folder):
    for width in (20, 50):
        folder.add(width=width, test=width / 100)
    runs, search = load_runs(folder.path), folder.search | {"columns": ["model.hidden_size"]}
    (row,) = pivot(selection(runs, search), runs, search).to_dict("records")
    assert (row["20 units"], row["50 units"]) == ("0.2", "0.5")
