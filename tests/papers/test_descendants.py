"""The claims hold for results that agree with them, and fail for results that contradict them."""

import itertools

import pandas as pd
import pytest
from matplotlib.figure import Figure

from src.papers.descendants import (
    capacity,
    in_context_language,
    induction_heads,
    key_value,
    learning_rates,
    limits,
    load,
    mqar,
    overlapping_keys,
    overwriting,
    reads,
    retrieval,
    selective_copying,
    state_tracking,
    state_tracking_s5,
)
from src.reproduction.base import Evidence

SEEDS = range(3)
COMMON = {"status": "finished", "grid_points": 3, "edge": "", "optimizer.lr": 1e-2, "num_parameters": 4000}


def evidence_of(*cells):
    """Runs with three seeds of each cell, a pair of settings and metrics; the metrics differ slightly between seeds."""
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


def of_capacity(errors, lstm=0.85, longer=(0.4, 0.6)):
    """Evidence on capacity.

    Args:
        errors: {cell: errors with 8, 16 and 32 units}.
        lstm: error of the LSTM.
        longer: errors of fast weights and of the LSTM after more updates.
    """
    short, long = {"trainer.max_updates": 1600}, {"trainer.max_updates": 12_800}
    cells = [
        (
            {"name": capacity.NAMES.get(model, capacity.NAME), "model": model}
            | {"model.hidden_size": size, "state_size": size**2}
            | short,
            recall(error),
        )
        for model, of_model in errors.items()
        for size, error in zip((8, 16, 32), of_model, strict=True)
    ]
    vector = {"model": "lstm", "model.hidden_size": 128, "state_size": 256}
    cells.append((vector | {"name": capacity.VECTOR} | short, recall(lstm)))
    fast = {"model": "fastweights", "model.hidden_size": 16, "state_size": 256}
    for settings, error in zip((fast, vector), longer, strict=True):
        cells.append((settings | {"name": capacity.LONG} | long, recall(error)))
    return evidence_of(*cells)


def test_capacity():
    matrix = (0.2, 0.004, 0.001)
    good = of_capacity({"deltanet": matrix, "gated_deltanet": matrix, "fastweights": (0.8, 0.6, 0.3)})
    assert set(verdicts(capacity.REPRODUCTION, good).values()) == {"reproduced"}
    bad = of_capacity(
        {"deltanet": (0.2, 0.7, 0.8), "gated_deltanet": (1, 1, 1), "fastweights": (0.3, 0.65, 0.95)}, 0.1, (0.7, 0.1)
    )
    assert set(verdicts(capacity.REPRODUCTION, bad).values()) == {"not reproduced"}
    assert len(capacity.table(good)) == 12
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
    """Evidence with {cell: (error on kept keys, error on updated keys)}."""
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
    """Evidence with {(cell, group): errors after 20, 40, 80 and 160 steps}."""
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
    until_20 = of_tracking(dict.fromkeys(pairs, (0.002, 0.7, 0.8, 0.8)))
    for statement, verdict in verdicts(state_tracking.REPRODUCTION, until_20).items():
        assert verdict == ("not reproduced" if "160 steps" in statement else "reproduced"), statement
    assert len(state_tracking.table(good)) == len(pairs)
    assert isinstance(state_tracking.draw(good), Figure)


@pytest.mark.parametrize(
    ("errors", "verdict"),
    [
        ((0.05, 0.9, 0.9, 0.9, 0.9, 0.9), "reproduced"),
        ((0.05, 0.05, 0.05, 0.05, 0.05, 0.05), "not reproduced"),
        ((0.05, 0.05, 0.1, 0.9, 0.9, 0.9), "inconclusive"),  # two of the three seeds also learn at the third rate
        ((0.9, 0.9, 0.9, 0.9, 0.9, 0.9), "inconclusive"),  # no rate leads to recall, so there is no window
    ],
)
def test_learning_rates(errors, verdict):
    rates = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    cells = [
        ({"name": learning_rates.NAME, "model": model, "optimizer.lr": lr, "state_size": 256}, {"error": error})
        for model in ("deltanet", "gated_deltanet", "linear_attention", "fastweights")
        for error, lr in zip(errors, rates, strict=True)
    ]
    evidence = evidence_of(*cells)
    assert set(verdicts(learning_rates.REPRODUCTION, evidence).values()) == {verdict}
    table = learning_rates.table(evidence)
    assert list(table["n"]) == ["3"] * 4
    assert isinstance(learning_rates.draw(evidence), Figure)


def settled(cells, metrics):
    """Evidence from pairs of settings and an error: one value for all metrics, or a dictionary with one for each."""
    return evidence_of(
        *(
            (
                {key.replace("__", "."): value for key, value in settings.items()} | {"state_size": 256},
                {name.removeprefix("test/"): error[name] if isinstance(error, dict) else error for name in metrics},
            )
            for settings, error in cells
        )
    )


RECALL = ("test/error", "test/oldest_error", "test/newest_error")


def outcome(reproduction, cells, metrics=RECALL):
    evidence = settled(cells, metrics)
    assert len(reproduction.table(evidence)) > 0
    assert all(isinstance(draw(evidence), Figure) for draw in reproduction.figures.values())
    return set(verdicts(reproduction, evidence).values())


def test_load():
    ceiling = {"MesaNet": 0.0, "DeltaNet, 3 passes": 0.02, "DeltaNet, 2 passes": 0.05, "DeltaNet": 0.1}
    pairs = list(itertools.product(load.CELLS, load.NUM_PAIRS))
    good = [(load._at(cell, k), ceiling.get(cell, 0.2) + (k > load.SIZE) * 0.01) for cell, k in pairs]
    assert outcome(load.REPRODUCTION, good) == {"reproduced"}
    bad = [(settings, 0.5 - error) for settings, error in good]
    assert outcome(load.REPRODUCTION, bad) == {"not reproduced"}


def test_overlapping_keys():
    pairs = list(itertools.product(overlapping_keys.MODELS, overlapping_keys.KEY_SIZES))
    errors = {"mesanet": 0.0, "deltanet": 0.05, "gated_deltanet": 0.05}
    good = [(overlapping_keys._at(*pair), errors.get(pair[0], 0.2)) for pair in pairs]
    assert outcome(overlapping_keys.REPRODUCTION, good) == {"reproduced"}
    bad = [(settings, 0.5 - error) for settings, error in good]
    assert outcome(overlapping_keys.REPRODUCTION, bad) == {"not reproduced"}


def test_reads():
    good = [(cell, 0.2 if label.startswith("softmax") else 0.5) for label, cell in reads.CELLS.items()]
    good[0] = (good[0][0], 0.97)
    assert outcome(reads.REPRODUCTION, good) == {"reproduced"}
    bad = [(cell, 0.1 * (1 + number)) for number, (cell, _) in enumerate(good)]
    assert outcome(reads.REPRODUCTION, bad) == {"not reproduced"}


def test_selective_copying():
    metrics = ("test/error", "test/exact_error", "test/first_error", "test/last_error")
    errors = {"attention": 0.0, "KDA": 0.0, "Gated DeltaNet": 0.02, "GLA": 0.05, "Mamba-2": 0.06, "DeltaNet": 0.05}
    good = [(cell, errors.get(label, 0.2)) for label, cell in selective_copying.CELLS.items()]
    assert outcome(selective_copying.REPRODUCTION, good, metrics) == {"reproduced"}
    bad = [(settings, 0.5 - error) for settings, error in good]
    assert outcome(selective_copying.REPRODUCTION, bad, metrics) == {"not reproduced"}


def test_retrieval():
    errors = {"DeltaNet": 0.0, "fast weights, delta rule": 0.2, "fast weights (2016)": 0.4, "LSTM": 0.6}
    pairs = list(itertools.product(retrieval.CELLS, retrieval.NUM_PAIRS))
    good = [(retrieval._at(cell, k), errors.get(cell, 0.1)) for cell, k in pairs]
    assert outcome(retrieval.REPRODUCTION, good) == {"reproduced"}
    bad = [(settings, 0.7 - error) for settings, error in good]
    assert outcome(retrieval.REPRODUCTION, bad) == {"not reproduced"}


def test_mqar():
    def evidence(errors, beta, alpha):
        cells = [
            (cell, errors.get(label, 0.9 if "no convolution" in label else 0.5)) for label, cell in mqar.CELLS.items()
        ]
        measured = [
            {"run": f"{8 + (size == 0)}-{seed}", "model.conv_size": size, "position": position}
            | {"beta": beta[position] if size else 0.5, "alpha": alpha if size else 0.5}
            for size in (2, 0)
            for seed in SEEDS
            for position in mqar.POSITIONS
        ]
        return settled(cells, RECALL), pd.DataFrame(measured)

    def found(*given):
        runs, measured = evidence(*given)
        return set(verdicts(mqar.REPRODUCTION, Evidence(runs.runs, runs.curves, measured)).values())

    good = {"DeltaNet": 0.01, "Gated DeltaNet": 0.01, "LSTM": 0.8}
    assert found(good, {"key": 0.1, "value": 0.9, "filler": 0.1, "query": 0.1}, 0.99) == {"reproduced"}
    bad = dict.fromkeys(mqar.CELLS, 0.1) | {"DeltaNet": 0.6, "Gated DeltaNet": 0.6, "fast weights (2016)": 0.5}
    assert found(bad, dict.fromkeys(mqar.POSITIONS, 0.5), 0.5) == {"not reproduced"}


def test_key_value():
    metrics = ("test/squared_error", "test/error")
    pairs = list(itertools.product(key_value.CELLS.items(), key_value.NUM_KEYS))
    capacity_cells = [
        (cell | {"task__num_keys": k}, 0.01 if k <= key_value.FEATURES[label] else 0.3) for (label, cell), k in pairs
    ]
    rules = [
        ({"name": key_value.OVERWRITING, "model": rule, "task__num_keys": k}, error)
        for rule, error in zip(key_value.RULES, (0.2, 0.01), strict=True)
        for k in key_value.NUM_KEYS[:3]
    ]
    good = [*capacity_cells, *rules]
    assert outcome(key_value.REPRODUCTION, good, metrics) == {"reproduced"}
    bad = [(settings, 0.31 - error) for settings, error in good]
    assert outcome(key_value.REPRODUCTION, bad, metrics) == {"not reproduced"}


def test_induction_heads():
    metrics = [f"test/error_at_{t}" for t in induction_heads.LENGTHS]
    cells = induction_heads.CELLS.items()
    good = [(cell, 0.5 if label == "retention" else 0.0) for label, cell in cells]
    assert outcome(induction_heads.REPRODUCTION, good, metrics) == {"reproduced"}
    bad = [(settings, 0.5 - error) for settings, error in good]
    assert outcome(induction_heads.REPRODUCTION, bad, metrics) == {"not reproduced"}
    growing = dict(zip(metrics, (0.0, 0.3, 0.5, 0.7, 0.9), strict=True))
    found = verdicts(induction_heads.REPRODUCTION, settled([(cell, growing) for _, cell in cells], metrics))
    assert list(found.values()) == ["reproduced"] + ["not reproduced"] * 3


def test_in_context_language():
    order = ("attention", "Gated DeltaNet")
    good = [
        (cell, 0.01 + 0.02 * order.index(label) if label in order else 0.1)
        for label, cell in in_context_language.CELLS.items()
    ]
    assert outcome(in_context_language.REPRODUCTION, good, ("test/error",)) == {"reproduced"}
    bad = [(settings, 0.5 - error) for settings, error in good]
    assert outcome(in_context_language.REPRODUCTION, bad, ("test/error",)) == {"not reproduced"}


def test_state_tracking_s5():
    metrics = [f"test/error_at_{t}" for t in state_tracking_s5.LENGTHS]
    cells = state_tracking_s5.CELLS.items()
    good = [(cell, 0.9 if label == "DeltaProduct, 1 factor" else 0.0) for label, cell in cells]
    assert outcome(state_tracking_s5.REPRODUCTION, good, metrics) == {"reproduced"}
    bad = [(settings, 0.9 - error) for settings, error in good]
    assert outcome(state_tracking_s5.REPRODUCTION, bad, metrics) == {"not reproduced"}
    only_after_10 = {metric: 0.9 * (metric != "test/error_at_10") for metric in metrics}
    found = verdicts(state_tracking_s5.REPRODUCTION, settled([(cell, only_after_10) for _, cell in cells], metrics))
    for statement, verdict in found.items():
        assert verdict == ("not reproduced" if "not tracked" in statement else "reproduced"), statement
