"""MNIST pixel by pixel: the IRNN against an LSTM and networks with Gaussian weights."""

from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from src.data import mnist
from src.reports.style import FLOOR, RC, legend, panels, styles_of
from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, chosen_lr, percent
from src.reproduction.effects import difference, mean

PIXELS, LONG, RATES, ROWS = "le2015-pixels", "le2015-pixels-long", "le2015-pixels-rates", "le2015-rows"
FOR_LONGER = "scanline, 32 epochs"
SEARCHED = "scanline, 2 epochs"
"""The runs on which the learning rates of the longer runs were chosen."""
UNTUNED = "scanline, forget bias 1"
"""The LSTM with the forget bias of the paper, not the one that is best after two epochs."""
FORGET_BIAS = {"scanline": 2.0, UNTUNED: 1.0, "permuted": 1.0}
"""Forget bias of the LSTM. For the scan lines it was chosen over two epochs; for the random order none was chosen."""
NETWORKS: dict[str, dict[str, Any]] = {
    "IRNN": {"model": "irnn"},
    "LSTM": {"model": "lstm"},
    "tanh RNN": {"model": "rnn", "model__nonlinearity": "tanh"},
    "ReLU RNN": {"model": "rnn", "model__nonlinearity": "relu"},
    "np-RNN": {"model": "nprnn"},
    "GRU": {"model": "gru"},
    "fast weights": {"model": "fastweights"},
}
PRINTED = {
    "scanline": {"IRNN": 0.97, "LSTM": 0.66, "tanh RNN": 0.34, "ReLU RNN": 0.20},
    "permuted": {"IRNN": 0.81, "LSTM": 0.35, "tanh RNN": 0.33, "ReLU RNN": 0.25},
    FOR_LONGER: {"IRNN": 0.88},
}
"""Accuracy on the test set in Figure 3, after up to 1,000,000 updates of 16 images, or 100,000; all but those of the
IRNN in the order of the scan lines are read off by eye."""
CURVE = {100_000: 0.88, 200_000: 0.92, 500_000: 0.96}
"""Accuracy of the IRNN in the order of the scan lines, by the number of updates of 16 images."""
PIXEL_BATCH, ROW_BATCH = 16, 64
"""Images per update: the paper's, and those of the task by rows, the quick form of the task."""
_, EPOCH = mnist.bounds("train")
"""The number of training images."""


def _of_order(order: str, network: str) -> dict[str, Any]:
    """The settings that distinguish the runs of a row of the table from other runs of the same network."""
    names = {"rows": ROWS, FOR_LONGER: LONG, SEARCHED: f"{RATES}-lstm" if network == "LSTM" else RATES}
    if order in names:
        return {"name": names[order]}
    of_pixels = {"name": PIXELS, "task__order": order.partition(",")[0]}
    has_bias = network == "LSTM" or order == UNTUNED
    return of_pixels | ({"model__forget_bias": FORGET_BIAS[order]} if has_bias else {})


def _runs(evidence: Evidence, network: str, order: str) -> pd.DataFrame:
    return evidence.select(**_of_order(order, network), **NETWORKS[network])


def _errors(evidence: Evidence, network: str, order: str) -> np.ndarray:
    return _runs(evidence, network, order)["test/error"].to_numpy(float)


def _lstm_is_worse(order: str) -> Claim:
    def test(evidence: Evidence) -> Finding:
        errors = {network: _errors(evidence, network, order) for network in ("IRNN", "LSTM")}
        measured = "; ".join(f"{network}: error {percent(values)}" for network, values in errors.items())
        return Finding(measured, [difference(errors["IRNN"], errors["LSTM"]).within(most=0)])

    of = PRINTED[order]
    where = "pixel by pixel" if order == "scanline" else "pixel by pixel in a random order"
    return Claim(
        f"The IRNN reads digits {where} better than the LSTM.",
        f"Figure 3: {100 * of['IRNN']:.0f} against {100 * of['LSTM']:.0f} % right",
        "difference of the errors on the test set below 0, after the same number of images",
        test,
    )


def _lstm_by_rows(evidence: Evidence) -> Finding:
    errors = _errors(evidence, "LSTM", "rows")
    return Finding(f"error {percent(errors)}", [mean(errors, "LSTM").within(most=0.03)])


def _irnn(evidence: Evidence) -> Finding:
    errors = _errors(evidence, "IRNN", FOR_LONGER)
    return Finding(f"error {percent(errors)}", [mean(errors, "IRNN").within(most=0.12)])


def table(evidence: Evidence) -> pd.DataFrame:
    """Errors on the test set, in print and here, by order of the pixels."""
    rows = []
    for order in ("scanline", UNTUNED, "permuted", FOR_LONGER, SEARCHED, "rows"):
        batch_size = ROW_BATCH if order == "rows" else PIXEL_BATCH
        for network in NETWORKS:
            printed = PRINTED.get(order, {}).get(network)
            row = {"order": order, "network": network, "paper": f"{100 * (1 - printed):.0f} %" if printed else "-"}
            with suppress(NotRunError):
                runs = _runs(evidence, network, order)
                images = batch_size * float(runs["updates"].mean())
                row |= {"error": percent(runs["test/error"].to_numpy(float)), "n": str(len(runs))}
                row |= {"images seen": f"{images:,.0f}", "lr": chosen_lr(runs)}
                rows.append(row)
    return pd.DataFrame(rows)


def draw(evidence: Evidence) -> Figure:
    """Errors on the validation set against epochs, with the paper's points."""
    styles = styles_of({network: settings["model"] for network, settings in NETWORKS.items()})
    with rc_context(RC):
        orders = ("scanline", "permuted", FOR_LONGER)
        figure, all_axes = panels([*orders])
        for order, axes in zip(orders, all_axes, strict=True):
            for network, settings in NETWORKS.items():
                with suppress(NotRunError):
                    curve = evidence.mean_curve("val/error", **_of_order(order, network), **settings).iloc[1:]
                    style = styles[network] | {"markersize": 0}
                    axes.plot(curve.index * PIXEL_BATCH / EPOCH, curve["mean"], label=network, **style)
            axes.axhline(0.9, **FLOOR, label="chance")
            axes.set(ylim=(0, 1), xlabel="epochs")
        points = {update * PIXEL_BATCH / EPOCH: 1 - accuracy for update, accuracy in CURVE.items()}
        all_axes[-1].plot(list(points), list(points.values()), "k^", label="IRNN, in print (test set)")
        all_axes[0].set(ylabel="validation error")
        legend(figure, all_axes)
    return figure


REPRODUCTION = Reproduction(
    title="Le et al. 2015, Figure 3: MNIST pixel by pixel, in two orders, and by rows",
    experiments=(
        "le2015/pixels",
        "le2015/pixels_long",
        "le2015/pixels_rates",
        "le2015/pixels_rates_lstm",
        "le2015/rows",
    ),
    only_in_full=("le2015/pixels_long", "le2015/pixels_rates", "le2015/pixels_rates_lstm"),
    claims=(
        _lstm_is_worse("scanline"),
        _lstm_is_worse("permuted"),
        Claim(
            "An IRNN reads 88 % of the digits pixel by pixel.",
            "Figure 3: after 100,000 updates of 16 images, 97 % after 1,000,000",
            "after as many updates: mean error on the test set below 12 %",
            _irnn,
        ),
        Claim(
            "A tuned LSTM reads digits by rows.",
            "not in the paper, whose LSTM classifies 66 % of the digits correctly, pixel by pixel",
            "mean error on the test set below 3 %",
            _lstm_by_rows,
        ),
    ),
    table=table,
    figures={"learning_curves": draw},
    quick=("seed=0", "optimizer.lr=1e-3", "trainer.max_updates=300"),
    curves=("val/error", "val/nll"),
)
