"""Polyphonic music: the likelihood of the next frame under networks of about 20,000 weights."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
import pandas as pd

from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, chosen_lr, mean_and_sd
from src.reproduction.effects import difference, mean

SINGLE = "nottingham-single"
COLLECTIONS = {
    "jsb": "JSB chorales",
    "nottingham": "Nottingham",
    SINGLE: "Nottingham, one piece per update",
    "muse": "MuseData",
    "piano": "Piano-midi",
}
MODELS = {"rnn": "tanh RNN", "gru": "GRU", "lstm": "LSTM", "cp_gate": "CP gate", "fastweights": "Fast weights"}
_NOTTINGHAM = {"rnn": 3.13, "gru": 3.23, "lstm": 3.20}
CHUNG2014: Mapping[str, Mapping[str, float]] = {
    "jsb": {"rnn": 9.10, "gru": 8.54, "lstm": 8.67},
    "nottingham": _NOTTINGHAM,
    SINGLE: _NOTTINGHAM,
    "muse": {"rnn": 6.23, "gru": 5.99, "lstm": 6.23},
    "piano": {"rnn": 9.03, "gru": 8.82, "lstm": 9.03},
}
"""Chung et al. (2014), Table 2: nats per frame of the test set."""
BAI2018: Mapping[str, Mapping[str, float]] = {
    "jsb": {"rnn": 8.91, "gru": 8.43, "lstm": 8.45, "tcn": 8.10},
    "nottingham": {"rnn": 4.05, "gru": 3.46, "lstm": 3.29, "tcn": 3.07},
}
"""Bai, Kolter and Koltun (2018), Table 1: much larger networks, and a convolutional one."""
BOULANGER2012: Mapping[str, Mapping[str, float]] = {
    "jsb": {"rnn": 8.71, "rbm": 6.27},
    "nottingham": {"rnn": 4.46, "rbm": 2.39},
    "muse": {"rnn": 8.13, "rbm": 6.01},
    "piano": {"rnn": 8.37, "rbm": 7.09},
}
"""Boulanger-Lewandowski et al. (2012), Table 1: an RNN, and an RNN with an RBM, in which keys depend on each other."""
OTHERS = {"rbm": "RNN-RBM", "tcn": "TCN"}
LARGE_SIZE = 200
"""Units of an LSTM with about twelve times the weights of the others."""
NEAR = 0.15


def _nats(evidence: Evidence, pieces: str, model: str) -> np.ndarray:
    return evidence.values("test/nll", name=f"chung2014-{pieces}", model=model)


def _as_printed(pieces: str) -> Claim:
    def test(evidence: Evidence) -> Finding:
        measured, effects = [], []
        for model in ("gru", "lstm"):
            values, printed = _nats(evidence, pieces, model), CHUNG2014[pieces][model]
            measured.append(f"{MODELS[model]}: {mean_and_sd(values)}")
            effects.append(mean(values - printed, MODELS[model], "nats").within(most=NEAR))
        return Finding("; ".join(measured), effects)

    printed = CHUNG2014[pieces]
    return Claim(
        f"On {COLLECTIONS[pieces]}, a GRU and an LSTM are as good as printed.",
        f"Table 2: {printed['gru']:.2f} and {printed['lstm']:.2f} nats per frame",
        f"mean test negative log-likelihood at most {NEAR:g} nats per frame above the printed one",
        test,
    )


def _larger_is_as_good(evidence: Evidence) -> Finding:
    values, printed = _nats(evidence, "nottingham-large", "lstm"), BAI2018["nottingham"]["lstm"]
    return Finding(mean_and_sd(values), [mean(values - printed, unit="nats").within(most=NEAR)])


def _gates(statement: str, pieces: str, models: Sequence[str], *, better: bool) -> Claim:
    """A claim that gated networks are better than the tanh network on a collection or, if not `better`, worse."""

    def test(evidence: Evidence) -> Finding:
        plain = _nats(evidence, pieces, "rnn")
        gated = {model: _nats(evidence, pieces, model) for model in models}
        measured = "; ".join(f"{MODELS[model]}: {mean_and_sd(values)}" for model, values in gated.items())
        found = [difference(values, plain, MODELS[model], "nats") for model, values in gated.items()]
        effects = [effect.within(most=0) if better else effect.within(least=0) for effect in found]
        return Finding(f"{measured}; tanh RNN: {mean_and_sd(plain)}", effects)

    printed = CHUNG2014[pieces]
    return Claim(
        statement,
        f"Table 2: {' and '.join(f'{printed[model]:.2f}' for model in models)} against {printed['rnn']:.2f}",
        f"{'both differences' if len(models) > 1 else 'difference'} of mean test negative log-likelihoods "
        f"{'below' if better else 'above'} 0",
        test,
    )


def _others_keep_up(pieces: str, title: str) -> Claim:
    def test(evidence: Evidence) -> Finding:
        gru = _nats(evidence, pieces, "gru")
        found = {model: _nats(evidence, pieces, model) for model in ("cp_gate", "fastweights")}
        measured = "; ".join(f"{MODELS[model]}: {mean_and_sd(values)}" for model, values in found.items())
        effects = [difference(values, gru, MODELS[model], "nats").within(most=NEAR) for model, values in found.items()]
        return Finding(f"{measured}; GRU: {mean_and_sd(gru)}", effects)

    return Claim(
        f"On {title}, a CP gate and fast weights of that size keep up with a GRU.",
        "not in the paper",
        f"mean test negative log-likelihood at most {NEAR:g} nats per frame above that of the GRU",
        test,
    )


def _measured(evidence: Evidence, name: str, model: str) -> dict[str, str]:
    runs = evidence.select(name=f"chung2014-{name}", model=model)
    return {
        "ours": mean_and_sd(runs["test/nll"].to_numpy(float)),
        "n": str(len(runs)),
        "lr": chosen_lr(runs),
        "weights": f"{runs['num_parameters'].iloc[0]:,.0f}",
        "updates": f"{runs['updates'].mean():,.0f} of {runs['trainer.max_updates'].iloc[0]:,}",
    }


def table(evidence: Evidence) -> pd.DataFrame:
    """Nats per frame of the test set, by collection and model, next to the printed numbers."""
    none = dict.fromkeys(("n", "lr", "weights", "updates"), "-")
    rows = []
    for pieces, title in COLLECTIONS.items():
        for model, label in (MODELS | OTHERS).items():
            row = {"collection": title, "model": label}
            for paper, printed in (
                ("Chung 2014", CHUNG2014), ("Bai 2018", BAI2018), ("Boulanger-L. 2012", BOULANGER2012)
            ):  # fmt: skip
                value = printed.get(pieces, {}).get(model)
                row[paper] = "-" if value is None else f"{value:.2f}"
            row |= {"ours": "-" if model in OTHERS else "not run"} | none
            with suppress(NotRunError):
                row |= _measured(evidence, pieces, model)
            if any(row[key] not in ("-", "not run") for key in ("Chung 2014", "Bai 2018", "Boulanger-L. 2012", "ours")):
                rows.append(row)
        with suppress(NotRunError):
            large = {"collection": title, "model": f"LSTM, {LARGE_SIZE} units", "Chung 2014": "-"}
            large |= {"Bai 2018": f"{BAI2018[pieces]['lstm']:.2f}" if pieces in BAI2018 else "-"}
            large |= {"Boulanger-L. 2012": "-"}
            rows.append(large | _measured(evidence, f"{pieces}-large", "lstm"))
    return pd.DataFrame(rows)


REPRODUCTION = Reproduction(
    title="Chung et al. 2014, Table 2: the next frame of polyphonic music, nats per frame of the test set",
    experiments=(
        "chung2014/jsb",
        "chung2014/nottingham",
        "chung2014/nottingham_single",
        "chung2014/muse",
        "chung2014/piano",
        "chung2014/nottingham_large",
    ),
    only_in_full=(
        "chung2014/nottingham",
        "chung2014/nottingham_single",
        "chung2014/muse",
        "chung2014/piano",
        "chung2014/nottingham_large",
    ),
    claims=(
        _as_printed("jsb"),
        _as_printed("nottingham"),
        _as_printed(SINGLE),
        Claim(
            f"On Nottingham, an LSTM of {LARGE_SIZE} units is as good as that of Bai et al.",
            f"Bai, Kolter & Koltun 2018: {BAI2018['nottingham']['lstm']:.2f} nats per frame",
            f"mean test negative log-likelihood at most {NEAR:g} nats per frame above the printed one",
            _larger_is_as_good,
        ),
        _gates(
            "Gates help: on the chorales a GRU and an LSTM are better than a tanh network.",
            "jsb",
            ("gru", "lstm"),
            better=True,
        ),
        _gates("On MuseData, a GRU is better than a tanh network.", "muse", ("gru",), better=True),
        _gates("On Piano-midi, a GRU is better than a tanh network.", "piano", ("gru",), better=True),
        _gates(
            "Gates do not help everywhere: on Nottingham a tanh network is better than a GRU and an LSTM.",
            "nottingham",
            ("gru", "lstm"),
            better=False,
        ),
        _gates("With one piece per update gates do not help there either.", SINGLE, ("gru", "lstm"), better=False),
        _others_keep_up("jsb", "the chorales"),
        _others_keep_up("nottingham", "Nottingham"),
    ),
    table=table,
    quick=("seed=0", "optimizer.lr=3e-3", "trainer.max_updates=2900"),
    curves=("val/nll", "val/accuracy"),
)
