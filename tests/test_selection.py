"""Which settings a run is compared, searched and repeated by, and which grid point counts."""

from src.selection import (
    Choice,
    choose,
    first_stage,
    num_of_second_stage,
    objective_name,
    second_stage,
    split_settings,
    validation_objective,
)

SEARCH = {"grid": ["optimizer.lr"], "repeated": ["seed"], "columns": ["model.hidden_size"], "two_stage": False}


def result(value, status="finished", objective="error"):
    return {"status": status, "metrics": {f"val/{objective}": value, "val/nll": 9.0}, "objective": objective}


def point(lr):
    return (("optimizer.lr", lr),)


def test_a_varied_setting_is_searched_repeated_or_compared():
    settings = {"seed": 1, "model": "lstm", "model.hidden_size": 20, "optimizer.lr": 1e-3, "task": "copying"}
    varied = ["seed", "model", "model.hidden_size", "model.decay", "optimizer.lr"]
    cell, grid_point, repetition = split_settings(settings, varied, SEARCH)
    assert cell == (("model", "lstm"), ("model.hidden_size", 20))
    assert grid_point == (("optimizer.lr", 1e-3),)
    assert repetition == (("seed", 1),)


def test_the_lowest_mean_on_validation_is_chosen():
    results = {point(1): [result(0.2), result(0.6)], point(2): [result(0.3), result(0.3)], point(3): [result(0.5)]}
    assert choose(results) == Choice(point(2), 0.3)


def test_of_equals_the_first_in_the_grid_and_the_others_are_named():
    results = {point(1): [result(0.5)], point(2): [result(0.25)], point(3): [result(0.25)], point(4): [result(0.25)]}
    assert choose(results) == Choice(point(2), 0.25, (point(3), point(4)))


def test_a_point_with_a_diverged_run_loses_to_any_without():
    diverged = result(0.0, "diverged")
    assert choose({point(1): [result(0.1), diverged], point(2): [result(0.9), None]}) == Choice(point(2), 0.9)
    assert choose({point(1): [result(0.1), diverged], point(2): [None]}) == Choice(point(1), 0.1)
    assert choose({point(1): [diverged], point(2): [None], point(3): [result(float("nan"))]}) is None


def test_the_objective_is_the_one_that_the_run_was_selected_on():
    assert objective_name(result(0.5, objective="mse")) == "val/mse"
    assert objective_name({"metrics": {"val/mse": 1.0, "val/nll": 2.0}}) == "val/mse"
    assert objective_name({"metrics": {}}) == "val/error"
    assert validation_objective(result(0.5, objective="mse")) == 0.5
    assert validation_objective(None) is None


def two_stages(*values):
    """A grid of two models, two learning rates and three seeds, with the results of its first stage."""
    runs = {
        f"{model}-{lr}-{seed}": {"model": model, "optimizer.lr": lr, "seed": seed}
        for model in ("irnn", "lstm")
        for lr in (1, 2)
        for seed in (0, 1, 2)
    }
    search = SEARCH | {"two_stage": True}
    first = first_stage(runs, search)
    assert first == ["irnn-1-0", "irnn-2-0", "lstm-1-0", "lstm-2-0"]
    assert num_of_second_stage(runs, search) == 4
    return second_stage(runs, search, dict(zip(first, values, strict=True)))


def test_the_second_stage_repeats_the_chosen_points():
    chosen, notes = two_stages(result(0.5), result(0.25), result(0.1), result(0.2))
    assert chosen == ["irnn-2-1", "irnn-2-2", "lstm-1-1", "lstm-1-2"]
    assert notes == [
        "model=irnn: chosen optimizer.lr=2 (validation 0.25)",
        "model=lstm: chosen optimizer.lr=1 (validation 0.1)",
    ]


def test_a_tie_a_divergence_and_a_missing_run_are_said():
    chosen, notes = two_stages(result(0.5), result(0.5), result(0.1, "diverged"), result(0.9))
    assert chosen == ["irnn-1-1", "irnn-1-2", "lstm-2-1", "lstm-2-2"]
    assert notes[0] == "model=irnn: chosen optimizer.lr=1 (validation 0.5, first of equals: optimizer.lr=2)"
    chosen, notes = two_stages(result(0.5), None, result(0.1, "failed"), result(0.1, "diverged"))
    assert chosen == []
    assert notes == [
        "model=irnn: no second stage before optimizer.lr=2 has ended",
        "model=lstm: no second stage, since no run of the first has finished",
    ]


def test_one_stage_runs_everything():
    runs = {str(seed): {"seed": seed} for seed in range(3)}
    assert first_stage(runs, SEARCH) == ["0", "1", "2"]
