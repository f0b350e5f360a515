"""The claims hold for results that are as they say, and fail for results that contradict them."""

import itertools

import pandas as pd
import pytest
from matplotlib.figure import Figure

from src.papers.descendants import capacity, learning_rates, limits, overwriting, state_tracking
from src.reproduction.base import Evidence

SEEDS = range(3)
COMMON = {"status": "finished", "grid_points": 3, "edge": False, "optimizer.lr": 1e-2, "num_parameters": 4000}


def evidence_of(*cells):
    """Three seeds of each cell, whose metrics differ a little."""
    rows = []
    for number, (settings, metrics) in enumerate(cells):
        for seed in SEEDS:
            spread = 1e-3 * (seed - 1)
            values = {f"test/{name}": value + spread for name, value in metrics.items()}
            rows.append(COMMON | {"run": f"{number}-{seed}", "seed": seed} | settings | values)
    return Evidence(pd.DataFrame(rows), pd.DataFrame())


def verdicts(reproduction, evidence):
    return {claim.statement: claim.judge(evidence).verdict for claim in reproduction.claims}


def recall(error):
    return {"error": error, "oldest_error": error, "newest_error": error}


def of_capacity(errors, lstm=0.85):
    """{cell: errors with 8, 16 and 32 units}."""
    cells = [
        (
            {"name": capacity.NAMES.get(model, capacity.NAME), "model": model}
            | {"model.hidden_size": size, "state_size": size**2},
            recall(error),
        )
        for model, of_model in errors.items()
        for size, error in zip((8, 16, 32), of_model, strict=True)
    ]
    vector = {"name": capacity.VECTOR, "model": "lstm", "model.hidden_size": 128, "state_size": 256}
    return evidence_of(*cells, (vector, recall(lstm)))


def test_capacity():
    matrix = (0.2, 0.004, 0.001)
    good = of_capacity({"deltanet": matrix, "gated_deltanet": matrix, "fastweights": (0.8, 0.6, 0.3)})
    assert set(verdicts(capacity.REPRODUCTION, good).values()) == {"reproduced"}
    bad = of_capacity({"deltanet": (0.2, 0.7, 0.8), "gated_deltanet": (1, 1, 1), "fastweights": (0.3, 0.65, 0.95)}, 0.1)
    assert set(verdicts(capacity.REPRODUCTION, bad).values()) == {"not reproduced"}
    assert len(capacity.table(good)) == 10
    assert isinstance(capacity.draw(good), Figure)


def of_limits(error_of):
    cells = []
    for values in itertools.product(*(factor[:2] for factor in limits.FACTORS.values())):
        cell = dict(zip(limits.FACTORS, values, strict=True))
        changes = [key for key in cell if cell[key] != limits.PUBLISHED[key]]
        settings = {"name": limits.NAME, "model": "fastweights", "state_size": 272} | cell
        cells.append((settings, recall(error_of(changes))))
    return evidence_of(*cells)


def test_limits():
    every = of_limits(lambda changes: 0.8 - 0.15 * len(changes))
    assert set(verdicts(limits.REPRODUCTION, every).values()) == {"reproduced"}
    none = of_limits(lambda changes: 0.5)
    assert set(verdicts(limits.REPRODUCTION, none).values()) == {"not reproduced"}
    only_keys = of_limits(lambda changes: 0.2 if "model.association" in changes else 0.8)
    found = verdicts(limits.REPRODUCTION, only_keys)
    assert [verdict for statement, verdict in found.items() if "keys and values" in statement] == ["reproduced"] * 2
    assert [verdict for statement, verdict in found.items() if "delta rule" in statement] == ["not reproduced"] * 2
    shown = limits.table(every)
    assert len(shown) == 16
    assert shown["changes"].iloc[0] == "as published"
    assert isinstance(limits.draw(every), Figure)


def of_overwriting(errors):
    """{cell: errors on kept and on updated keys}."""
    return evidence_of(
        *(
            (
                {"name": overwriting.NAME, "model": model, "state_size": 256},
                {"error": (kept + updated) / 2, "kept_error": kept, "updated_error": updated},
            )
            for model, (kept, updated) in errors.items()
        )
    )


def test_overwriting():
    delta = {"deltanet": (0.01, 0.01), "gated_deltanet": (0.02, 0.01)}
    good = of_overwriting(delta | {"linear_attention": (0.01, 0.5), "retnet": (0.3, 0.02)})
    assert set(verdicts(overwriting.REPRODUCTION, good).values()) == {"reproduced"}
    bad = of_overwriting({"deltanet": (0.01, 0.5), "gated_deltanet": (0.4, 0.01)} | {"retnet": (0.1, 0.1)})
    assert list(verdicts(overwriting.REPRODUCTION, bad).values()) == ["not reproduced"] * 2 + [
        "not run",
        "not reproduced",
    ]
    assert len(overwriting.table(good)) == 4


def of_tracking(errors):
    """{(cell, group): errors after 20, 40, 80 and 160 steps}."""
    cells = []
    for (cell, group), by_length in errors.items():
        settings = {key.replace("__", "."): value for key, value in state_tracking.CELLS[cell].items()}
        names = [f"error_at_{t}" for t in state_tracking.LENGTHS]
        cells.append((settings | {"task.group": group, "state_size": 256}, dict(zip(names, by_length, strict=True))))
    return evidence_of(*cells)


def test_state_tracking():
    solved, chance = (0.002, 0.003, 0.004, 0.005), (0.6, 0.8, 0.8, 0.8)
    fails = {("DeltaNet, β ≤ 1", "parity"), ("DeltaNet, β ≤ 1", "S3"), ("DeltaNet, β ≤ 2", "S3")}
    pairs = list(itertools.product(state_tracking.CELLS, state_tracking.CHANCE))
    good = of_tracking({pair: chance if pair in fails else solved for pair in pairs})
    assert set(verdicts(state_tracking.REPRODUCTION, good).values()) == {"reproduced"}
    bad = of_tracking({pair: solved if pair in fails else chance for pair in pairs})
    assert set(verdicts(state_tracking.REPRODUCTION, bad).values()) == {"not reproduced"}
    assert len(state_tracking.table(good)) == len(pairs)
    assert isinstance(state_tracking.draw(good), Figure)


@pytest.mark.parametrize(("num_good", "verdict"), [(0, "reproduced"), (6, "not reproduced"), (3, "inconclusive")])
def test_learning_rates(num_good, verdict):
    rates = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    cells = [
        (
            {"name": learning_rates.NAME, "model": model, "optimizer.lr": lr, "state_size": 256},
            {"error": 0.05 if number < num_good else 0.9},
        )
        for model in ("deltanet", "gated_deltanet", "fastweights")
        for number, lr in enumerate(rates)
    ]
    evidence = evidence_of(*cells)
    assert set(verdicts(learning_rates.REPRODUCTION, evidence).values()) == {verdict}
    assert len(learning_rates.table(evidence)) == 3
    assert isinstance(learning_rates.draw(evidence), Figure)
