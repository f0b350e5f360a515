import numpy as np
import pandas as pd
import pytest

from src.reproduction.base import Claim, Evidence, Finding, NotRunError, percent, thousands


def evidence():
    """Two seeds of an LSTM, the first of which stops early, and one fast-weights run."""
    runs = pd.DataFrame(
        {
            "run": ["l0", "l1", "f0"],
            "status": ["finished", "diverged", "finished"],
            "model": ["lstm", "lstm", "fastweights"],
            "model.hidden_size": [50, 50, 20],
            "test/error": [0.02, 0.04, 0.01],
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
    assert evidence().values("test/error", model="lstm", model__hidden_size=50).tolist() == [0.02, 0.04]
    with_null = Evidence(evidence().runs.assign(size=[1.0, None, None]), evidence().curves)
    assert with_null.select(size=np.nan)["run"].tolist() == ["l1", "f0"]
    for missing in ({"model": "gru"}, {"model": "lstm", "model__hidden_size": 20}, {"model__rank": 3}):
        with pytest.raises(NotRunError):
            evidence().select(**missing)


def test_errors_as_text_say_how_many_runs_diverged():
    assert evidence().errors(model="lstm") == "3.00 ± 1.41 %, 1 of 2 diverged"
    assert evidence().errors(model="fastweights") == "1.00 %"


def test_the_first_update_at_a_bound_is_infinite_if_it_is_never_reached():
    assert evidence().updates_until("val/error", 0.4, model="lstm").tolist() == [200, 200]
    assert evidence().updates_until("val/error", 0.1, model="lstm").tolist() == [200, np.inf]


def test_a_run_that_stopped_early_keeps_its_last_value_in_the_mean():
    curve = evidence().mean_curve("val/error", model="lstm")
    assert curve.index.tolist() == [0, 100, 200, 300]
    np.testing.assert_allclose(curve["mean"], [0.9, 0.55, 0.2, 0.1])
    np.testing.assert_allclose(curve["sd"], np.std([[0.9] * 2, [0.5, 0.6], [0.0, 0.4], [0.0, 0.2]], axis=1, ddof=1))


@pytest.mark.parametrize(
    ("model", "verdict"), [("lstm", "not reproduced"), ("fastweights", "reproduced"), ("gru", "not run")]
)
def test_a_claim_is_judged_by_its_test(model, verdict):
    def test(evidence):
        values = evidence.values("test/error", model=model)
        return Finding(percent(values), bool(values.mean() <= 0.01))

    found, measured = Claim("It errs on 1 %.", "Table 1", "at most 1 %", test).judge(evidence())
    assert found == verdict
    assert verdict == "not run" or "%" in measured


def test_numbers_are_formatted_for_readers():
    assert percent(np.array([0.01, 0.03])) == "2.00 ± 1.41 %"
    assert percent(np.array([0.0123])) == "1.23 %"
    assert thousands(np.array([1500.0, 1000.0, 2250.0])) == "1,500 (1,000 to 2,250)"
    assert thousands(np.array([1000.0, np.inf, np.inf])) == "never (1,000 to never)"
    assert thousands(np.array([np.inf])) == "never"
