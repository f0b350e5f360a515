"""The claims about Catch hold for the printed curves, and fail for curves that contradict them."""

import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from src.config.compose import compose
from src.papers.ba2016 import figure5
from src.papers.ba2016.figure5 import MODELS, PRINTED, REPRODUCTION, VISIBLE, best_trials
from src.reproduction.base import Evidence
from src.reproduction.reproduce import commands_of
from src.running.build import check
from src.sweeping.search import split

ONE_X = 100
"""Updates per unit of the printed x axis."""


def as_printed(swapped=False):
    """Trials and seeds whose returns follow the printed curves, each slightly later than the one before."""
    rows, curves = [], []
    other = {"fastweights": "irnn", "irnn": "fastweights", "lstm": "lstm"}
    for size, printed in PRINTED.items():
        for name in (f"ba2016-figure5-search-{size}", "ba2016-figure5" + "-24" * (size == 24)):
            for model in MODELS:
                for number in range(5):
                    run = f"{name}-{size}-{model}-{number}"
                    x = np.arange(0, printed.index[-1] + 0.25, 0.25)
                    points = printed[other[model] if swapped else model].dropna()
                    returns = np.interp(x, points.index * (1 + 0.01 * number), points)
                    curves.append(pd.DataFrame({"run": run, "update": x * ONE_X, "val/return": returns}))
                    row = {"name": name, "run": run, "status": "finished", "model": model, "task.size": size}
                    row |= {
                        "seed": number,
                        "test/return": returns[-1],
                        "edge": "",
                        "optimizer.lr": 1e-3 * (number + 1),
                    }
                    row |= {"model.fast_lr": 0.1, "model.decay": 0.9, "model.num_inner_steps": 1.0}
                    rows.append(row | {"trainer.max_updates": x[-1] * ONE_X})
    return Evidence(pd.DataFrame(rows), pd.concat(curves, ignore_index=True))


def verdicts(evidence):
    return [claim.judge(evidence).verdict for claim in REPRODUCTION.claims]


def test_the_claims_hold_for_the_printed_curves():
    assert verdicts(as_printed()) == 8 * ["reproduced"] + 3 * ["not run"]  # the last three are about the cell


def test_the_claims_fail_if_fast_weights_and_the_rnn_change_places():
    found = verdicts(as_printed(swapped=True))
    assert found[:8] == 8 * ["not reproduced"]


@pytest.mark.parametrize(("norm", "memory"), [(True, True), (False, False)])
def test_the_claims_on_the_cell_follow_from_returns(norm, memory):
    evidence = as_printed()
    slow, fast = (-0.5, 0.9) if norm else (0.9, -0.5)
    rows = []
    for seed in range(3):
        common = {"status": "finished", "model": "fastweights", "edge": "", "seed": seed, "trainer.max_updates": 100}
        for on, end in ((True, slow), (False, fast)):
            row = {"name": "ba2016-figure5-norm", "model.fast_lr": 0.0, "model.layer_norm": on, "run": f"n{on}{seed}"}
            rows.append(common | row | {"test/return": end + 0.01 * seed})
        row = {"name": "ba2016-figure5-fast-lr", "model.fast_lr": 0.0, "run": f"m{seed}"}
        rows.append(common | row | {"test/return": (-0.5 if memory else 0.95) + 0.01 * seed})
    sooner = evidence.curves[evidence.curves["run"].str.startswith("ba2016-figure5-16-fastweights")]
    sooner = sooner.assign(run="scale-" + sooner["run"], update=sooner["update"] * (0.5 if norm else 2))
    for run in sooner["run"].unique():
        rows.append(common | {"name": "ba2016-figure5-scale", "run": run})
    evidence = Evidence(
        pd.concat([evidence.runs, pd.DataFrame(rows)], ignore_index=True), pd.concat([evidence.curves, sooner])
    )
    expected = [norm, norm, memory]  # the norm slows, the scale slows, the memory helps
    assert [verdict == "reproduced" for verdict in verdicts(evidence)[-3:]] == expected


def test_the_table_has_the_printed_crossings_and_ours():
    evidence = as_printed()
    evidence.curves.loc[evidence.curves["run"].str.startswith("ba2016-figure5-16"), "update"] *= 2  # not in the trials
    of_lstm = evidence.runs["run"] == "ba2016-figure5-16-lstm-0"
    evidence.runs.loc[of_lstm, ["status", "test/return"]] = "diverged", -1.0
    rows = figure5.table(evidence).set_index(["N, M", "model", "runs"])
    # the curves have a point every 0.25, so that they reach 0.9 at 3.5; an update is 64 episodes of 15 actions
    row = rows.loc[("16, 3", "Fast weights", "5 seeds")]
    assert row["paper, x at 0.9"] == "3.3"
    assert row["to 0.9"] == f"{2 * 3.5 * ONE_X * 64 * 15 / 1e6:.2f}"
    assert rows.loc[("16, 3", "Fast weights", "best 5 of 5 trials"), "to 0.9"] == f"{3.5 * ONE_X * 64 * 15 / 1e6:.2f}"
    shown = rows.loc[("16, 3", "LSTM", "5 seeds"), ["test return", "diverged"]].tolist()
    assert shown == [rows.loc[("16, 3", "LSTM", "best 5 of 5 trials"), "test return"], "1"]
    assert rows.loc[("24, 5", "Fast weights", "5 seeds"), "paper, x at 0.9"] == "13.1"
    assert rows.loc[("24, 5", "RNN", "best 5 of 5 trials"), "to 0.9"] == "never"
    assert rows.loc[("24, 5", "RNN", "5 seeds"), "paper, x at 0.9"] == "never"


def test_the_best_trials_are_those_with_the_largest_return_on_the_way():
    evidence = as_printed()
    best = best_trials(evidence, 16, "lstm")
    assert best["run"].str[-1].tolist() == ["0", "1", "2", "3", "4"]  # each is slightly later than the one before


def test_the_figure_is_drawn():
    figure = REPRODUCTION.figures["figure5"](as_printed())
    assert isinstance(figure, Figure)
    assert len(figure.axes[0].lines) >= 2 * len(MODELS)


@pytest.mark.parametrize("size", VISIBLE)
def test_each_core_gets_a_search_with_the_same_number_of_trials(size):
    experiment = f"ba2016/figure5/search_{size}"
    commands = commands_of(REPRODUCTION, experiment, "full")
    assert len(commands) == len(MODELS)
    for command, model in zip(commands, MODELS, strict=True):
        assert command[0] == sys.executable
        assert command[1].endswith("scripts/search.py")
        assert command[command.index("--trials") + 1] == str(REPRODUCTION.searches.trials)
        fixed, space = split(command[command.index(f"experiment={experiment}") :])
        config = compose(*fixed)
        check(config)
        assert config.model._target_.split(".")[2] == model
        assert (config.task.size, config.task.visible_frames) == (size, VISIBLE[size])
        assert set(space) == set(figure5.SEARCHED[model])
    (sweep,) = commands_of(REPRODUCTION, "ba2016/figure5/seeds", "full")
    assert sweep[1:5] == ["-P", "-m", "src.train", "-m"]
    quick = commands_of(REPRODUCTION, experiment, "quick")
    assert quick[0][quick[0].index("--trials") + 1] == str(REPRODUCTION.searches.quick_trials)
    assert f"name=ba2016-figure5-search-{size}-quick" in quick[0]
