"""Character prediction on War and Peace, by networks with 128 units and by CP gates of several ranks."""

from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from src.reports import style
from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, chosen_lr, mean_and_sd, sd
from src.reproduction.effects import difference, mean

MAIN, LONG, RANK = (f"karpathy2015-war-and-peace{suffix}" for suffix in ("", "-long", "-rank"))
MODELS = {"lstm": "LSTM", "gru": "GRU", "rnn": "tanh RNN", "fastweights": "Fast weights"}
PRINTED = {"lstm": 1.28, "rnn": 1.42}
"""Nats per character in Karpathy et al. (2015), one layer of 128 units; not checked against the paper."""
NGRAM, BEST = 1.195, 1.077
"""Nats per character of their 20-gram model, and of their best network, which has three layers."""
BOUND = 1.35
RANKS = (1, 8, 32, 128, 256)


def _nats(evidence: Evidence, model: str, **settings: Any) -> np.ndarray:
    return evidence.values("test/nll", name=settings.pop("name", MAIN), model=model, **settings)


def _spelled(values: np.ndarray) -> str:
    return mean_and_sd(values, ".3f")


def _lstm_is_near(name: str, epochs: int) -> Claim:
    def test(evidence: Evidence) -> Finding:
        values = _nats(evidence, "lstm", name=name)
        return Finding(_spelled(values), [mean(values, "", "nats").within(most=BOUND)])

    return Claim(
        f"After {epochs} epochs, an LSTM with 128 units predicts War and Peace.",
        f"about {PRINTED['lstm']:g} nats per character after 50 epochs in the paper (not checked)",
        f"mean test negative log-likelihood at most {BOUND:g} nats per character",
        test,
    )


def _gates_help(evidence: Evidence) -> Finding:
    lstm, rnn = (_nats(evidence, model) for model in ("lstm", "rnn"))
    effect = difference(lstm, rnn, unit="nats").within(most=0)
    return Finding(f"LSTM {_spelled(lstm)}, tanh RNN {_spelled(rnn)}", [effect])


def _rank_helps(evidence: Evidence) -> Finding:
    low, high = (_nats(evidence, "cp_gate", name=RANK, model__linear="separate", model__rank=r) for r in (1, 128))
    effect = difference(high, low, unit="nats").within(most=0)
    return Finding(f"R=128: {_spelled(high)}, R=1: {_spelled(low)}", [effect])


def table(evidence: Evidence) -> pd.DataFrame:
    """Nats per character of the test set, next to the printed numbers."""
    cells: list[tuple[str, str, dict[str, Any]]] = [("LSTM, 50 epochs", "-", {"name": LONG, "model": "lstm"})]
    cells += [(label, "-", {"name": MAIN, "model": model}) for model, label in MODELS.items()]
    cells += [
        (f"CP gate, {linear}", str(rank), {"name": RANK, "model__linear": linear, "model__rank": rank})
        for linear in ("separate", "combined")
        for rank in RANKS
    ]
    rows = []
    for label, rank, settings in cells:
        printed = PRINTED.get(settings.get("model", ""))
        row = {"model": label, "R": rank, "Karpathy 2015": "-" if printed is None else f"{printed:.2f}"}
        with suppress(NotRunError):
            runs = evidence.select(**settings)
            nats = runs["test/nll"].to_numpy(float)
            row |= {"nats": _spelled(nats), "bits": f"{nats.mean() / np.log(2):.3f}", "n": str(len(runs))}
            row |= {"lr": chosen_lr(runs), "weights": f"{runs['num_parameters'].iloc[0]:,.0f}"}
            row["updates"] = f"{runs['updates'].mean():,.0f} of {runs['trainer.max_updates'].iloc[0]:,}"
            rows.append(row)
    rows.append({"model": "20-gram", "R": "-", "Karpathy 2015": f"{NGRAM:.3f}"})
    rows.append({"model": "best, three layers", "R": "-", "Karpathy 2015": f"{BEST:.3f}"})
    return pd.DataFrame(rows).fillna("-")


def draw(evidence: Evidence) -> Figure:
    """Nats per character of the test set against the rank of CP gates, with the other networks as horizontal lines."""
    cells = {f"CP gate, {linear}": linear for linear in ("separate", "combined")}
    of_others = {label: model for model, label in MODELS.items()}
    styles = style.styles_of({label: f"cp_gate {linear}" for label, linear in cells.items()} | of_others)
    with rc_context(style.RC):
        figure, [axes] = style.panels([""])
        for label, linear in cells.items():
            points = []
            for rank in RANKS:
                with suppress(NotRunError):
                    nats = _nats(evidence, "cp_gate", name=RANK, model__linear=linear, model__rank=rank)
                    points.append((rank, nats.mean(), sd(nats)))
            if points:
                ranks, means, deviations = zip(*points, strict=True)
                axes.errorbar(ranks, means, deviations, label=label, elinewidth=0.8, capsize=2, **styles[label])
        for model, label in MODELS.items():
            with suppress(NotRunError):
                axes.axhline(_nats(evidence, model).mean(), label=label, **styles[label] | {"marker": ""})
        axes.set(
            xscale="log", xticks=RANKS, xticklabels=map(str, RANKS), xlabel="rank R", ylabel="test, nats per character"
        )
        axes.minorticks_off()
        style.legend(figure, [axes])
    return figure


REPRODUCTION = Reproduction(
    title="Karpathy et al. 2015: characters of War and Peace, nats per character of the test set, 128 units",
    experiments=("karpathy2015/war_and_peace", "karpathy2015/war_and_peace_long", "karpathy2015/war_and_peace_rank"),
    only_in_full=("karpathy2015/war_and_peace_long", "karpathy2015/war_and_peace_rank"),
    claims=(
        _lstm_is_near(LONG, 50),
        _lstm_is_near(MAIN, 20),
        Claim(
            "Gates help: the LSTM is better than a tanh network of the same width.",
            "about 1.28 against 1.42 (not checked)",
            "difference of mean test negative log-likelihoods below 0",
            _gates_help,
        ),
        Claim(
            "A CP gate of rank 128 is better than one of rank 1.",
            "Mathews (2016) ran this grid on 1.4 % of the text and prints no result",
            "difference of mean test negative log-likelihoods below 0, separate linear terms",
            _rank_helps,
        ),
    ),
    table=table,
    figures={"ranks": draw},
    quick=("seed=0", "model=lstm,rnn", "optimizer.lr=5e-3", "trainer.max_updates=1024"),
    curves=("val/nll",),
)
