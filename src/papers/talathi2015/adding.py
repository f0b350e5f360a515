"""Adding two marked numbers: initializations of recurrent networks, counted by right answers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from src.papers.le2015 import adding as le2015
from src.papers.le2015.adding import CHANCE, FLOOR, ended_at, errors_of, right, runs_of
from src.reports import style
from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, chosen_lr, sd
from src.reproduction.effects import difference, mean, share

LENGTHS = (150, 200, 300, 400, 500)
NAME, PRINTED_NAME = "talathi2015-adding", "talathi2015-adding-printed"
NETWORKS: dict[str, dict[str, Any]] = {
    "np-RNN": {"model": "nprnn", "model__nonlinearity": "relu"},
    "np-tanhRNN": {"model": "nprnn", "model__nonlinearity": "tanh"},
    "nRNN": {"model": "rnn", "model__init": "spectral_radius"},
    "oRNN": {"model": "rnn", "model__init": "orthogonal"},
    "gRNN": {"model": "rnn", "model__init": "normal", "model__nonlinearity": "relu"},
    "iRNN": {"model": "irnn", "model__recurrent_scale": 0.01},
    "IRNN": {"model": "irnn", "model__recurrent_scale": 1.0},
}
"""The networks of the paper."""
OF_LE = ("gRNN", "IRNN")
"""Networks whose runs are shared with the report on Le et al."""
LARGER = "IRNN, larger input weights"
"""Its input weights are about as large as those of the other networks, a hundred times those of Le et al."""
CHOSEN: dict[str, dict[str, Any]] = {
    network: {"name": "le2015-adding" if network in OF_LE else NAME, **settings}
    for network, settings in NETWORKS.items()
} | {
    network: le2015.CHOSEN[network]
    for network in (LARGER, "LSTM", "GRU", "fast weights", "IRNN, for longer", "np-RNN, for longer")
}
"""The runs of each network with settings chosen on the validation set."""
AS_PRINTED: dict[str, dict[str, Any]] = {
    network: {"name": PRINTED_NAME, **settings} for network, settings in NETWORKS.items()
} | {LARGER: {"name": f"{PRINTED_NAME}-irnn", "model": "irnn"}}
"""The runs with the paper's settings."""
PRINTED = {
    "gRNN": (750, 680, 770, 760, 760),
    "oRNN": (770, 720, 750, 770, 820),
    "iRNN": (8400, 7900, 770, 750, 820),
    "IRNN": (8550, 8750, 7500, 8200, 1400),
    "nRNN": (8550, 6750, 6550, 1650, 800),
    "np-RNN": (9500, 9450, 8800, 8350, 7500),
    "np-tanhRNN": (8450, 7350, 3000, 750, 820),
}
"""Right answers out of 10,000, by length, read off the paper's figure by eye (about 100 off)."""
AS_IN_PRINT: Final = ", with the paper's settings"
How = Literal["", ", with the paper's settings"]
AFTER = le2015.AFTER | {AS_IN_PRINT: ""}
"""What a criterion says about the training."""
HALF = 0.5
SOLVED = FLOOR / 10


def measure_grid(solved: float) -> Any:
    """Make a `measure`: for each run that counts, the results of all points of its grid with the first seed."""

    def measure(folder: Path, runs: pd.DataFrame) -> pd.DataFrame:
        from src.results.runs import load_runs

        grid, rows = [run for run in load_runs(folder) if run.ended], []
        for _, row in runs.iterrows():
            alike = {key: row[key] for key in runs if "." in key and key.partition(".")[0] in ("model", "task")}
            alike = {key: value for key, value in alike.items() if not pd.isna(value)} | {"model": row["model"]}
            for run in grid:
                if run.settings["seed"] == 0 and alike.items() <= run.settings.items():
                    error = run.metrics.get("val/mse", np.nan)
                    found = {"run": row["run"], "lr": run.settings["optimizer.lr"], "val/mse": error}
                    rows.append(found | {"solved": bool(run.finished and error < solved)})
        return pd.DataFrame(rows, columns=["run", "lr", "val/mse", "solved"])

    return measure


def solved_points(evidence: Evidence, settings: Mapping[str, Any], length: int) -> np.ndarray:
    """Whether each grid point of a network solves the task, with the first seed."""
    runs = runs_of(evidence, settings, length)
    measured = evidence.measured
    if measured.empty:
        raise NotRunError("no grid was measured")
    return measured.loc[measured["run"] == runs["run"].iloc[0], "solved"].to_numpy(bool)


def _answers_right(
    network: str, length: int, how: Literal["", ", for longer", ", with the paper's settings"] = ""
) -> Claim:
    def test(evidence: Evidence) -> Finding:
        settings = AS_PRINTED[network] if how == AS_IN_PRINT else CHOSEN[network + how]
        runs = runs_of(evidence, settings, length)
        shares = 1 - runs["test/error"].to_numpy(float)
        return Finding(f"{right(runs)} of 10,000", [mean(shares, "right").within(least=HALF)])

    printed = PRINTED[network][LENGTHS.index(length)]
    return Claim(
        f"The {network} adds over {length} steps{AS_IN_PRINT if how == AS_IN_PRINT else ''}.",
        f"Figure 3: {printed:,} of 10,000 right",
        f"more than half of the answers right{AFTER[how]}",
        test,
    )


def _fails(network: str, length: int, how: How = "") -> Claim:
    def test(evidence: Evidence) -> Finding:
        runs = runs_of(evidence, (AS_PRINTED if how else CHOSEN)[network], length)
        shares = 1 - runs["test/error"].to_numpy(float)
        return Finding(f"{right(runs)} of 10,000", [mean(shares, "right").within(most=2 * CHANCE)])

    printed = PRINTED[network][LENGTHS.index(length)]
    return Claim(
        f"The {network} does not add over {length} steps{how}.",
        f"Figure 3: {printed:,} of 10,000 right, no more than always answering 1",
        f"fewer than {20_000 * CHANCE:,.0f} of 10,000 right, twice as many as by always answering 1{AFTER[how]}",
        test,
    )


def _as_in_print(length: int) -> Iterator[Claim]:
    """A claim for each network that adds or fails in print; over 300 steps the np-tanhRNN does neither: 30 % right."""
    for network in NETWORKS:
        printed = PRINTED[network][LENGTHS.index(length)] / 10_000
        if printed > HALF:
            yield _answers_right(network, length, AS_IN_PRINT)
        elif printed < 2 * CHANCE:
            yield _fails(network, length, AS_IN_PRINT)


def most_right(evidence: Evidence, length: int, others: Mapping[str, Mapping[str, Any]], best: Any) -> Finding:
    """The difference in the share of right answers between the np-RNN and each other network."""
    ours = 1 - runs_of(evidence, best, length)["test/error"].to_numpy(float)
    effects, measured = [], [f"np-RNN {10_000 * ours.mean():,.0f}"]
    for network, settings in others.items():
        theirs = 1 - runs_of(evidence, settings, length)["test/error"].to_numpy(float)
        measured.append(f"{network} {10_000 * theirs.mean():,.0f}")
        effects.append(difference(ours, theirs, f"to {network}").within(least=0))
    return Finding(", ".join(measured), effects)


def _np_rnn_is_best(how: How = "") -> Claim:
    settings = AS_PRINTED if how else CHOSEN
    others = {network: settings[network] for network in NETWORKS if network != "np-RNN"}
    return Claim(
        f"The np-RNN is right more often than the others{how}.",
        "Figure 3: 9,500 against 8,550 and fewer over 150 steps",
        f"difference of the shares of right answers over 150 steps above 0 for each of the others{AFTER[how]}",
        lambda evidence: most_right(evidence, 150, others, settings["np-RNN"]),
    )


def np_rnn_is_robust(does: str, length: int, chosen: Mapping[str, Mapping[str, Any]], solved: float) -> Claim:
    """A claim that the np-RNN solves the task at more than half of the grid points; the others are shown beside it."""

    def test(evidence: Evidence) -> Finding:
        flags = {network: solved_points(evidence, chosen[network], length) for network in NETWORKS}
        measured = ", ".join(f"{network} {found.sum()} of {len(found)}" for network, found in flags.items())
        return Finding(measured, [share(flags["np-RNN"], "np-RNN").within(least=HALF)])

    return Claim(
        f"The np-RNN {does} at more than half of the learning rates.",
        "the paper's conclusion: robust, where the IRNN needs its settings to be right",
        f"over {length} steps a validation error below {solved:.4f} at more than half of the grid, with the first seed"
        + AFTER[""],
        test,
    )


def table_of_lengths(
    evidence: Evidence,
    chosen: Mapping[str, Mapping[str, Any]],
    printed: Mapping[str, Sequence[int]],
    lengths: Sequence[int],
    as_printed: Mapping[str, Mapping[str, Any]],
    floor: tuple[str, float, float],
) -> pd.DataFrame:
    """Right answers and squared errors with chosen settings and with the paper's, next to the printed numbers.

    `floor` is the predictor that knows only the mean, its share of right answers and its squared error.
    """
    rows = []
    for number, length in enumerate(lengths):
        for network, settings in chosen.items():
            in_print = f"{printed[network][number]:,}" if network in printed else "-"
            row = {"T": str(length), "network": network, "paper, right": in_print}
            with suppress(NotRunError):
                runs = runs_of(evidence, settings, length)
                row |= {"right of 10,000": right(runs), "error": errors_of(runs)}
                row |= {"n": str(len(runs)), "lr": chosen_lr(runs)}
                points = solved_points(evidence, settings, length)
                row["grid solved"] = f"{points.sum()} of {len(points)}"
            with suppress(NotRunError, KeyError):
                runs = runs_of(evidence, dict(as_printed[network]), length)
                row |= {"right, paper's settings": right(runs), "error, paper's settings": errors_of(runs)}
                row["n and updates, paper's settings"] = f"{len(runs)}, {ended_at(runs)}"
            if len(row) > 3:
                rows.append(row)
        if rows and rows[-1]["T"] == str(length):
            who, chance, error = floor
            row = {"T": str(length), "network": who, "paper, right": "-"}
            rows.append(row | {"right of 10,000": f"{10_000 * chance:,.0f}", "error": f"{error:.4f}"})
    return pd.DataFrame(rows).fillna("-")


def table(evidence: Evidence) -> pd.DataFrame:
    """Right answers with chosen settings and with the paper's, next to the printed numbers."""
    return table_of_lengths(evidence, CHOSEN, PRINTED, LENGTHS, AS_PRINTED, ("always answering 1", CHANCE, FLOOR))


def draw_lengths(
    evidence: Evidence,
    chosen: Mapping[str, Mapping[str, Any]],
    printed: Mapping[str, Sequence[int]],
    lengths: Sequence[int],
    as_printed: Mapping[str, Mapping[str, Any]],
    floor: tuple[str, float],
) -> Figure:
    """Right answers against the length, in print and here: mean and standard deviation over seeds."""
    shares = {network: _shares(evidence, settings, lengths) for network, settings in chosen.items()}
    shares_as_printed = {network: _shares(evidence, settings, lengths) for network, settings in as_printed.items()}
    label, chance = floor
    margin = (lengths[-1] - lengths[0]) / 20
    styles = style.styles_of({network: settings["model"] for network, settings in chosen.items()})
    titles = ["in print", "here, settings chosen on validation"]
    if any(shares_as_printed.values()):
        titles.append("here, the paper's settings")
    with rc_context(style.RC):
        figure, panels = style.panels(titles, sharey=True)
        for network, counts in printed.items():
            panels[0].plot(lengths, np.array(counts) / 100, label=network, **styles[network])
        for axes, found in zip(panels[1:], (shares, shares_as_printed), strict=False):
            for network, points in found.items():
                if points:
                    x, y, deviation = zip(*points, strict=True)
                    axes.errorbar(x, y, deviation, label=network, elinewidth=0.8, capsize=2, **styles[network])
        for axes in panels:
            axes.axhline(100 * chance, label=label, **style.FLOOR)
            axes.set(xlabel="steps T", xticks=lengths, xlim=(lengths[0] - margin, lengths[-1] + margin), ylim=(-3, 103))
        for axes in panels[::2]:
            axes.set_ylabel("right answers, %")
        style.legend(figure, panels)
    return figure


def _shares(evidence: Evidence, settings: Mapping[str, Any], lengths: Sequence[int]) -> list[tuple[int, float, float]]:
    """Each length that has runs, with the mean and standard deviation of the right answers in %."""
    points = []
    for length in lengths:
        with suppress(NotRunError):
            shares = 100 * (1 - runs_of(evidence, settings, length)["test/error"].to_numpy(float))
            points.append((length, shares.mean(), sd(shares)))
    return points


def _draw(evidence: Evidence) -> Figure:
    return draw_lengths(evidence, CHOSEN, PRINTED, LENGTHS, AS_PRINTED, ("always 1", CHANCE))


REPRODUCTION = Reproduction(
    title="Talathi and Vartak 2015: adding two marked numbers over 150 to 500 steps",
    experiments=(
        "talathi2015/adding",
        "le2015/adding",
        "le2015/adding_irnn",
        "le2015/adding_lstm",
        "le2015/adding_gru",
        "le2015/adding_fastweights",
        "le2015/adding_long",
        "talathi2015/adding_printed",
        "talathi2015/adding_printed_irnn",
    ),
    only_in_full=("le2015/adding_long", "talathi2015/adding_printed", "talathi2015/adding_printed_irnn"),
    claims=(
        _answers_right("np-RNN", 150, ", for longer"),
        _answers_right("IRNN", 150, ", for longer"),
        _answers_right("nRNN", 150),
        _answers_right("iRNN", 150),
        _answers_right("np-tanhRNN", 150),
        _fails("gRNN", 150),
        _fails("oRNN", 150),
        _np_rnn_is_best(),
        np_rnn_is_robust("adds", 150, CHOSEN, SOLVED),
        _answers_right("np-RNN", 200, ", for longer"),
        _answers_right("np-RNN", 300, ", for longer"),
        _answers_right("IRNN", 300, ", for longer"),
        *(claim for length in (150, 200, 300) for claim in _as_in_print(length)),
        _np_rnn_is_best(AS_IN_PRINT),
    ),
    table=table,
    figures={"lengths": _draw},
    measure=measure_grid(SOLVED),
    measure_needs_weights=False,
    quick=("task.sequence_length=150,200", "seed=0", "optimizer.lr=1e-3", "trainer.max_updates=500"),
    curves=("val/mse", "val/error"),
    replayed=({"name": NAME, "model": "nprnn", "task.sequence_length": 150, "seed": 0, "model.nonlinearity": "relu"},),
    replayed_curve="val/mse",
)
