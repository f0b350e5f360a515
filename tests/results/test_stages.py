"""Which settings are compared, searched and repeated, which grid point is chosen, and what the second stage runs."""

from dataclasses import replace

import pytest

from src.config.schema import SearchSettings
from src.results.runs import Run
from src.results.selection import Choice, cells, choose, first_stage, num_of_second_stage, second_stage
from src.specs import Objective

SEARCH = SearchSettings(grid=["optimizer.lr"], repeated=["seed"], columns=["model.hidden_size"], two_stage=False)
ERROR = Objective("error")
RETURN = Objective("return", higher_is_better=True)


def run(value=None, status="finished", objective=ERROR, name="run", **settings):
    metrics = {} if value is None else {f"val/{objective.metric}": value, "val/nll": 9.0}
    return Run(name=name, settings=settings, status=status, metrics=metrics, objective=objective)


MISSING = run(status="missing")


def point(lr):
    return (("optimizer.lr", lr),)


def test_a_setting_that_varies_is_compared_searched_or_repeated():
    settings = {"model": "lstm", "model.hidden_size": 20, "task": "copying"}
    runs = [
        Run(name=f"{model}-{lr}-{seed}", settings=settings | {"model": model, "optimizer.lr": lr, "seed": seed} | more)
        for model, more in (("lstm", {}), ("fastweights", {"model.decay": 0.9}), ("fastweights", {"model.decay": 0.5}))
        for lr in (1e-3, 1e-2)
        for seed in (0, 1)
    ]
    lstm, *fastweights = cells(runs, SEARCH)
    assert lstm.settings == (("model", "lstm"),)
    assert [cell.settings for cell in fastweights] == [
        (("model", "fastweights"), ("model.decay", decay)) for decay in (0.9, 0.5)
    ]
    assert list(lstm.points) == [point(1e-3), point(1e-2)]
    assert [lstm.repetition(found) for found in lstm.points[point(1e-2)]] == [(("seed", 0),), (("seed", 1),)]
    assert lstm.runs == runs[:4]


def test_the_runs_of_a_cell_are_in_sweep_order():
    runs = [run(0.5, name=f"{seed}-{lr}", seed=seed, **{"optimizer.lr": lr}) for seed in (1, 0) for lr in (3, 2)]
    (cell,) = cells(runs, SEARCH)
    assert [found.name for found in cell.runs] == ["1-3", "1-2", "0-3", "0-2"]
    assert {key: [found.name for found in runs] for key, runs in cell.points.items()} == {
        point(3): ["1-3", "0-3"],
        point(2): ["1-2", "0-2"],
    }


def test_the_point_with_the_lowest_mean_error_is_chosen():
    points = {point(1): [run(0.2), run(0.6)], point(2): [run(0.3), run(0.3)], point(3): [run(0.5)]}
    assert choose(points, ERROR) == Choice(point(2), 0.3)


def test_the_point_with_the_highest_mean_return_is_chosen():
    values = {1: [-0.2, -0.6], 2: [-0.3, -0.3], 3: [-0.5]}
    points = {point(lr): [run(value, objective=RETURN) for value in some] for lr, some in values.items()}
    assert choose(points, RETURN) == Choice(point(2), -0.3)
    assert choose(points, replace(RETURN, higher_is_better=False)) == Choice(point(3), -0.5)


@pytest.mark.parametrize("objective", [ERROR, RETURN])
def test_the_first_of_tied_points_is_chosen_and_the_others_are_named(objective):
    worse = -1.0 if objective.higher_is_better else 1.0
    values = {1: worse, 2: 0.25, 3: 0.25, 4: 0.25}
    points = {point(lr): [run(value, objective=objective)] for lr, value in values.items()}
    assert choose(points, objective) == Choice(point(2), 0.25, (point(3), point(4)))


@pytest.mark.parametrize("lost", ["diverged", "failed"])
@pytest.mark.parametrize(("objective", "better", "worse"), [(ERROR, 0.1, 0.9), (RETURN, 0.9, 0.1)])
def test_a_point_with_a_lost_run_is_chosen_only_if_there_is_no_other(objective, better, worse, lost):
    good, bad = run(better, objective=objective), run(worse, objective=objective)
    without = run(better, lost, objective)
    nan = run(float("nan"), objective=objective)
    assert choose({point(1): [good, without], point(2): [bad, MISSING]}, objective) == Choice(point(2), worse)
    assert choose({point(1): [good, without], point(2): [MISSING]}, objective) == Choice(point(1), better)
    assert choose({point(1): [without], point(2): [MISSING], point(3): [nan]}, objective) is None


def test_the_objective_of_a_cell_is_that_of_its_finished_runs():
    lost = [run(status="missing", name=str(i), **{"optimizer.lr": i}) for i in range(3)]
    finished = run(2.0, objective=RETURN, name="finished", **{"optimizer.lr": 9})
    diverged = replace(finished, name="diverged", status="diverged")
    assert cells([*lost, finished], SEARCH)[0].objective == RETURN
    assert cells([*lost, diverged], SEARCH)[0].objective == RETURN
    assert cells(lost, SEARCH)[0].objective == ERROR


def two_stages(*first_runs):
    """The second stage after given results of the first: two models, two learning rates, three seeds."""
    runs = [
        Run(name=f"{model}-{lr}-{seed}", settings={"model": model, "optimizer.lr": lr, "seed": seed})
        for model in ("irnn", "lstm")
        for lr in (1, 2)
        for seed in (0, 1, 2)
    ]
    search = replace(SEARCH, two_stage=True)
    first = [found.name for found in first_stage(runs, search)]
    assert first == ["irnn-1-0", "irnn-2-0", "lstm-1-0", "lstm-2-0"]
    assert num_of_second_stage(runs, search) == 4
    results = dict(zip(first, first_runs, strict=True))
    runs = [
        replace(results[old.name], name=old.name, settings=old.settings) if old.name in first else old for old in runs
    ]
    second, notes = second_stage(runs, search)
    return [found.name for found in second], notes


def test_the_second_stage_repeats_the_chosen_points():
    second, notes = two_stages(run(0.5), run(0.25), run(0.1), run(0.2))
    assert second == ["irnn-2-1", "irnn-2-2", "lstm-1-1", "lstm-1-2"]
    assert notes == [
        "model=irnn: chosen optimizer.lr=2 (validation 0.25)",
        "model=lstm: chosen optimizer.lr=1 (validation 0.1)",
    ]


def test_the_second_stage_repeats_the_points_with_the_highest_return():
    second, notes = two_stages(*(run(value, objective=RETURN) for value in (-5.0, -2.5, 10.0, 10.0)))
    assert second == ["irnn-2-1", "irnn-2-2", "lstm-1-1", "lstm-1-2"]
    assert notes == [
        "model=irnn: chosen optimizer.lr=2 (validation -2.5)",
        "model=lstm: chosen optimizer.lr=1 (validation 10, tied with optimizer.lr=2)",
    ]


def test_ties_diverged_runs_and_missing_runs_are_reported():
    second, notes = two_stages(run(0.5), run(0.5), run(0.1, "diverged"), run(0.9))
    assert second == ["irnn-1-1", "irnn-1-2", "lstm-2-1", "lstm-2-2"]
    assert notes[0] == "model=irnn: chosen optimizer.lr=1 (validation 0.5, tied with optimizer.lr=2)"
    second, notes = two_stages(run(0.5), MISSING, run(0.1, "failed"), run(0.1, "diverged"))
    assert second == []
    assert notes == [
        "model=irnn: no second stage until optimizer.lr=2 has ended",
        "model=lstm: no second stage, since no run of the first stage has finished",
    ]


@pytest.mark.parametrize("status", ["missing", "interrupted", "running"])
def test_there_is_no_second_stage_until_the_first_has_ended(status):
    second, notes = two_stages(run(0.5), run(status=status), run(0.1), run(0.2))
    assert second == ["lstm-1-1", "lstm-1-2"]
    assert notes[0] == "model=irnn: no second stage until optimizer.lr=2 has ended"


def test_there_is_no_second_stage_until_the_first_run_of_the_only_point_has_ended():
    runs = [run(status="missing", name=str(seed), seed=seed) for seed in (0, 1)]
    assert second_stage(runs, replace(SEARCH, two_stage=True)) == ([], ["all: no second stage until 0 has ended"])


def test_a_one_stage_search_runs_everything_at_once():
    runs = [run(status="missing", name=str(seed), seed=seed) for seed in range(3)]
    assert first_stage(runs, SEARCH) == runs
