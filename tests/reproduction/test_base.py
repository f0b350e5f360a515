from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from src.reproduction.base import Claim, Evidence, Finding, NotRunError, chosen_lr, percent, thousands
from src.reproduction.effects import mean


def evidence():
    """Two seeds of an LSTM, the first of which stops early, and one fast-weights run."""
    runs = pd.DataFrame(
        {
            "run": ["l0", "l1", "f0"],
            "status": ["finished", "diverged", "finished"],
            "model": ["lstm", "lstm", "fastweights"],
            "model.hidden_size": [50, 50, 20],
            "test/error": [0.02, 0.021, 0.01],
            "optimizer.lr": [1e-3, 1e-3, 3e-4],
            "grid_points": [4, 4, 3],
            "edge": ["", "", "optimizer.lr"],
        }
    )
    points = {
        "l0": {0: 0.9, 100: 0.5, 200: 0.0},
        "l1": {0: 0.9, 100: 0.6, 200: 0.4, 300: 0.2},
        "f0": {0: 0.9, 100: 0.1},
    }
    curves = pd.DataFrame([(run, *point) for run, curve in points.items() for point in curve.items()])
    return Evidence(runs, curves.set_axis(["run", "update", "val/error"], axis=1))


def test_runs_are_selected_by_their_settings():
    assert evidence().values("test/error", model="lstm", model__hidden_size=50).tolist() == [0.02, 0.021]
    with_null = Evidence(evidence().runs.assign(size=[1.0, None, None]), evidence().curves)
    assert with_null.select(size=np.nan)["run"].tolist() == ["l1", "f0"]
    for missing, says in (
        ({"model": "gru"}, "no run with model=gru"),
        ({"model": "lstm", "model__hidden_size": 20}, "no run with model=lstm, model.hidden_size=20"),
        ({"model__rank": 3}, "no run has model.rank"),
    ):
        with pytest.raises(NotRunError, match=f"^{says}$"):
            evidence().select(**missing)


def test_errors_as_text_say_how_many_runs_diverged():
    assert evidence().errors(model="lstm") == "2.05 ± 0.07 %, 1 of 2 diverged"
    assert evidence().errors(model="fastweights") == "1.00 %"
    diverged = evidence().runs.assign(status="diverged")
    assert Evidence(diverged, evidence().curves).errors(model="lstm") == "diverged at each of 4 grid points"


def test_the_first_update_at_a_bound_is_infinite_if_it_is_never_reached():
    assert evidence().updates_until("val/error", 0.4, model="lstm").tolist() == [200, 200]
    assert evidence().updates_until("val/error", 0.1, model="lstm").tolist() == [200, np.inf]


def test_a_run_that_stopped_early_keeps_its_last_value_in_the_mean():
    curve = evidence().mean_curve("val/error", model="lstm")
    assert curve.index.tolist() == [0, 100, 200, 300]
    np.testing.assert_allclose(curve["mean"], [0.9, 0.55, 0.2, 0.1])
    np.testing.assert_allclose(curve["sd"], np.std([[0.9] * 2, [0.5, 0.6], [0.0, 0.4], [0.0, 0.2]], axis=1, ddof=1))
    status = ["diverged", "finished", "finished"]
    diverged = Evidence(evidence().runs.assign(status=status), evidence().curves).mean_curve("val/error", model="lstm")
    np.testing.assert_allclose(diverged["mean"], [0.9, 0.55, 0.2, 0.2])


@pytest.mark.parametrize(
    ("model", "bound", "verdict"),
    [
        ("lstm", 0.03, "reproduced"),
        ("lstm", 0.021, "inconclusive"),
        ("lstm", 0.01, "not reproduced"),
        ("fastweights", 0.03, "inconclusive"),
        ("gru", 0.03, "not run"),
    ],
)
def test_a_claim_is_judged_by_its_effects(model, bound, verdict):
    def test(evidence):
        values = evidence.values("test/error", model=model)
        return Finding(percent(values), [mean(values).within(most=bound)])

    found = Claim("It errs little.", "Table 1", "mean below the bound", test).judge(evidence())
    assert found.verdict == verdict
    assert verdict == "not run" or found.measured == evidence().errors(model=model).removesuffix(", 1 of 2 diverged")
    assert found.edge == (model == "fastweights"), "its learning rate is at an edge"


def test_an_edge_counts_only_in_the_experiment_that_a_claim_looks_at():
    """The same run can be part of two experiments, with grids of different sizes."""
    edges = {"small": "optimizer.lr", "large": ""}
    runs = pd.concat([evidence().runs.assign(name=name, edge=edge) for name, edge in edges.items()])
    both = Evidence(runs.reset_index(drop=True), evidence().curves)

    def test(evidence):
        return Finding("", [mean(evidence.values("test/error", name=name, model="lstm"))])

    for name in edges:
        assert Claim("", "", "", test).judge(both).edge == bool(edges[name])


@pytest.mark.parametrize("run", ["l0", "f0"])
def test_a_claim_about_measurements_rests_on_the_runs_that_were_measured(run):
    measured = pd.DataFrame({"run": ["l0", "f0"], "kept": [0.1, 0.2]})

    def test(evidence):
        return Finding("", [mean(evidence.select_measured(run=run)["kept"].to_numpy())])

    found = Claim("", "", "", test).judge(replace(evidence(), measured=measured))
    assert found.edge == (run == "f0")


def test_the_length_of_runs_is_that_of_the_longest():
    runs = evidence().runs.assign(**{"trainer.max_updates": [100, 300, 500]})
    assert Evidence(runs, evidence().curves).updates_of(model="lstm") == 300


def test_of_many_effects_those_that_decide_are_shown():
    effects = [mean(np.array([error, error + 0.001]), f"{error:g}").within(most=0.1) for error in np.arange(5) / 25]
    found = Claim("", "", "", lambda evidence: Finding("", effects)).judge(evidence())
    assert found.verdict == "not reproduced"
    assert [text.partition(":")[0] for text in found.effects.split("; ")] == ["0.12", "0.16"]


def test_a_chosen_learning_rate_says_what_it_was_chosen_from():
    assert chosen_lr(evidence().select(model="lstm")) == "0.001 of 4"
    assert chosen_lr(evidence().select(model="fastweights")) == "0.0003 of 3, edge"
    two = evidence().select(model="fastweights").assign(edge="model.decay optimizer.lr")
    assert chosen_lr(two) == "0.0003 of 3, edge, edge of decay"
    fixed = evidence().select(model="lstm").assign(grid_points=1)
    assert chosen_lr(fixed) == "0.001, fixed"


def test_numbers_are_formatted_for_readers():
    assert percent(np.array([0.01, 0.03])) == "2.00 ± 1.41 %"
    assert percent(np.array([0.0123])) == "1.23 %"
    assert thousands(np.array([1500.0, 1000.0, 2250.0])) == "1,500 (1,000 to 2,250)"
    assert thousands(np.array([1000.0, np.inf, np.inf])) == "never (1,000 to never)"
    assert thousands(np.array([np.inf])) == "never"
