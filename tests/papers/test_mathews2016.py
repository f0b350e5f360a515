"""The claims hold for the results in the report and its logs, and fail for results that contradict them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from src.models.bilinear import Bilinear
from src.models.rnn import RNN
from src.papers.mathews2016 import (
    addition,
    binding,
    cells,
    hadamard,
    random_tensor,
    rank_sweep,
    scalar_multiplication,
    stability,
    stabilizers,
)
from src.reproduction.base import Evidence
from src.reproduction.reproduce import configuration, reproductions

MODULES = [
    addition,
    binding,
    cells,
    hadamard,
    random_tensor,
    rank_sweep,
    scalar_multiplication,
    stability,
    stabilizers,
]
SEEDS = range(5)
A_LITTLE, A_LOT = 0.02, 0.4
"""Spreads between seeds; with the second, five seeds cannot decide a claim."""


def around(value, seed, spread=A_LITTLE):
    """The value for seed 2; each seed above or below adds or subtracts the fraction `spread` of it."""
    return value * (1 + spread * (seed - 2))


def evidence_of(rows, curves=(), measured=()):
    """Evidence from rows of runs, curves and rows of measurements; no setting is at an edge of its grid."""
    runs = pd.DataFrame(rows, columns=None if rows else ["run", "model"]).assign(
        edge="", **{"trainer.max_updates": 2000}
    )
    return Evidence(runs, pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(), pd.DataFrame(measured))


def verdicts(module, evidence):
    return [claim.judge(evidence)[0] for claim in module.REPRODUCTION.claims]


def added(exchange=None, spread=A_LITTLE, later=1):
    """Runs whose errors fall below 0.01 at the author's updates, or `later` times as late."""
    rows, curves = [], []
    for (model, length), (error, update) in addition.PRINTED.items():
        name = addition.LONG if length >= 5000 else addition.TABLE
        for seed in SEEDS:
            run = f"{model}-{length}-{seed}"
            row = {"run": run, "name": name, "model": (exchange or {}).get(model, model), "seed": seed}
            row |= {"task.sequence_length": length, "test/mse": around(error, seed), "seconds": 60.0}
            row |= {"optimizer.lr": 0.01, "grid_points": 4, "status": "diverged" if model == "irnn" else "finished"}
            rows.append(row)
            values = [0.17, 0.17, 0.17] if update is None else [0.17, 0.009, error]
            first = round(around(later * (update or 500), seed, spread))
            curves.append(pd.DataFrame({"run": run, "update": [0, first, 2 * max(first, 900)], "val/mse": values}))
    return evidence_of(rows, curves)


def test_the_authors_numbers_of_addition_satisfy_the_claims_and_exchanged_ones_do_not():
    assert verdicts(addition, added()) == ["reproduced"] * 6
    assert verdicts(addition, added(spread=0.4, later=2.2))[:2] == ["inconclusive", "inconclusive"]
    late = addition.REPRODUCTION.claims[0].judge(added(later=3)).measured
    assert late == "CP gate, T=250: 0 of 5, at update 1,980 (1,901 to 2,059)"
    exchanged = {"cp_gate": "lstm", "lstm": "cp_gate"}
    assert verdicts(addition, added(exchanged))[:1] == ["not reproduced"]
    assert verdicts(addition, added(exchanged))[2] == "not reproduced"
    assert verdicts(addition, added({"cp_gate": "gru", "gru": "cp_gate"}))[3:5] == ["not reproduced"] * 2
    table = addition.table(added()).set_index(["T", "model"])
    row = table.loc[("250", "CP gate")]
    assert (row["author, error"], row["update below 0.01: median (range)"]) == ("0.0015", "660 (634 to 686)")
    assert (row["lr"], row["test error"]) == ("0.01 of 4", "0.0015 ± 0.0000")
    assert table.loc[("250", "IRNN"), "test error"] == "median 0.1640, 5 of 5 diverged"
    assert table.loc[("5,000", "GRU"), "author, update"] == "never"


def bound(factor, spread=A_LITTLE):
    """Runs whose error is a multiple of the floor of knowing when, not what; the error of the GRU is 10 % larger."""
    rows = [
        {"run": f"{model}-{k}-{seed}", "name": binding.NAME, "model": model, "task.num_items": k, "seed": seed}
        | {"test/nats": around(factor * binding.floor(k) * (1.1 if model == "gru" else 1), seed, spread)}
        | {"test/error": 0.1, "optimizer.lr": 0.01, "grid_points": 1, "num_parameters": 1000}
        for model in binding.MODELS
        for k in binding.ITEMS
        for seed in SEEDS
    ]
    return evidence_of(rows)


def test_a_network_remembers_if_it_is_below_the_floor_of_knowing_when():
    assert verdicts(binding, bound(0.5)) == ["reproduced"] * 6
    assert verdicts(binding, bound(1.05)) == ["not reproduced"] * 3 + ["reproduced"] * 3
    assert verdicts(binding, bound(0.9, A_LOT)) == ["inconclusive"] * 6
    assert round(binding.floor(1), 3) == 5.545  # 8 ln 2, for a pattern of 8 bits
    table = binding.table(bound(0.5)).set_index(["K", "model"])
    assert table.loc[("2", binding.WHEN), "nats"] == f"{binding.floor(2):.2f}"
    assert table.loc[("1", "CP gate"), "nats"] == "2.77 ± 0.09"


def multiplied(above=0.0, spread=0.0):
    """Runs on the line of least error, or above it; tensor trains are slightly lower, CP without momentum is higher."""
    rows = []
    for name, form, off in (
        (hadamard.MAIN, "cp", above),
        (hadamard.MAIN, "tensor_train", above - 5e-4),
        (hadamard.MOMENTUM, "cp", above + 0.01),
    ):
        for rank in hadamard.RANKS:
            for seed in range(3):
                apart = spread + (1e-5 if rank < hadamard.SIZE else 0)
                error = max(hadamard.floor(rank) + off + apart * (seed - 1), 1e-13)
                rows.append(
                    {"run": f"{name}-{form}-{rank}-{seed}", "name": name, "model.rank": rank, "seed": seed}
                    | {"model.form": form if name == hadamard.MAIN else None, "test/mse": error}
                )
    return evidence_of(rows)


def test_errors_on_the_line_of_least_error_satisfy_the_claims():
    assert verdicts(hadamard, multiplied()) == ["reproduced"] * 5
    assert verdicts(hadamard, multiplied(0.01))[:2] == ["not reproduced", "not reproduced"]
    assert verdicts(hadamard, multiplied(-0.01))[1] == "not reproduced"
    assert verdicts(hadamard, multiplied(spread=0.02)) == ["inconclusive"] * 5
    table = hadamard.table(multiplied()).set_index(["form", "R"])
    assert table.loc[("CP", "10"), "author, n=100"] == "0.0945"
    assert table.loc[("CP", "10"), "least of CP"] == "0.09375"  # (3/16) (1 - R/n)
    hadamard.draw(multiplied())


def measured(slope=1.0, gate=-0.5, spread=A_LITTLE):
    """Exponents that are linear in the logarithm of the scale, and the exponent of the CP gate."""
    rows = [
        {"run": f"{model}-{seed}", "model": model, "seed": seed, "scale": scale}
        | {"exponent": around(gate, seed, spread) if model == "cp_gate" else around(0.05, seed) + slope * np.log(scale)}
        | {"log_size": 0.1 if model == "cp_gate" else 200 * (around(0.05, seed, spread) + slope * np.log(scale))}
        for model in stability.MODELS
        for scale in stability.SCALES
        for seed in SEEDS
    ]
    return evidence_of([], measured=rows)


def test_exponents_on_a_line_satisfy_the_claims_about_products():
    assert verdicts(stability, measured()) == ["reproduced"] * 4
    assert verdicts(stability, measured(slope=0.0))[0] == "not reproduced"
    assert verdicts(stability, measured(gate=0.1))[3] == "not reproduced"
    assert verdicts(stability, measured(spread=1.0))[1] == "inconclusive"
    assert verdicts(stability, measured(gate=0.1, spread=1.0))[3] == "inconclusive"
    assert len(stability.table(measured())) == len(stability.MODELS)
    stability.draw(measured())


def test_the_exponent_of_a_product_of_equal_matrices_is_the_logarithm_of_their_spectral_radius():
    torch.manual_seed(0)
    x_BTX = torch.randn(1, 1, 4, dtype=torch.float64).expand(2, 300, 4)
    core = Bilinear(4, hidden_size=4, form="full").double()
    with torch.no_grad():
        W_HH = torch.randn(4, 4, dtype=torch.float64)
        M_JI = W_HH @ W_HH.t() / 10
        core.term.map.W_IJK.zero_()[:, :, 0] = M_JI.t() / x_BTX[0, 0, 0]
    exponent, log_size = stability.exponent_of(core.requires_grad_(False), x_BTX)
    growth = float(torch.linalg.eigvalsh(M_JI)[-1].log())
    assert exponent == pytest.approx(growth, abs=0.01)
    assert log_size / 299 == pytest.approx(growth, abs=0.02)


def test_the_exponent_of_a_scaled_orthogonal_network_is_the_logarithm_of_its_scale():
    core = RNN(4, hidden_size=6, nonlinearity="linear", recurrent_scale=0.9).double()
    exponent, _ = stability.exponent_of(core.requires_grad_(False), torch.randn(3, 150, 4, dtype=torch.float64))
    assert exponent == pytest.approx(np.log(0.9), abs=1e-6)


def test_exponents_are_measured_on_the_initial_weights(train, monkeypatch):
    short = ["task.sequence_length=60", "seed=1", "model=cp_gate"]
    assert train("experiment=mathews2016/stability", *short).status == 0
    (path,) = Path("outputs/mathews2016-stability").glob("*/result.json")
    runs = pd.DataFrame([{"run": path.parent.name, "model": "cp_gate", "seed": 1}])
    found = stability.measure(path.parents[1], runs)
    assert found["scale"].tolist() == list(stability.SCALES)
    assert found[["exponent", "log_size"]].notna().all().all()
    assert (found["exponent"] < 0).all()
    assert json.loads(path.read_text())["config"]["optimizer"]["lr"] == 0


def recovered(factor, spread=1e-3):
    """Learned tensors with a multiple of the computed error, almost 0 for a tensor train of the true rank, 5."""
    rows = [
        {"run": f"{form}-{rank}-{seed}", "optimizer": "sgd", "form": form, "rank": rank, "seed": seed}
        | {"computed": around(1 / rank, seed, 0.1)}
        | {
            "learned": around(1e-9, seed)
            if (form, rank) == ("tensor_train", 5)
            else around(around(factor / rank, seed, 0.1), seed, spread)
        }
        for form in random_tensor.FORMS
        for rank in random_tensor.RANKS
        for seed in SEEDS
    ]
    runs = [
        {"run": row["run"], "name": random_tensor.MAIN, "model.form": row["form"], "model.rank": row["rank"]}
        | {"optimizer.lr": 0.1, "grid_points": 3}
        for row in rows
    ]
    return evidence_of(runs, measured=rows)


def test_a_tensor_is_recovered_if_its_error_is_that_of_the_computed_decomposition():
    assert verdicts(random_tensor, recovered(1.0)) == ["reproduced"] * 3
    assert verdicts(random_tensor, recovered(1.1)) == ["reproduced", "not reproduced", "not reproduced"]
    assert verdicts(random_tensor, recovered(1.0, A_LOT)) == ["reproduced", "inconclusive", "inconclusive"]
    table = random_tensor.table(recovered(1.0)).set_index(["form", "R"])
    row = table.loc[("tensor train", "5")]
    assert row[["computed", "momentum", "momentum, lr"]].tolist() == ["0.2000", "1e-09", "0.1 of 3"]


def test_a_run_that_learned_a_tensor_is_compared_with_its_decomposition(train):
    pytest.importorskip("tensorly")
    tiny = ["task.vector_size=6", "model.hidden_size=6", "task.rank=2", "task.val_size=50", "task.test_size=50"]
    short = ["trainer.max_updates=2", "model.form=tensor_train", "model.rank=2", "optimizer.lr=0.1", "seed=1"]
    assert train("experiment=mathews2016/random_tensor", *tiny, *short).status == 0
    (path,) = Path("outputs/mathews2016-random-tensor").glob("*/result.json")
    (found,) = random_tensor.measure(path.parents[1], pd.DataFrame([{"run": path.parent.name}])).to_dict("records")
    assert found["computed"] < 1e-8
    assert found["learned"] > 0.1
    assert (found["optimizer"], found["form"], found["rank"]) == ("sgd", "tensor_train", 2)


def swept(author, other, spread=A_LITTLE, solved=5):
    """Runs that solve the task, with rank 64 at the given updates and with lower ranks at update 100.

    With rank 1, only the first `solved` seeds do.
    """
    rows, curves = [], []
    for init, last in (("mathews2016", author), ("rank_independent", other)):
        for components in rank_sweep.RANKS:
            for seed in SEEDS:
                run = f"{init}-{components}-{seed}"
                settings = {"model.init": init, "model.rank": components, "seed": seed, "test/mse": 0.001}
                rows.append({"run": run} | settings)
                update = round(around(last if components == 64 else 100, seed, spread))
                error = 0.005 if components > 1 or seed < solved else 0.05
                curves.append(pd.DataFrame({"run": run, "update": [0, update], "val/mse": [0.17, error]}))
    return evidence_of(rows, curves)


def test_the_rank_is_blamed_only_if_the_initialization_is_not():
    assert verdicts(rank_sweep, swept(200, 100)) == ["reproduced", "reproduced"]
    assert verdicts(rank_sweep, swept(200, 200)) == ["not reproduced", "reproduced"]
    assert verdicts(rank_sweep, swept(100, 100)) == ["not reproduced", "reproduced"]
    assert verdicts(rank_sweep, swept(200, 100, A_LOT)) == ["inconclusive", "reproduced"]
    assert verdicts(rank_sweep, swept(200, 100, solved=4))[1] == "inconclusive"
    assert verdicts(rank_sweep, swept(200, 100, solved=0))[1] == "not reproduced"
    table = rank_sweep.table(swept(200, 100)).set_index("R")
    assert table.loc["64", "of the author: update below 0.01, median (range)"] == "200 (192 to 208)"


def extrapolated(other, spread=A_LITTLE, inside=1e-4):
    """A bilinear map that multiplies, and networks with error `inside` in the training range and `other` beyond it."""
    rows = [
        {"run": f"{model}-{seed}", "model": model, "scale": scale}
        | {"error": around(1e-6 if model == "bilinear" else inside if scale == 1 else other, seed, spread)}
        for model in scalar_multiplication.MODELS
        for scale in scalar_multiplication.SCALES
        for seed in SEEDS
    ]
    return evidence_of([], measured=rows)


def test_only_the_bilinear_map_extrapolates_if_no_other_network_does():
    assert verdicts(scalar_multiplication, extrapolated(0.1)) == ["reproduced", "reproduced"]
    assert verdicts(scalar_multiplication, extrapolated(1e-4)) == ["reproduced", "not reproduced"]
    assert verdicts(scalar_multiplication, extrapolated(0.1, inside=0.1)) == ["not reproduced", "reproduced"]
    assert verdicts(scalar_multiplication, extrapolated(0.015, A_LOT)) == ["reproduced", "inconclusive"]
    assert len(scalar_multiplication.table(extrapolated(0.1))) == len(scalar_multiplication.MODELS)


def compared(ours, spread=A_LITTLE):
    """Networks of equal size: fast weights leave the share `ours` of the floor, all others half of it.

    The bilinear network diverges.
    """
    rows, runs = [], []
    for task in cells.TASKS:
        for model in (cells.OURS, *cells.COMPARED, "bilinear"):
            for seed in range(3):
                run = f"{task}-{model}-{seed}"
                error = np.nan if model == "bilinear" else around(ours if model == cells.OURS else 0.5, seed, spread)
                status = "diverged" if model == "bilinear" else "finished"
                rows.append({"run": run, "model": model, "seed": seed, "task": task, "share": error, "status": status})
                runs.append({"run": run, "model": model, "num_parameters": 3000})
    return evidence_of(runs, measured=rows)


def test_a_memory_helps_on_a_task_if_every_other_cell_leaves_more_of_the_error():
    assert set(verdicts(cells, compared(0.1))) == {"reproduced"}
    assert set(verdicts(cells, compared(1.0))) == {"not reproduced"}
    assert set(verdicts(cells, compared(0.45, A_LOT))) == {"inconclusive"}
    table = cells.table(compared(0.1)).set_index("model")
    assert table.index[0] == "`fastweights`"
    assert table.loc["`bilinear`", "copying"] == "diverged (n=3)"
    evidence = compared(0.1)
    evidence.runs.loc[evidence.runs["run"] == "copying-gru-0", "edge"] = "optimizer.lr"
    assert cells.table(evidence).set_index("model").loc["`gru`", "copying"].endswith("(n=3, edge)")
    figure = cells.draw(compared(0.1))
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert len(shown) == len(cells.TASKS) * 7
    assert {"div.", "49"} <= set(shown)


def test_the_share_of_a_run_is_its_error_relative_to_the_last_floor_of_its_task(train):
    short = [
        "task.val_size=50",
        "task.test_size=50",
        "trainer.max_updates=2",
        "model=gru",
        "seed=1",
        "optimizer.lr=1e-2",
    ]
    assert train("experiment=mathews2016/cells/addition", *short).status == 0
    (path,) = Path("outputs/mathews2016-cells-addition").glob("*/result.json")
    result = json.loads(path.read_text())
    runs = pd.DataFrame([{"run": path.parent.name, "model": "gru", "seed": 1}])
    (found,) = cells.measure(path.parents[1], runs).to_dict("records")
    assert found["task"] == "addition"
    assert found["share"] == pytest.approx(result["metrics"]["test/mse"] * 12)  # the floor is 1/12
    assert abs(result["num_parameters"] - 3000) < 200


def stabilized(clipped, stable, spread=A_LITTLE, diverged=0, longer=None):
    """Networks whose error is multiplied by `clipped` with gradient clipping, and by `stable` with the stabilizer.

    On sequences longer than in training, the stabilizer multiplies it by `longer` if that is given.
    """
    runs, rows = [], []
    for model in stabilizers.MODELS:
        for number, (clip, weight) in enumerate((c, w) for c in stabilizers.CLIPS for w in stabilizers.WEIGHTS):
            for seed in SEEDS:
                run = {"run": f"{model}-{number}-{seed}", "model": model, "seed": seed, "trainer.clip_norm": clip}
                run |= {"trainer.norm_stabilizer": weight, "optimizer.lr": 1e-3, "grid_points": 3}
                ended = "diverged" if model == "cp_additive" and number < diverged else "finished"
                runs.append(run | {"status": ended})
                for length, factor in zip(stabilizers.LENGTHS, (stable, longer or stable), strict=True):
                    error = around(0.1, seed, spread) * (clipped if clip else 1) * (factor if weight else 1)
                    rows.append(run | {"length": length, "mse": error})
    return evidence_of(runs, measured=rows)


def test_clipping_and_the_stabilizer_help_if_the_error_falls_with_them():
    assert verdicts(stabilizers, stabilized(0.5, 0.5)) == ["reproduced"] * 4
    assert verdicts(stabilizers, stabilized(2, 2)) == ["not reproduced"] * 4
    assert verdicts(stabilizers, stabilized(0.5, 1.5)) == ["reproduced"] * 2 + ["not reproduced"] * 2
    assert verdicts(stabilizers, stabilized(0.5, 0.5, longer=2)) == ["reproduced"] * 3 + ["not reproduced"]
    assert verdicts(stabilizers, stabilized(0.9, 0.9, 0.3)) == ["inconclusive"] * 4
    table = stabilizers.table(stabilized(0.5, 0.5, diverged=3)).set_index(["model", "clipping", "β"])
    assert table.loc[("IRNN", "1", "50"), "error, T=400"] == "2.5e-02"
    assert table.loc[("additive CP", "none", "0"), "error, T=100"] == "diverged"
    assert table.loc[("additive CP", "1", "0"), "error, T=100"] == "5.0e-02"


@pytest.mark.slow
def test_a_network_is_examined_at_longer_sequences_than_it_was_trained_on(train):
    sizes = ["task.val_size=20", "task.test_size=20", "trainer.max_updates=1", "trainer.clip_norm=1"]
    assert (
        train(
            "experiment=mathews2016/stabilizers",
            *sizes,
            "model=irnn",
            "trainer.norm_stabilizer=1.0",
            "seed=1",
            "optimizer.lr=1e-3",
        ).status
        == 0
    )
    (path,) = Path("outputs/mathews2016-stabilizers").glob("*/result.json")
    run = {"run": path.parent.name, "model": "irnn", "trainer.clip_norm": 1.0, "trainer.norm_stabilizer": 1.0}
    found = stabilizers.measure(path.parents[1], pd.DataFrame([run]))
    assert found["length"].tolist() == list(stabilizers.LENGTHS)
    assert found["mse"].iloc[0] == pytest.approx(json.loads(path.read_text())["metrics"]["test/mse"], rel=1e-4)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_without_its_runs_a_claim_is_not_run_and_figures_are_still_drawn(module):
    nothing = Evidence(pd.DataFrame({"run": ["a"], "model": ["gru"], "name": ["other"]}), pd.DataFrame())
    assert set(verdicts(module, nothing)) == {"not run"}
    for draw in module.REPRODUCTION.figures.values():
        draw(nothing)


def test_every_experiment_has_a_folder_of_its_own():
    named = {one for found in reproductions().values() for one in found.experiments if one.startswith("mathews2016")}
    assert len({configuration(experiment).name for experiment in named}) == len(named)
