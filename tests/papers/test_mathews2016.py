"""The claims hold for results as the report and its logs have them, and fail for results that contradict them."""

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
    hadamard,
    random_tensor,
    rank_sweep,
    scalar_multiplication,
    stability,
)
from src.reproduction.base import Evidence
from src.reproduction.reproduce import configuration, reproductions

MODULES = [addition, binding, hadamard, random_tensor, rank_sweep, scalar_multiplication, stability]
SEEDS = range(5)


def evidence_of(rows, curves=(), measured=()):
    """Evidence from rows of runs, curves and rows of measurements; no setting is at an edge of its grid."""
    runs = pd.DataFrame(rows, columns=None if rows else ["run", "model"]).assign(
        edge=False, **{"trainer.max_updates": 2000}
    )
    return Evidence(runs, pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(), pd.DataFrame(measured))


def verdicts(module, evidence):
    return [claim.judge(evidence)[0] for claim in module.REPRODUCTION.claims]


def added(exchange=None):
    """Runs whose errors fall below 0.01 when those of the author do."""
    rows, curves = [], []
    for (model, length), (error, update) in addition.PRINTED.items():
        name = addition.LONG if length >= 5000 else addition.TABLE
        for seed in SEEDS:
            run = f"{model}-{length}-{seed}"
            row = {"run": run, "name": name, "model": (exchange or {}).get(model, model), "seed": seed}
            row |= {"task.sequence_length": length, "test/mse": error, "optimizer.lr": 0.01, "seconds": 60.0}
            rows.append(row)
            values = [0.17, 0.17, 0.17] if update is None else [0.17, 0.009, error]
            curves.append(pd.DataFrame({"run": run, "update": [0, update or 500, 1800], "val/mse": values}))
    return evidence_of(rows, curves)


def test_the_authors_numbers_of_addition_satisfy_the_claims_and_exchanged_ones_do_not():
    assert verdicts(addition, added()) == ["reproduced"] * 4
    exchanged = {"cp_gate": "lstm", "lstm": "cp_gate"}
    assert verdicts(addition, added(exchanged))[:1] == ["not reproduced"]
    assert verdicts(addition, added(exchanged))[2] == "not reproduced"
    table = addition.table(added()).set_index(["T", "model"])
    row = table.loc[("250", "CP gate")]
    assert (row["author, error"], row["update below 0.01: median (range)"]) == ("0.0015", "660")
    assert table.loc[("5,000", "GRU"), "author, update"] == "never"


def bound(factor):
    """Runs at a multiple of the floor of knowing when but not what; the GRU is a little worse."""
    rows = [
        {"run": f"{model}-{k}-{seed}", "name": binding.NAME, "model": model, "task.num_items": k, "seed": seed}
        | {"test/nats": factor * binding.floor(k) * (1.1 if model == "gru" else 1), "test/error": 0.1}
        | {"optimizer.lr": 0.01, "num_parameters": 1000}
        for model in binding.MODELS
        for k in binding.ITEMS
        for seed in SEEDS
    ]
    return evidence_of(rows)


def test_a_network_remembers_if_it_is_below_the_floor_of_knowing_when():
    assert verdicts(binding, bound(0.5)) == ["reproduced"] * 3
    assert verdicts(binding, bound(1.01)) == ["not reproduced", "not reproduced", "reproduced"]
    assert round(binding.floor(1), 3) == 5.545
    table = binding.table(bound(0.5)).set_index(["K", "model"])
    assert table.loc[("2", binding.WHEN), "nats"] == f"{binding.floor(2):.2f}"
    assert table.loc[("1", "CP gate"), "nats"] == "2.77 ± 0.00"


def multiplied(above=0.0):
    """Runs at the line of least error, or above it; trains a little lower, and plain descent higher."""
    rows = []
    for name, form, off in (
        (hadamard.MAIN, "cp", above),
        (hadamard.MAIN, "tensor_train", above - 5e-4),
        (hadamard.MOMENTUM, "cp", above + 0.01),
    ):
        for rank in hadamard.RANKS:
            for seed in range(3):
                error = max(hadamard.floor(rank) + off, 1e-13)
                rows.append(
                    {"run": f"{name}-{form}-{rank}-{seed}", "name": name, "model.rank": rank, "seed": seed}
                    | {"model.form": form if name == hadamard.MAIN else None, "test/mse": error}
                )
    return evidence_of(rows)


def test_errors_on_the_line_of_least_error_satisfy_the_claims():
    assert verdicts(hadamard, multiplied()) == ["reproduced"] * 5
    assert verdicts(hadamard, multiplied(0.01))[:2] == ["not reproduced", "not reproduced"]
    assert verdicts(hadamard, multiplied(-0.01))[1] == "not reproduced"
    table = hadamard.table(multiplied()).set_index(["form", "R"])
    assert table.loc[("CP", "10"), "author, n=100"] == "0.0945"
    assert (table.loc[("CP", "10"), "least of CP"], table.loc[("CP", "20"), "ours"]) == ("0.09375", "1.0e-13")
    hadamard.draw(multiplied())


def measured(slope=1.0, gate=-0.5):
    """Exponents on a line of the logarithm of the scale, and those of the gate."""
    rows = [
        {"run": f"{model}-{seed}", "model": model, "seed": seed, "scale": scale}
        | {"exponent": gate if model == "cp_gate" else 0.05 + slope * np.log(scale)}
        | {"log_size": 0.1 if model == "cp_gate" else 200 * (0.05 + slope * np.log(scale))}
        for model in stability.MODELS
        for scale in stability.SCALES
        for seed in SEEDS
    ]
    return evidence_of([], measured=rows)


def test_exponents_on_a_line_satisfy_the_claims_about_products():
    assert verdicts(stability, measured()) == ["reproduced"] * 4
    assert verdicts(stability, measured(slope=0.0))[0] == "not reproduced"
    assert verdicts(stability, measured(gate=0.1))[3] == "not reproduced"
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


def recovered(factor):
    """Learned tensors whose error is a multiple of the computed one; none at the rank of the tensor."""
    rows = [
        {"run": f"{form}-{rank}-{seed}", "optimizer": "sgd", "form": form, "rank": rank, "seed": seed}
        | {"computed": 1 / rank, "learned": 1e-9 if (form, rank) == ("tensor_train", 5) else factor / rank}
        for form in random_tensor.FORMS
        for rank in random_tensor.RANKS
        for seed in range(3)
    ]
    return evidence_of([], measured=rows)


def test_a_tensor_is_recovered_if_its_error_is_that_of_the_computed_decomposition():
    assert verdicts(random_tensor, recovered(1.0)) == ["reproduced"] * 3
    assert verdicts(random_tensor, recovered(1.1)) == ["reproduced", "not reproduced", "not reproduced"]
    table = random_tensor.table(recovered(1.0)).set_index(["form", "R"])
    assert table.loc[("tensor train", "5")].tolist() == ["1e-09", "-", "0.2000"]


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


def swept(author, other):
    """Runs that are solved at these updates with a rank of 64, and at update 100 with a lower one."""
    rows, curves = [], []
    for init, last in (("mathews2016", author), ("rank_independent", other)):
        for components in rank_sweep.RANKS:
            for seed in SEEDS:
                run = f"{init}-{components}-{seed}"
                settings = {"model.init": init, "model.rank": components, "seed": seed, "test/mse": 0.001}
                rows.append({"run": run} | settings)
                update = last if components == 64 else 100
                curves.append(pd.DataFrame({"run": run, "update": [0, update], "val/mse": [0.17, 0.005]}))
    return evidence_of(rows, curves)


def test_the_rank_is_blamed_only_if_the_initialization_is_not():
    assert verdicts(rank_sweep, swept(200, 100)) == ["reproduced", "reproduced"]
    assert verdicts(rank_sweep, swept(200, 200)) == ["not reproduced", "reproduced"]
    assert verdicts(rank_sweep, swept(100, 100)) == ["not reproduced", "reproduced"]
    table = rank_sweep.table(swept(200, 100)).set_index("R")
    assert table.loc["64", "of the author: update below 0.01, median (range)"] == "200"


def extrapolated(other):
    """Networks that multiply in the range of training, and with this error beyond it."""
    rows = [
        {"run": f"{model}-{seed}", "model": model, "scale": scale}
        | {"error": 1e-6 if model == "bilinear" else 1e-4 if scale == 1 else other}
        for model in scalar_multiplication.MODELS
        for scale in scalar_multiplication.SCALES
        for seed in range(3)
    ]
    return evidence_of([], measured=rows)


def test_only_the_bilinear_map_extrapolates_if_no_other_network_does():
    assert verdicts(scalar_multiplication, extrapolated(0.1)) == ["reproduced", "reproduced"]
    assert verdicts(scalar_multiplication, extrapolated(1e-4)) == ["reproduced", "not reproduced"]
    assert len(scalar_multiplication.table(extrapolated(0.1))) == len(scalar_multiplication.MODELS)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_without_its_runs_a_claim_is_not_run_and_figures_are_still_drawn(module):
    nothing = Evidence(pd.DataFrame({"run": ["a"], "model": ["gru"], "name": ["other"]}), pd.DataFrame())
    assert set(verdicts(module, nothing)) == {"not run"}
    for draw in module.REPRODUCTION.figures.values():
        draw(nothing)


def test_every_experiment_has_a_folder_of_its_own():
    named = {one for found in reproductions().values() for one in found.experiments if one.startswith("mathews2016")}
    assert len({configuration(experiment).name for experiment in named}) == len(named)
