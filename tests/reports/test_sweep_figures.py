"""The figures of a folder show the numbers of its runs."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from src.reports.sweep_figures import draw_all
from src.results.runs import load_runs
from src.utils.jsonl import to_line

RETURN = {"objective": "return", "higher_is_better": True}


def draw(folder, **search):
    return draw_all(folder.path, load_runs(folder.path), replace(folder.search, **search))


def write_curve(folder, name, tag, values):
    lines = [to_line({"update": 10 * i, tag: value}) for i, value in enumerate(values)]
    (folder.path / name / "metrics.jsonl").write_text("".join(lines))


def drawn(figure, label):
    """The points of an error-bar series in the only panel of a figure."""
    (axes,) = figure.axes
    (container,) = (container for container in axes.containers if container.get_label() == label)
    return [tuple(point) for point in container.lines[0].get_xydata().tolist()]


def rings(figure):
    (axes,) = figure.axes
    lines = [line for line in axes.lines if line.get_markersize() == 10]
    return [tuple(point) for line in lines for point in line.get_xydata().tolist()]


@pytest.mark.parametrize("higher_is_better", [False, True])
def test_the_best_of_several_points_at_a_number_is_drawn_and_the_choice_is_circled(folder, higher_is_better):
    values = {(1, 0.5): 10.0, (1, 0.9): 20.0, (2, 0.5): 40.0, (2, 0.9): 30.0}
    for (lr, decay), value in values.items():
        name = folder.add("fastweights", lr=lr, decay=decay, val=value, objective="return")
        folder.change(name, higher_is_better=higher_is_better)
    figures = draw(folder, grid=["optimizer.lr", "model.decay"])
    assert set(figures) == {"learning_curves", "against_lr", "against_decay"}
    against_lr, against_decay = figures["against_lr"], figures["against_decay"]
    if higher_is_better:
        assert drawn(against_lr, "fastweights") == [(1, 20), (2, 40)]
        assert drawn(against_decay, "fastweights") == [(0.5, 40), (0.9, 30)]
        assert (rings(against_lr), rings(against_decay)) == ([(2, 40)], [(0.5, 40)])
    else:
        assert drawn(against_lr, "fastweights") == [(1, 10), (2, 30)]
        assert drawn(against_decay, "fastweights") == [(0.5, 10), (0.9, 20)]
        assert (rings(against_lr), rings(against_decay)) == ([(1, 10)], [(0.5, 10)])


def test_a_point_with_a_run_that_was_lost_is_neither_drawn_for_its_number_nor_circled(folder):
    """Nor is it chosen, however good its other runs are."""
    folder.add("fastweights", lr=1, decay=0.5, seed=0, val=10.0)
    folder.add("fastweights", lr=1, decay=0.5, seed=1, status="diverged")
    for seed in (0, 1):
        folder.add("fastweights", lr=1, decay=0.9, seed=seed, val=20.0)
        folder.add("fastweights", lr=2, decay=0.9, seed=seed, val=30.0)
    figures = draw(folder, grid=["optimizer.lr", "model.decay"])
    assert drawn(figures["against_lr"], "fastweights") == [(1, 20), (2, 30)]
    assert rings(figures["against_lr"]) == [(1, 20)]


@pytest.mark.parametrize("values", [(-200.0, -100.0, -1.0), (-3.0, 0.001, 5.0), (0.0, 0.001, 5.0), (2.0, 3.0, 4.0)])
def test_every_point_of_a_figure_is_inside_its_axes(folder, values):
    for lr, value in enumerate(values, start=1):
        for width in (20, 50):
            name = folder.add(lr=lr, width=width, val=value, test=value, **RETURN)
            write_curve(folder, name, "val/return", [math.nan, value, value])
    figures = draw(folder, columns=["seed"])
    assert set(figures) == {"learning_curves", "against_lr", "against_hidden_size"}
    for figure in figures.values():
        (axes,) = figure.axes
        low, high = axes.get_ylim()
        lines = [line for line in axes.lines if line.get_transform() == axes.transData]
        heights = np.concatenate([np.asarray(line.get_ydata(), float) for line in lines])
        heights = heights[np.isfinite(heights)]
        assert len(heights) >= 2
        assert low <= heights.min() <= heights.max() <= high


def test_the_compared_figure_shows_the_test_metric_at_the_chosen_point(folder):
    for width, values in ((20, (-5.0, -2.0)), (50, (3.0, 1.0))):
        for lr, value in enumerate(values, start=1):
            folder.add(width=width, lr=lr, val=value, test=10 * value, **RETURN)
    figure = draw(folder)["against_hidden_size"]
    assert drawn(figure, "lstm") == [(20, -20), (50, 30)]


def test_a_single_run_has_no_spread(folder):
    """Nor does it look as if its spread were 0, next to a number with several runs."""
    for width, seed, test in ((20, 0, 1.0), (20, 1, 3.0), (50, 0, 5.0)):
        folder.add("lstm", width=width, seed=seed, val=1.0, test=test)
    (axes,) = draw(folder)["against_hidden_size"].axes
    (container,) = axes.containers
    _, (low, high), _ = container.lines
    spreads = np.array(high.get_ydata(), float) - np.array(low.get_ydata(), float)
    np.testing.assert_allclose(spreads, [2 * np.std([1.0, 3.0], ddof=1), np.nan])


def test_settings_with_the_same_last_name_have_figures_and_labels_of_their_own(folder):
    names = {}
    for keys in (8, 16):
        for values in (8, 16):
            names[folder.add(test=keys + values, key_size=keys, task_key_size=values)] = values
    for name, values in names.items():
        config = json.loads((folder.path / name / "result.json").read_text())["config"]
        config["model"].pop("task_key_size")
        folder.change(name, config=config | {"task": {"_target_": "src.tasks.key_value.KeyValue", "key_size": values}})
    figures = draw(folder)
    assert set(figures) == {"learning_curves", "against_model.key_size", "against_task.key_size"}
    assert drawn(figures["against_model.key_size"], "task.key_size 16") == [(8, 24), (16, 32)]
    assert figures["against_task.key_size"].axes[0].get_xlabel() == "task.key size"


def test_runs_without_curves_and_numbers_without_a_finished_run_can_be_drawn(folder):
    folder.add("lstm", lr=1, val=0.25)
    for decay in (0.5, 0.9):
        folder.add("fastweights", lr=1, decay=decay, status="diverged")
    folder.expect_all()
    figures = draw(folder, grid=["model", "model.decay"])
    assert drawn(figures["against_decay"], "lstm") == []
    (axes,) = figures["against_decay"].axes
    assert [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "X"] == [[0.5, 0.9], []]
    (axes,) = figures["learning_curves"].axes
    assert axes.get_ylabel() == "validation error"


def test_a_run_without_a_finite_objective_is_not_drawn(folder):
    for lr, val in ((1, 0.25), (2, math.nan), (3, 0.5)):
        folder.add(lr=lr, val=val)
    assert drawn(draw(folder)["against_lr"], "lstm") == [(1, 0.25), (3, 0.5)]
