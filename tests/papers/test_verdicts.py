"""Our own claims about a paper hold for results that agree with them, and fail for results that contradict them.

The runs are taken from the committed evidence; only their results are replaced.
"""

import math
import re

import pandas as pd
import pytest

from src.config.paths import REFERENCE
from src.reproduction.base import Evidence
from src.reproduction.report import read_evidence
from src.reproduction.reproduce import reproductions

ERROR, UPDATES = "test/error", "updates"
"""The results of runs that a case may replace; any other name is a column of the measurements on networks."""


def of(key, values, otherwise):
    """Let the value of the setting `key` determine the result of a run; `otherwise` for values not listed."""
    return lambda row: values.get(row[key], otherwise)


def always(value):
    return lambda row: value


LAYER_NORM, STEPS, FAST_LR = "model.layer_norm", "model.num_inner_steps", "model.fast_lr"
NORM, WRITE, BOUNDARY = "model.layer_norm_preliminary", "model.write", "model.boundary"
APART = "descendants-fast-weights-apart"


def as_in_paper(row):
    return (row["model.normalized"], row["model.read_weights"]) == ("all", "one")


def is_last_read_before_training(row):
    return (row[STEPS], row["inner_step"], row["weights"]) == (2, 2, "initial")


def is_whole(row):
    return row["name"] == APART and row["model.hidden_size"] == 64


CASES = {
    "ba2016/ablations": {
        "Layer normalization is needed": (ERROR, of(LAYER_NORM, {False: 0.6}, 0.01), always(0.01)),
        "The memory does the work": (ERROR, of(FAST_LR, {0: 0.6}, 0.01), always(0.01)),
        "More inner steps give similar results": (ERROR, always(0.01), of(STEPS, {1: 0.01}, 0.3)),
        "With a weaker memory": (ERROR, of("name", {"ba2016-inner-steps": 0.6}, 0.3), always(0.6)),
        "Performance is robust": (ERROR, always(0.01), always(0.03)),
        "The sustained boundary": (
            UPDATES, of(BOUNDARY, {"identity": 3000}, 1000), of(BOUNDARY, {"identity": 1000}, 3000)
        ),
        "A memory that lacks": (ERROR, of(WRITE, {"late": 0.1}, 0.01), of(WRITE, {"late": 0.01}, 0.1)),
        "Writing the preliminary": (
            ERROR, of(WRITE, {"preliminary": 0.1}, 0.01), of(WRITE, {"preliminary": 0.01}, 0.1)
        ),
    },
    "ba2016/inner_steps": {
        "More inner steps": (ERROR, always(0.01), of(STEPS, {1: 0.01}, 0.3)),
        "As in the paper but": (ERROR, always(0.01), of(STEPS, {1: 0.01}, 0.3)),
        "The second inner step delays": (UPDATES, of(STEPS, {1: 1000}, 4000), always(1000)),
        "Two inner steps start if only": (ERROR, lambda row: 0.6 if as_in_paper(row) else 0.1, always(0.6)),
        "Two inner steps start if the weight": (ERROR, lambda row: 0.6 if as_in_paper(row) else 0.1, always(0.6)),
        "Networks with learned reads": ("error", always(0.9), always(0.0)),
        "Before training, the second read": (
            "kept", lambda row: 0.01 if is_last_read_before_training(row) else 1.0, always(1.0)
        ),
        "Trained with one inner step and η=0.02": ("error", always(0.01), always(0.3)),
        "Trained with one inner step and η=0.5": ("error", always(0.01), always(0.3)),
    },
    "ba2016/preliminary_norm": {
        "Normalizing the preliminary state": (UPDATES, of(NORM, {True: 4000}, 1000), always(1000)),
        "With the norm, the memory outweighs": ("memory_to_input", of(NORM, {True: 10.0}, 1.0), always(1.0)),
        "With the norm, a weaker memory": (UPDATES, of(FAST_LR, {0.5: 4000}, 1000), of(FAST_LR, {0.5: 1000}, 4000)),
        "This explains all of the delay": (UPDATES, always(1000), of(NORM, {True: 4000}, 1000)),
    },
    "ba2016/generalization": {
        "Trained on four pairs": (
            "error", of("model", {"fastweights": 0.1}, 0.5), of("model", {"fastweights": 0.5}, 0.1)
        ),
    },
    "descendants/fast_weights_apart": {
        "Of ": (ERROR, lambda row: 0.1 if is_whole(row) else 0.9, always(0.5)),
        "Without ": (ERROR, lambda row: 0.01 if is_whole(row) else 0.3, always(0.01)),
    },
}  # fmt: skip
"""For each claim, by the start of its statement: what is replaced, results that agree with it, and ones that do not."""
NAMES = [(name, start) for name, of_claims in CASES.items() for start in of_claims]


def with_results(evidence, what, result):
    """The same runs with other results, a little different for each seed."""
    runs, curves, measured = evidence.runs.copy(), evidence.curves, evidence.measured.copy()
    if what == UPDATES:
        curves = pd.concat(
            pd.DataFrame({"run": row["run"], "update": [0, result(row) + 10 * row["seed"]], "val/error": [1.0, 0.0]})
            for _, row in runs.iterrows()
        )
    elif what == ERROR:
        runs[ERROR] = runs["val/error"] = [result(row) + 1e-4 * row["seed"] for _, row in runs.iterrows()]
    else:
        measured[what] = [result(row) * (1 + 1e-3 * (place % 3)) for place, row in measured.iterrows()]
    return Evidence(runs, curves, measured)


@pytest.mark.parametrize(("name", "start"), NAMES)
def test_a_claim_holds_for_what_it_says_and_fails_for_the_opposite(name, start):
    what, good, bad = CASES[name][start]
    evidence = read_evidence(REFERENCE / name)
    claims = [claim for claim in reproductions()[name].claims if claim.statement.startswith(start)]
    assert claims
    for claim in claims:
        assert claim.judge(with_results(evidence, what, good)).verdict == "reproduced", claim.statement
        assert claim.judge(with_results(evidence, what, bad)).verdict == "not reproduced", claim.statement


@pytest.mark.parametrize("name", CASES)
def test_every_claim_is_among_them(name):
    for claim in reproductions()[name].claims:
        assert sum(claim.statement.startswith(start) for start in CASES[name]) == 1, claim.statement


@pytest.mark.parametrize(("soonest", "edge"), [(0.1, False), (0.02, True)])
def test_the_weakest_memory_that_was_tried_is_an_edge(soonest, edge):
    name = "ba2016/preliminary_norm"
    evidence = with_results(read_evidence(REFERENCE / name), UPDATES, of(FAST_LR, {soonest: 1000}, 4000))
    unmarked = Evidence(evidence.runs.assign(edge=""), evidence.curves)
    (claim,) = (one for one in reproductions()[name].claims if one.statement.startswith("With the norm, a weaker"))
    found = claim.judge(unmarked)
    assert (found.verdict, found.edge) == ("reproduced", edge)


COMPUTED = ("within 2 points of the floor", "below the floor of knowing when", "between (3/16) (1 - R/n)")
"""Criteria whose bounds are computed from the task."""
NO_MARGIN = re.compile(
    r"(above|below) 0(?![.\d])|more than 0 points"
    r"|error (is )?higher|lower mean|likelihood .*better|larger|fall|negative"
)
TWO_SIDED = re.compile(r"within|between [\d.(]|on this line")


def spellings(bound, unit):
    """The ways in which a criterion may write a bound other than 0, without its sign."""
    size = abs(bound)
    if unit in ("%", "points"):
        found = {f"{100 * size:g}", f"{100 * size:.2f}", f"{10_000 * size:,.0f} of 10,000"}
    elif unit == "decades":
        found = {f"{10**bound:,g}"}
    else:
        found = {f"{size:g}".replace("e-0", "e-"), f"{size:,.0f}", f"{size:.4f}"} - {"0", "0.0000"}
    if unit == "times":
        found.add(f"{100 * (bound - 1):.0f} % above")
    return found | ({"half"} if size == 0.5 else set())


def is_in(number, text):
    return re.search(rf"(?<![\d.,]){re.escape(number)}(?!\d|[.,]\d)", text)


@pytest.mark.parametrize(
    "name", [name for name, found in reproductions().items() if found.claims and (REFERENCE / name).is_dir()]
)
def test_what_decides_a_claim_is_what_its_criterion_says(name, monkeypatch):
    """Compares the bounds of its effects, their signs, and the confidence level of their intervals with the text."""
    monkeypatch.setattr("src.reproduction.effects.BOOTSTRAPS", 10)
    evidence = read_evidence(REFERENCE / name)
    evidence = Evidence(evidence.runs, evidence.curves.drop_duplicates("run"), evidence.measured)
    for claim in reproductions()[name].claims:
        text = claim.criterion
        for effect in claim.test(evidence).effects:
            bounds = [bound for bound in (effect.least, effect.most) if math.isfinite(bound)]
            assert len(bounds) == (2 if TWO_SIDED.search(text) else 1), text
            assert effect.confidence == (0.98 if "98 % interval" in text else 0.95), text
            if any(computed in text for computed in COMPUTED):
                continue
            for bound in bounds:
                written = [number for number in spellings(bound, effect.unit) if is_in(number, text)]
                assert written if bound else NO_MARGIN.search(text), (text, bound)
                if bound and len(bounds) == 1:
                    by_so_much_lower = "lower" in text and bound == effect.most
                    assert (bound < 0) == (by_so_much_lower or any(f"-{number}" in text for number in written)), text
