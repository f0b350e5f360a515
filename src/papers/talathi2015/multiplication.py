"""Multiplying two marked numbers: initializations of recurrent networks, counted by right answers."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from src.papers.le2015.adding import right, runs_of
from src.papers.talathi2015.adding import (
    AFTER,
    AS_IN_PRINT,
    HALF,
    NETWORKS,
    How,
    draw_lengths,
    measure_grid,
    most_right,
    np_rnn_is_robust,
    table_of_lengths,
)
from src.reproduction.base import Claim, Evidence, Finding, Reproduction
from src.reproduction.effects import mean

NAME, PRINTED_NAME = "talathi2015-multiplication", "talathi2015-multiplication-printed"
LENGTHS = (50, 100, 200)
FLOOR, CHANCE = 7 / 144, 0.111
"""Squared error of always answering 1/4, and the share of these answers that is right, within 0.04. The paper prints
0.2025 for the former."""
SOLVED = FLOOR / 10
PRINTED = {
    "iRNN": (4450, 1150, 4450),
    "IRNN": (4500, 4500, 4500),
    "nRNN": (7850, 8050, 7000),
    "np-RNN": (9850, 9650, 9200),
    "np-tanhRNN": (8100, 8600, 7500),
}
"""Right answers out of 10,000, by length, read off the paper's figure by eye."""
CHOSEN: dict[str, dict[str, Any]] = {network: {"name": NAME, **settings} for network, settings in NETWORKS.items()} | {
    "LSTM": {"name": f"{NAME}-lstm", "model": "lstm"},
    "GRU": {"name": f"{NAME}-gru", "model": "gru"},
    "fast weights": {"name": f"{NAME}-fastweights", "model": "fastweights"},
}
AS_PRINTED: dict[str, dict[str, Any]] = {
    network: {"name": PRINTED_NAME, **settings} for network, settings in NETWORKS.items()
}


def _answers_right(network: str, length: int, how: How = "") -> Claim:
    def test(evidence: Evidence) -> Finding:
        runs = runs_of(evidence, (AS_PRINTED if how else CHOSEN)[network], length)
        shares = 1 - runs["test/error"].to_numpy(float)
        return Finding(f"{right(runs)} of 10,000", [mean(shares, "right").within(least=HALF)])

    return Claim(
        f"The {network} multiplies over {length} steps{how}.",
        f"Figure 4: {PRINTED[network][LENGTHS.index(length)]:,} of 10,000 right",
        f"more than half of the answers right{AFTER[how]}",
        test,
    )


def _at_most_half(how: How = "") -> Claim:
    settings = AS_PRINTED if how else CHOSEN

    def test(evidence: Evidence) -> Finding:
        measured, effects = [], []
        for network in ("IRNN", "iRNN"):
            runs = runs_of(evidence, dict(settings[network]), 50)
            measured.append(f"{network}: {right(runs)} of 10,000")
            effects.append(mean(1 - runs["test/error"].to_numpy(float), network).within(most=HALF))
        return Finding("; ".join(measured), effects)

    return Claim(
        f"The IRNN and the iRNN get at most half of the products over 50 steps right{how}.",
        "Figure 4: 4,500 and 4,450 of 10,000 right",
        f"fewer than half of the answers right, for both{AFTER[how]}",
        test,
    )


def _np_rnn_is_best(how: How = "") -> Claim:
    settings = AS_PRINTED if how else CHOSEN
    others = {network: settings[network] for network in PRINTED if network != "np-RNN"}
    return Claim(
        f"The np-RNN is right more often than the others{how}.",
        "Figure 4: 9,850 against 8,100 and fewer over 50 steps",
        f"difference of the shares of right answers over 50 steps above 0 for each network of the figure{AFTER[how]}",
        lambda evidence: most_right(evidence, 50, others, settings["np-RNN"]),
    )


def table(evidence: Evidence) -> pd.DataFrame:
    """Right answers and squared errors with chosen settings and with the paper's, next to the printed numbers."""
    return table_of_lengths(evidence, CHOSEN, PRINTED, LENGTHS, AS_PRINTED, ("always answering 1/4", CHANCE, FLOOR))


def _draw(evidence: Evidence) -> Figure:
    return draw_lengths(evidence, CHOSEN, PRINTED, LENGTHS, AS_PRINTED, ("always 1/4", CHANCE))


REPRODUCTION = Reproduction(
    title="Talathi and Vartak 2015: multiplying two marked numbers over 50 to 200 steps",
    experiments=(
        "talathi2015/multiplication",
        "talathi2015/multiplication_lstm",
        "talathi2015/multiplication_gru",
        "talathi2015/multiplication_fastweights",
        "talathi2015/multiplication_printed",
    ),
    only_in_full=("talathi2015/multiplication_printed",),
    claims=(
        _answers_right("np-RNN", 50),
        _answers_right("nRNN", 50),
        _answers_right("np-tanhRNN", 50),
        _at_most_half(),
        _np_rnn_is_best(),
        np_rnn_is_robust("multiplies", 50, CHOSEN, SOLVED),
        _answers_right("np-RNN", 100),
        _answers_right("np-RNN", 200),
        *(_answers_right(network, 50, AS_IN_PRINT) for network in ("np-RNN", "nRNN", "np-tanhRNN")),
        _at_most_half(AS_IN_PRINT),
        _np_rnn_is_best(AS_IN_PRINT),
    ),
    table=table,
    figures={"lengths": _draw},
    measure=measure_grid(SOLVED),
    measure_needs_weights=False,
    quick=("task.sequence_length=50,100", "seed=0", "optimizer.lr=1e-3", "trainer.max_updates=500"),
    curves=("val/mse", "val/error"),
    replayed=({"name": NAME, "model": "nprnn", "task.sequence_length": 50, "seed": 0, "model.nonlinearity": "relu"},),
    replayed_curve="val/mse",
)
