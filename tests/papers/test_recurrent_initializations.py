"""The claims of Le et al. and Talathi & Vartak hold for the printed numbers, and fail for others."""

import numpy as np
import pandas as pd
import pytest

from src.config.jobs import jobs_of
from src.papers.le2015 import adding, pixels
from src.papers.talathi2015 import adding as counted
from src.papers.talathi2015 import multiplication
from src.reproduction.base import Evidence
from tests.compose import compose
from tests.results.made_up import Folder

NOISE = (-0.02, 0.0, 0.02)


def evidence_of(rows, measured=()):
    """Runs with every column that the tables show."""
    common = {"status": "finished", "edge": "", "grid_points": 4, "optimizer.lr": 0.001, "updates": 2343}
    runs = pd.DataFrame([common | {"run": str(number)} | row for number, row in enumerate(rows)])
    curves = pd.DataFrame({"run": runs["run"], "update": 100, "val/error": 0.5})
    curves = pd.concat([curves, curves.assign(update=0)], ignore_index=True)
    return Evidence(runs, curves, pd.DataFrame(measured))


def verdicts(module, evidence):
    return [claim.judge(evidence).verdict for claim in module.REPRODUCTION.claims]


def row_of(settings, **others):
    return {key.replace("__", "."): value for key, value in settings.items()} | others


def added(errors, but=None):
    """Runs of the paper's networks with the given squared errors at every length, except for those in `but`."""
    rows = []
    for network, error in errors.items():
        for length in adding.LENGTHS:
            for noise in NOISE:
                value = (but or {}).get((network, length), error) * (1 + noise)
                row = {"task.sequence_length": length, "test/mse": value, "test/error": 0.1}
                rows.append(row_of(adding.CHOSEN[network], **row))
    return evidence_of(rows)


PRINTED = {"IRNN": 0.01, "IRNN, for longer": 0.01, "LSTM": 0.015, "ReLU RNN": 0.17, "tanh RNN": 0.17}


def test_squared_errors_as_printed_satisfy_the_claims_on_adding():
    assert verdicts(adding, added(PRINTED)) == ["reproduced"] * 6
    exchanged = dict(zip(PRINTED, (0.17, 0.17, 0.17, 0.01, 0.01), strict=True))
    assert verdicts(adding, added(exchanged)) == ["not reproduced"] * 6
    assert verdicts(adding, added({"LSTM": 0.01}))[0] == "not run"
    table = adding.table(added(PRINTED, {("IRNN", 300): 20.0})).set_index(["T", "network"])
    assert table.loc[("150", "IRNN"), "error"] == "0.0100 ± 0.0002"
    assert table.loc[("300", "IRNN"), "error"] == "median 20.0000"
    assert table.loc[("400", "always answering 1"), "right of 10,000"] == "784"  # 1 - 0.96²: sums within 0.04 of 1


def paper_name(network):
    return network.removesuffix(", for longer")


def right(module, networks, exchange=None, lengths=None, solved=True):
    """Runs with as many right answers as are printed for their network, or for another one if `exchange` names it."""
    rows, measured = [], []
    for network in (name for name in module.CHOSEN if paper_name(name) in module.PRINTED):
        printed = module.PRINTED[(exchange or {}).get(paper_name(network), paper_name(network))]
        for length, count in zip(module.LENGTHS, printed, strict=True):
            if lengths and length not in lengths:
                continue
            for noise in NOISE:
                row = {
                    "task.sequence_length": length,
                    "test/mse": 0.01,
                    "test/error": 1 - (1 + noise / 10) * count / 1e4,
                }
                rows.append(row_of(networks(network), seed=0, **row))
                measured += [{"run": str(len(rows) - 1), "lr": 10.0**-n, "solved": solved} for n in range(4)]
    return evidence_of(rows, measured)


@pytest.mark.parametrize("module", [adding, counted, multiplication])
def test_criteria_name_the_updates_of_their_experiments(module):
    for name in module.REPRODUCTION.experiments:
        if "printed" not in name:
            config = compose(f"experiment={name}")
            assert config.optimizer._target_.endswith(".adam")
            expected = f", after {config.trainer.max_updates:,} updates of Adam"
            assert adding.AFTER[", for longer" * name.endswith("_long")] == expected, name


def test_counts_as_printed_satisfy_the_claims_on_adding():
    printed = right(counted, counted.CHOSEN.__getitem__)
    assert verdicts(counted, printed) == ["reproduced"] * 12 + ["not run"] * 21  # the last 21: the paper's settings
    exchanged = right(counted, counted.CHOSEN.__getitem__, {"np-RNN": "gRNN", "gRNN": "np-RNN"}, solved=False)
    found = verdicts(counted, exchanged)
    assert [found[number] for number in (0, 5, 7, 8, 9, 10)] == ["not reproduced"] * 6
    table = counted.table(printed).set_index(["T", "network"])
    assert table.loc[("150", "np-RNN"), "right of 10,000"] == "9,500 ± 19"
    assert table.loc[("150", "np-RNN"), "grid solved"] == "4 of 4"
    assert "right, paper's settings" not in table
    (figure,) = (draw(printed) for draw in counted.REPRODUCTION.figures.values())
    in_print, here = figure.axes
    printed_lines = {line.get_label(): line.get_ydata() for line in in_print.lines}
    assert printed_lines["np-RNN"] == pytest.approx([95.0, 94.5, 88.0, 83.5, 75.0])
    drawn = {bars.get_label(): bars.lines[0].get_ydata() for bars in here.containers}
    assert set(drawn) == {*counted.PRINTED, "IRNN, for longer", "np-RNN, for longer"}
    assert all(drawn[network] == pytest.approx(printed_lines[paper_name(network)]) for network in drawn)


def test_counts_as_printed_satisfy_the_claims_on_multiplication():
    networks = multiplication.CHOSEN.__getitem__
    assert verdicts(multiplication, right(multiplication, networks)) == [
        "reproduced" if n < 8 and n != 5 else "not run" for n in range(13)
    ]
    exchanged = right(multiplication, networks, {"np-RNN": "IRNN", "IRNN": "np-RNN"})
    found = verdicts(multiplication, exchanged)
    assert [found[number] for number in (0, 3, 4, 6, 7)] == ["not reproduced"] * 5
    assert verdicts(multiplication, right(multiplication, networks, lengths=(50,)))[6:] == ["not run"] * 7


@pytest.mark.parametrize(
    ("module", "count", "best", "worst", "fail", "claims", "fails_later"),
    [
        (counted, "8,550 ± 17", "np-RNN", "gRNN", ("gRNN", "oRNN"), 21, ["The iRNN does not add over 300 steps"]),
        (multiplication, "7,850 ± 16", "np-RNN", "iRNN", ("iRNN", "IRNN"), 5, []),
    ],
)
def test_runs_with_the_settings_of_the_paper_have_columns_and_claims_of_their_own(
    module, count, best, worst, fail, claims, fails_later
):
    def as_printed(network):
        return module.AS_PRINTED[paper_name(network)]

    printed = right(module, as_printed)
    table = module.table(printed).set_index(["T", "network"])
    row = table.loc[(str(module.LENGTHS[0]), "nRNN")]
    assert row["right, paper's settings"] == count
    assert row["error, paper's settings"] == "0.0100 ± 0.0000"
    assert row["n and updates, paper's settings"] == "3, 2,343"
    assert "grid solved" not in row
    others = ["not run"] * (len(module.REPRODUCTION.claims) - claims)
    assert verdicts(module, printed) == [*others, *["reproduced"] * claims]
    exchanged = {network: best if network in fail else worst for network in module.PRINTED}
    found = verdicts(module, right(module, as_printed, exchanged))[-claims:]
    ours = zip(module.REPRODUCTION.claims[-claims:], found, strict=True)
    assert {claim.statement: verdict for claim, verdict in ours if verdict != "not reproduced"} == {
        f"{statement}, with the paper's settings.": "reproduced" for statement in fails_later
    }


def read(**errors):
    """Runs with the given errors, the same in all pixel orders."""
    rows = []
    for order in ("scanline", "permuted", pixels.FOR_LONGER, pixels.SEARCHED, "rows"):
        for network, error in errors.items():
            searched = f"{pixels.RATES}-lstm" if network == "LSTM" else pixels.RATES
            name = {"rows": pixels.ROWS, pixels.SEARCHED: searched, pixels.FOR_LONGER: pixels.LONG}.get(
                order, pixels.PIXELS
            )
            for noise in NOISE:
                row = {"name": name, "task.order": order.partition(",")[0], "test/error": error * (1 + noise)}
                row["model.forget_bias"] = pixels.FORGET_BIAS.get(order) if network == "LSTM" else None
                rows.append(row_of(pixels.NETWORKS[network], **row))
    return evidence_of(rows)


def test_an_lstm_with_another_forget_bias_is_another_row():
    usual = [{"name": pixels.PIXELS, "task.order": order, "test/error": 0.9} for order in ("scanline", "permuted")]
    rows = [row_of({"model": "lstm"}, **row, **{"model.forget_bias": bias}) for row in usual for bias in (1.0, 2.0)]
    rows[1]["test/error"], rows[3]["test/error"] = 0.1, 0.2
    table = pixels.table(evidence_of(rows)).set_index("order")
    found = {order: table.loc[order, "error"] for order in ("scanline", pixels.UNTUNED, "permuted")}
    assert found == {"scanline": "10.00 %", pixels.UNTUNED: "90.00 %", "permuted": "90.00 %"}


def test_the_claims_on_pixels():
    assert verdicts(pixels, read(IRNN=0.03, LSTM=0.34)) == ["reproduced"] * 3 + ["not reproduced"]
    assert verdicts(pixels, read(IRNN=0.34, LSTM=0.02)) == ["not reproduced"] * 3 + ["reproduced"]
    table = pixels.table(read(IRNN=0.03, LSTM=0.34)).set_index(["order", "network"])
    row = table.loc[("scanline", "IRNN")]
    assert (row["paper"], row["error"], row["images seen"]) == ("3 %", "3.00 ± 0.06 %", "37,488")
    assert table.loc[(pixels.SEARCHED, "LSTM"), "error"] == "34.00 ± 0.68 %"
    in_order, permuted, for_longer = pixels.draw(read(IRNN=0.03, LSTM=0.34)).axes
    shown = {line.get_label() for line in in_order.lines}
    assert shown == {line.get_label() for line in permuted.lines} == {"IRNN", "LSTM", "chance"}
    assert {line.get_label() for line in for_longer.lines} == {*shown, "IRNN, in print (test set)"}


def test_the_grid_of_a_network_is_what_its_runs_came_to(tmp_path):
    folder = Folder(tmp_path)
    shown = [("nprnn", 0.001, 0, 0.004), ("nprnn", 0.01, 0, 0.1), ("nprnn", 0.001, 1, 0.1), ("gru", 0.001, 0, 0.1)]
    names = [folder.add(model, lr, seed, error, objective="mse") for model, lr, seed, error in shown]
    folder.add("nprnn", 0.1, 0, 0.001, status="diverged", objective="mse")
    chosen = {"run": names[0], "model": "nprnn", "model.hidden_size": 50, "seed": 0}
    found = counted.measure_grid(counted.SOLVED)(tmp_path, pd.DataFrame([chosen]))
    assert dict(zip(found["lr"], found["solved"], strict=True)) == {0.001: True, 0.01: False, 0.1: False}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "networks"),
    [
        ("le2015/adding", [adding.CHOSEN[name] for name in ("tanh RNN", "ReLU RNN", "IRNN")]),
        ("talathi2015/adding", [counted.CHOSEN[name] for name in counted.NETWORKS if name not in counted.OF_LE]),
        ("talathi2015/multiplication", [multiplication.CHOSEN[name] for name in counted.NETWORKS]),
        ("le2015/rows", list(pixels.NETWORKS.values())),
    ],
)
def test_the_grids_are_what_the_tables_show(experiment, networks):
    from src.config.fingerprint import decisive_keys

    jobs = [decisive_keys(config) for _, config in jobs_of([f"experiment={experiment}"])]
    for settings in networks:
        wanted = {key.replace("__", "."): value for key, value in settings.items() if key != "name"}
        assert sum(wanted.items() <= job.items() for job in jobs) == len(jobs) / len(networks)


def test_floors_are_those_of_the_task():
    from src.tasks.addition import Addition

    for module, operation in ((adding, "sum"), (multiplication, "product")):
        floor = Addition(0, operation=operation).floors["always the mean"]
        assert pytest.approx(floor["mse"]) == module.FLOOR
        assert np.round(1 - floor["error"], 3) == np.round(module.CHANCE, 3)
