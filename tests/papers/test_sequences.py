"""The claims about music and text hold for numbers as printed or expected, and fail for others."""

import pandas as pd
import pytest

from src.config.jobs import jobs_of
from src.papers.chung2014 import music
from src.papers.karpathy2015 import war_and_peace
from src.papers.mathews2016 import rank_on_music
from src.reproduction.base import Evidence
from src.reproduction.reproduce import configuration
from src.running.build import build_model, build_task

SEEDS = range(3)
NOISE = (-0.01, 0.0, 0.01)


def evidence_of(rows, measured=()):
    """Runs with every column that the tables show; `rows` provides `test/nll` and settings."""
    common = {"edge": "", "grid_points": 3, "optimizer.lr": 0.003, "num_parameters": 20_000, "updates": 1000}
    common |= {"trainer.max_updates": 2000, "model.hidden_size": 32}
    runs = pd.DataFrame([common | {"run": str(number)} | row for number, row in enumerate(rows)])
    return Evidence(runs, pd.DataFrame(), pd.DataFrame(measured))


def verdicts(module, evidence):
    return [claim.judge(evidence).verdict for claim in module.REPRODUCTION.claims]


def played(off=0.0, models=tuple(music.MODELS)):
    """Likelihoods as printed by Chung et al.; models that are not in that paper have those of the GRU."""
    rows = []
    for pieces, printed in music.CHUNG2014.items():
        for model in models:
            for seed in SEEDS:
                nats = printed.get(model, printed["gru"]) + NOISE[seed] + off * (model in ("gru", "cp_gate"))
                rows.append({"name": f"chung2014-{pieces}", "model": model, "seed": seed, "test/nll": nats})
    if "lstm" in models:
        name, nats = "chung2014-nottingham-large", music.BAI2018["nottingham"]["lstm"] + off
        rows += [{"name": name, "model": "lstm", "seed": seed, "test/nll": nats + NOISE[seed]} for seed in SEEDS]
    return evidence_of(rows)


def test_likelihoods_as_printed_satisfy_the_claims_on_music():
    assert verdicts(music, played()) == ["reproduced"] * 11
    assert verdicts(music, played(1.0)) == ["not reproduced"] * 7 + ["reproduced"] * 4
    assert verdicts(music, played(-0.2))[7:9] == ["not reproduced"] * 2  # a GRU that is better than the tanh network
    assert verdicts(music, played(models=("gru",))) == ["not run"] * 11
    table = music.table(played()).set_index(["collection", "model"])
    row = table.loc[("JSB chorales", "GRU")]
    assert (row["Chung 2014"], row["Bai 2018"], row["ours"]) == ("8.54", "8.43", "8.54 ± 0.01")
    assert table.loc[("Nottingham", "TCN"), "ours"] == "-"
    assert table.loc[("Nottingham", "LSTM, 200 units"), "ours"] == "3.29 ± 0.01"


def read(lstm=1.3, low=1.5):
    rows = [
        {"name": war_and_peace.MAIN, "model": model, "test/nll": nats + noise}
        for model, nats in (("lstm", lstm), ("rnn", 1.45), ("gru", 1.32))
        for noise in NOISE
    ]
    rows += [{"name": war_and_peace.LONG, "model": "lstm", "test/nll": lstm - 0.02 + noise} for noise in NOISE]
    rows += [
        {"name": war_and_peace.RANK, "model": "cp_gate", "model.linear": linear, "model.rank": rank}
        | {"test/nll": (low if rank == 1 else 1.4) + noise}
        for linear in ("separate", "combined")
        for rank in war_and_peace.RANKS
        for noise in NOISE
    ]
    return evidence_of(rows)


def test_the_claims_on_war_and_peace():
    assert verdicts(war_and_peace, read()) == ["reproduced"] * 4
    assert verdicts(war_and_peace, read(lstm=1.5, low=1.3)) == ["not reproduced"] * 4
    table = war_and_peace.table(read()).set_index(["model", "R"])
    assert table.loc[("LSTM", "-"), "nats"] == "1.300 ± 0.010"
    assert table.loc[("LSTM, 50 epochs", "-"), "nats"] == "1.280 ± 0.010"
    assert table.loc[("20-gram", "-"), "Karpathy 2015"] == "1.195"
    (axes,) = war_and_peace.draw(read()).axes
    _, labels = axes.get_legend_handles_labels()
    assert labels == ["LSTM", "GRU", "tanh RNN", "CP gate, separate", "CP gate, combined"]


def swept(slope, dropped=8.3):
    """Networks whose test loss grows with the rank, and whose gap between validation and training grows as much."""
    rows, measured = [], []
    for held in (rank_on_music.WIDTH, rank_on_music.BUDGET):
        for model, combined in rank_on_music.CELLS:
            for rank in rank_on_music.RANKS:
                for noise in NOISE:
                    nats = 8.5 + slope * rank / 64 + noise
                    row = {"name": rank_on_music._name(held, combined), "model": model, "model.rank": rank}
                    rows.append(row | {"test/nll": nats, "val/nll": nats})
                    measured.append({"run": str(len(rows) - 1), "train": 7.5})
    for dropout in rank_on_music.DROPOUT:
        for decay in rank_on_music.DECAY:
            for noise in NOISE:
                nats = (dropped if dropout == 0.2 and decay == 0 else 8.9) + noise
                row = {"name": rank_on_music.REGULARIZED, "model": "cp_gate", "model.rank": 20}
                row |= {"network.input_dropout": dropout, "optimizer.weight_decay": decay}
                rows.append(row | {"test/nll": nats, "val/nll": nats})
                measured.append({"run": str(len(rows) - 1), "train": 7.5})
    return evidence_of(rows, measured)


def test_the_claims_on_the_rank():
    assert verdicts(rank_on_music, swept(0.5)) == ["reproduced"] * 9
    assert verdicts(rank_on_music, swept(-0.5)) == ["not reproduced"] * 9
    assert verdicts(rank_on_music, swept(0.5, dropped=8.8))[-1] == "not reproduced"
    table = rank_on_music.table(swept(0.5)).set_index(["fixed", "model", "R", "dropout", "weight decay"])
    row = table.loc[("32 units", "CP gate, separate", "64", "-", "-")]
    assert (row["test"], row["val - train"]) == ("9.00 ± 0.01", "1.50")
    assert len(rank_on_music.draw(swept(0.5)).axes) == 4


def test_the_claims_on_the_rank_compare_the_ranks_that_they_name():
    evidence = swept(0.5)
    evidence.runs.loc[evidence.runs["model.rank"] == 8, "val/nll"] = 9.5
    evidence.runs.loc[evidence.runs["model.rank"] == 1, "test/nll"] = 9.5
    assert verdicts(rank_on_music, evidence)[:8] == ["reproduced"] * 8


def test_ranks_and_regularizers_are_chosen_on_the_validation_set():
    evidence = swept(0.5)
    runs = evidence.runs
    runs.loc[runs["network.input_dropout"] == 0.4, "test/nll"] = 8.0
    runs.loc[(runs["model"] == "cp_gate") & (runs["model.rank"] == 64), "test/nll"] = 8.0
    grows, *_, dropout = rank_on_music.REPRODUCTION.claims
    assert grows.judge(evidence).verdict == "reproduced"
    assert dropout.judge(evidence).measured == "dropout 0.2, weight decay 0, R=20: 8.30; without, R=1: 8.51"


@pytest.mark.parametrize(("best", "edge"), [(1, False), (16, False), (64, True)])
def test_the_largest_rank_is_an_edge_and_the_least_is_none_since_it_is_1(best, edge):
    evidence = swept(0.5)
    evidence.runs.loc[evidence.runs["model.rank"] == best, "val/nll"] = 8.0
    without_decay = Evidence(evidence.runs.drop(columns="optimizer.weight_decay"), evidence.curves, evidence.measured)
    assert rank_on_music.REPRODUCTION.claims[-1].judge(without_decay).edge == edge


def test_a_network_near_the_floor_leaves_the_gap_undecided():
    evidence = swept(0.5)
    of_tgu = (evidence.runs["model"] == "tgu") & (evidence.runs["model.rank"] == 64)
    evidence.runs.loc[evidence.runs.index[of_tgu][0], "test/nll"] = 10.6
    found = rank_on_music.REPRODUCTION.claims[2].judge(evidence)
    assert found.verdict == "inconclusive"
    assert found.measured.endswith("1 of 6 networks learned little")


def test_without_measurements_the_gap_is_unknown():
    evidence = swept(0.5)
    unmeasured = Evidence(evidence.runs, evidence.curves)
    assert verdicts(rank_on_music, unmeasured)[0] == "not run"
    assert set(rank_on_music.table(unmeasured)["val - train"]) == {"-"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rank_on_music_budget", "rank_on_music_budget_combined"])
def test_networks_of_one_budget_have_about_as_many_weights(name):
    for rank in rank_on_music.RANKS:
        for model in ("cp_gate",) if "combined" in name else ("cp_gate", "tgu", "tt_rnn"):
            config = configuration(f"mathews2016/{name}", [f"model={model}", f"model.rank={rank}"])
            size = build_model(config, build_task(config)).num_parameters
            assert size == pytest.approx(20_000, rel=0.2), (model, rank)


def test_the_trained_networks_are_measured(train, made_up_data):
    short = ["trainer.max_updates=2", "trainer.eval_every=1", "model.rank=2", "optimizer.lr=0.1", "seed=1"]
    assert train("experiment=mathews2016/rank_on_music", "model=cp_gate", *short).status == 0
    folder = made_up_data.parent / "outputs" / "mathews2016-rank-on-music"
    (path,) = folder.glob("*/result.json")
    found = rank_on_music.measure(folder, pd.DataFrame([{"run": path.parent.name}]))
    assert found["train"].between(1, 88).all()


@pytest.mark.slow
def test_the_grids_are_what_the_tables_show():
    jobs = [config for _, config in jobs_of(["experiment=karpathy2015/war_and_peace_rank"])]
    assert {config.model.rank for config in jobs} == set(war_and_peace.RANKS)
    jobs = [config for _, config in jobs_of(["experiment=mathews2016/rank_on_music_regularized"])]
    assert {config.network.output_dropout for config in jobs} == set(rank_on_music.DROPOUT)
    assert {config.optimizer.weight_decay for config in jobs} == set(rank_on_music.DECAY)
