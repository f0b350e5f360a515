"""Figure 5: the return on Catch, against the number of actions."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from src.reports.style import FLOOR as FLOOR_LINE
from src.reports.style import RC, legend, panels, style_of
from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, Searches, Study, mean_and_sd
from src.reproduction.effects import difference, ratio, ratio_of_best

MODELS = {"irnn": "RNN", "lstm": "LSTM", "fastweights": "Fast weights"}
VISIBLE = {16: 3, 24: 5}
"""The number M of visible frames, by the size N of the screen."""
PRINTED = {size: pd.read_csv(Path(__file__).with_name(f"figure5_{size}.csv"), index_col="x") for size in VISIBLE}
"""Mean reward, read from the vector paths of the paper's figure; the unit of x is not stated."""
GOAL = 0.9
BEST = 5
"""The number of best trials of a search whose mean the paper shows."""
EPISODES = 64
"""Episodes per update."""

LR = "optimizer.lr=tag(log, interval(5e-4, 1e-2))"
STUDIES = (
    Study(("model=ba2016/irnn",), (LR,)),
    Study(("model=lstm",), (LR,)),
    Study(
        ("model=fastweights",),
        (
            LR,
            "model.fast_lr=tag(log, interval(0.01, 1.0))",
            "model.decay=interval(0.8, 1.0)",
            "model.num_inner_steps=choice(1, 2, 3)",
        ),
    ),
)
ABLATIONS = {
    "fast-lr": ("model.fast_lr",),
    "decay": ("model.decay",),
    "inner-steps": ("model.num_inner_steps",),
    "scale": ("model.recurrent_scale",),
    "norm": ("model.layer_norm", "model.fast_lr", "model.recurrent_scale"),
    "no-norm": ("model.layer_norm", "model.fast_lr"),
}
"""The settings that each ablation varies, by the last part of the name of its folder."""
SEARCHED = {
    "irnn": ("optimizer.lr",),
    "lstm": ("optimizer.lr",),
    "fastweights": ("optimizer.lr", "model.fast_lr", "model.decay", "model.num_inner_steps"),
}
SYMBOLS = {
    "optimizer.lr": "lr",
    "model.fast_lr": "η",
    "model.decay": "λ",
    "model.num_inner_steps": "S",
    "model.layer_norm": "norm",
    "model.recurrent_scale": "W = I times",
}


def of_search(size: int, model: str) -> dict[str, Any]:
    """The settings by which the trials of a search are selected."""
    return {"name": f"ba2016-figure5-search-{size}", "model": model}


def of_seeds(size: int, model: str) -> dict[str, Any]:
    """The settings by which the runs at the chosen settings are selected."""
    return {"name": "ba2016-figure5" + "-24" * (size == 24), "model": model}


def trials(evidence: Evidence, size: int, model: str) -> pd.DataFrame:
    """The trials of a search by descending `score`, the mean validation return over the whole run."""
    runs = evidence.select(**of_search(size, model))
    means = {run: curve.mean() for run, curve in _curves(evidence, runs["run"]).items()}
    return runs.assign(score=runs["run"].map(means)).sort_values("score", ascending=False)


def best_trials(evidence: Evidence, size: int, model: str) -> pd.DataFrame:
    """The best trials of a search, best first."""
    return trials(evidence, size, model).head(BEST)


def _curves(evidence: Evidence, runs: Iterable[str]) -> pd.DataFrame:
    """Validation returns by update, a column per run; a run that stopped because it was solved keeps its last value."""
    curves = evidence.curves[evidence.curves["run"].isin(list(runs))]
    return curves.pivot_table(index="update", columns="run", values="val/return").sort_index().ffill()


def _reached(evidence: Evidence, runs: pd.DataFrame, goal: float = GOAL) -> np.ndarray:
    """The first evaluated update at which each run reaches a return; inf for never."""
    curves = _curves(evidence, runs["run"])
    first = [curves.index[curves[run] >= goal].min() for run in runs["run"]]
    return np.nan_to_num(np.array(first, float), nan=np.inf)


def _millions(updates: np.ndarray, size: int) -> str:
    """Numbers of updates as millions of actions, median and range."""
    actions = np.sort(updates) * EPISODES * (size - 1) / 1e6
    shown = ["never" if np.isinf(value) else f"{value:.2f}" for value in (np.median(actions), *actions[[0, -1]])]
    return shown[0] if len(set(shown)) == 1 else f"{shown[0]} ({shown[1]} to {shown[2]})"


def _sooner(evidence: Evidence, size: int, pairs: Iterable[tuple[str, str]], searched: bool) -> Finding:
    """The ratios of the numbers of actions to the goal, for the best trials or for the seeds at the chosen settings."""
    effects, until = [], {}
    for ours, theirs in pairs:
        both, reached = [], []
        for model in (ours, theirs):
            runs = trials(evidence, size, model) if searched else evidence.select(**of_seeds(size, model))
            both.append(runs)
            reached.append(_reached(evidence, runs))
            until[model] = reached[-1][:BEST] if searched else reached[-1]
        never, name = float(runs["trainer.max_updates"].max()), f"{MODELS[ours]} to {MODELS[theirs]}"
        if searched:
            scores = [runs["score"].to_numpy(float) for runs in both]
            effect = ratio_of_best(reached[0], reached[1], scores, BEST, never, name)
        else:
            effect = ratio(reached[0], reached[1], never, name)
        effects.append(effect.within(most=1))
    measured = "; ".join(f"{MODELS[model]}: {_millions(updates, size)}" for model, updates in until.items())
    return Finding(f"{measured} million actions", effects)


def _order(size: int, searched: bool) -> Any:
    pairs = (("fastweights", "lstm"), ("fastweights", "irnn"))
    return lambda evidence: _sooner(evidence, size, pairs, searched)


def _lstm_before_rnn(size: int, searched: bool) -> Any:
    return lambda evidence: _sooner(evidence, size, (("lstm", "irnn"),), searched)


def _norm_slows(evidence: Evidence) -> Finding:
    """Both networks are without a memory, so that nothing but the norm differs."""
    settings: dict[str, Any] = {"name": "ba2016-figure5-norm"}
    ends = {norm: evidence.values("test/return", model__layer_norm=norm, **settings) for norm in (True, False)}
    measured = f"test return with: {mean_and_sd(ends[True])}; without: {mean_and_sd(ends[False])}"
    return Finding(measured, [difference(ends[True], ends[False], unit="of return").within(most=-0.1)])


def _scale_slows(evidence: Evidence) -> Finding:
    settings = {0.05: of_seeds(16, "fastweights"), 0.5: {"name": "ba2016-figure5-scale"}}
    runs = {scale: evidence.select(**chosen) for scale, chosen in settings.items()}
    until = {scale: _reached(evidence, of_scale) for scale, of_scale in runs.items()}
    measured = "; ".join(f"W = {scale:g} I: {_millions(updates, 16)}" for scale, updates in until.items())
    never = float(runs[0.05]["trainer.max_updates"].max())
    return Finding(f"{measured} million actions", [ratio(until[0.5], until[0.05], never).within(most=1)])


def _memory_helps(evidence: Evidence) -> Finding:
    with_it = evidence.values("test/return", **of_seeds(16, "fastweights"))
    without = evidence.values("test/return", name="ba2016-figure5-fast-lr", model__fast_lr=0)
    measured = f"test return with: {mean_and_sd(with_it)}; without: {mean_and_sd(without)}"
    return Finding(measured, [difference(with_it, without, unit="of return").within(least=0.1)])


def table(evidence: Evidence) -> pd.DataFrame:
    """Actions needed for three levels of return: in print, for the best trials of each search, seeds and ablations."""
    rows: list[dict[str, str]] = []
    for size in VISIBLE:
        for model, label in MODELS.items():
            printed = _printed(size, model)
            row = {"N, M": f"{size}, {VISIBLE[size]}", "model": label}
            row["paper, x at 0.9"] = f"{_crossing(printed):.1f}" if (printed >= GOAL).any() else "never"
            try:
                best, number = best_trials(evidence, size, model), len(evidence.select(**of_search(size, model)))
            except NotRunError:
                rows.append(row | {"runs": "not run"})
                continue
            rows.append(row | {"runs": f"best {len(best)} of {number} trials"} | _measured(evidence, size, best))
            with suppress(NotRunError):
                seeds = evidence.select(**of_seeds(size, model))
                rows.append(row | {"runs": f"{len(seeds)} seeds"} | _measured(evidence, size, seeds))
    for name, keys in ABLATIONS.items():
        try:
            runs = evidence.select(name=f"ba2016-figure5-{name}")
        except NotRunError:
            continue
        for _, of_setting in runs.groupby(list(keys), sort=False):
            number = len(of_setting)
            row = {"N, M": "16, 3", "model": MODELS["fastweights"], "paper, x at 0.9": "-"}
            what = f"ablation: {_setting(of_setting, keys)}, {number} seed{'s' * (number > 1)}"
            rows.append(row | {"runs": what} | _measured(evidence, 16, of_setting))
    return pd.DataFrame(rows)


def _printed(size: int, model: str) -> "pd.Series[float]":
    """The printed curve of a network, by x; some points were read off for one curve only."""
    return PRINTED[size][model].dropna()


def _crossing(printed: "pd.Series[float]") -> float:
    """The x at which a printed curve reaches the goal, interpolated between its points."""
    above = int(np.argmax(printed.to_numpy() >= GOAL))
    (x_0, y_0), (x_1, y_1) = ((float(printed.index[i]), float(printed.iloc[i])) for i in (above - 1, above))
    return x_0 + (GOAL - y_0) / (y_1 - y_0) * (x_1 - x_0)


def _measured(evidence: Evidence, size: int, runs: pd.DataFrame) -> dict[str, str]:
    keys = SEARCHED[runs["model"].iloc[0]]
    ended = runs[runs["status"] == "finished"]
    return {
        "settings": _setting(runs, keys),
        "million actions to 0": _millions(_reached(evidence, runs, 0), size),
        "to 0.5": _millions(_reached(evidence, runs, 0.5), size),
        "to 0.9": _millions(_reached(evidence, runs), size),
        "test return": mean_and_sd(ended["test/return"].to_numpy(float)) if len(ended) else "diverged",
        "diverged": str(len(runs) - len(ended)) if len(ended) < len(runs) else "",
    }


def _setting(runs: pd.DataFrame, keys: Iterable[str]) -> str:
    """The settings of runs as text, as ranges where they differ."""
    shown = []
    for key in keys:
        values = sorted(runs[key].unique())
        if isinstance(values[0], bool | np.bool_):
            shown.append(f"{SYMBOLS[key]} {'on' if values[0] else 'off'}")
        else:
            spelled = f"{values[0]:.2g}" + (f" to {values[-1]:.2g}" if len(values) > 1 else "")
            shown.append(f"{SYMBOLS[key]} {spelled}")
    return ", ".join(shown)


def draw(evidence: Evidence) -> Figure:
    """Mean return of the best trials with their range, drawn over the printed curves.

    The printed x axis is stretched so that the printed LSTM reaches the goal where the mean of ours does.
    """
    with rc_context(RC):
        sizes = [size for size in VISIBLE if _was_searched(evidence, size)]
        figure, all_axes = panels([f"N = {size}, M = {VISIBLE[size]}" for size in sizes])
        figure.set_size_inches(1.5 + 4 * len(sizes), 3.4)
        thin: dict[str, Any] = {"linewidth": 0.8, "markersize": 2.5, "linestyle": "-", "alpha": 0.8}
        for axes, size in zip(all_axes, sizes, strict=True):
            ours = {}
            for model in MODELS:
                with suppress(NotRunError):
                    ours[model] = _curves(evidence, best_trials(evidence, size, model)["run"])
            stretch = _stretch(ours.get("lstm"), size)
            for model, label in MODELS.items():
                style = style_of(model)
                if stretch is not None:
                    points = _printed(size, model)
                    axes.plot(points.index * stretch, points, color=style["color"], marker=style["marker"], **thin)
                if model in ours:
                    millions = ours[model].index * EPISODES * (size - 1) / 1e6
                    axes.plot(millions, ours[model].mean(axis=1), label=label, **(style | {"markersize": 0}))
                    low, high = ours[model].min(axis=1), ours[model].max(axis=1)
                    axes.fill_between(millions, low, high, color=style["color"], alpha=0.15, linewidth=0)
            for name, level in (("ignores the ball", -1 + 4 / size), ("perfect", 1)):
                dotted = {"linestyle": ":"} if name == "perfect" else {}
                axes.axhline(level, label=name, **(FLOOR_LINE | {"linewidth": 0.8} | dotted))
            axes.set(ylim=(-1, 1.05), xlabel="million actions", ylabel="mean return")
            axes.set_xlim(0, max(curve.index.max() for curve in ours.values()) * EPISODES * (size - 1) / 1e6)
        all_axes[0].plot([], [], color="0.4", marker="o", label="in print, x stretched", **thin)
        legend(figure, all_axes)
    return figure


def _was_searched(evidence: Evidence, size: int) -> bool:
    return bool((evidence.runs["name"] == f"ba2016-figure5-search-{size}").any())


def _stretch(ours: pd.DataFrame | None, size: int) -> float | None:
    """Million actions per unit of the printed x; None if our LSTM does not reach the goal."""
    if ours is None:
        return None
    mean = ours.mean(axis=1)
    reached = mean.index[mean >= GOAL]
    if not len(reached):
        return None
    return float(reached[0]) * EPISODES * (size - 1) / 1e6 / _crossing(_printed(size, "lstm"))


TRIALS = "the best five trials of each search"


def _claims() -> Iterable[Claim]:
    for size, visible in VISIBLE.items():
        fast, lstm = (_crossing(_printed(size, model)) for model in ("fastweights", "lstm"))
        before_lstm, before_rnn = f"{fast / lstm:.2f}, and the RNN does not get there", "the RNN does not get there"
        if (_printed(size, "irnn") >= GOAL).any():
            rnn = _crossing(_printed(size, "irnn"))
            before_lstm, before_rnn = f"{fast / lstm:.2f} and {fast / rnn:.2f}", f"{lstm / rnn:.2f}"
        for searched in (False, True):
            what = TRIALS if searched else f"five seeds at the settings of the best trial at N = {size}"
            yield Claim(
                f"N = {size}, M = {visible}: fast weights reach a return of 0.9 sooner than the LSTM and the RNN.",
                "Section 4.4, Figure 5",
                f"{what}: both ratios of actions until then below 1 (in print {before_lstm})",
                _order(size, searched),
            )
            yield Claim(
                f"N = {size}, M = {visible}: the LSTM reaches it sooner than the RNN.",
                "Figure 5",
                f"{what}: ratio of actions until then below 1 (in print {before_rnn})",
                _lstm_before_rnn(size, searched),
            )


REPRODUCTION = Reproduction(
    title="Ba et al. 2016, Figure 5: the return on Catch, by architecture",
    experiments=(
        *(f"ba2016/figure5/search_{size}" for size in VISIBLE),
        "ba2016/figure5/seeds",
        "ba2016/figure5/seeds_24",
        *(f"ba2016/figure5/ablation_{name.replace('-', '_')}" for name in ABLATIONS),
    ),
    only_in_full=(
        "ba2016/figure5/search_24",
        "ba2016/figure5/seeds_24",
        *(f"ba2016/figure5/ablation_{name.replace('-', '_')}" for name in ABLATIONS),
    ),
    claims=(
        *_claims(),
        Claim(
            "Layer normalization keeps a network without memory from learning the game.",
            "not in the paper",
            "η=0, W starts at half of the identity: mean test return more than 0.1 lower with the norm",
            _norm_slows,
        ),
        Claim(
            "Fast weights reach a return of 0.9 sooner if W starts from half of the identity than from a twentieth.",
            "not in the paper, and thought of after the ablations",
            "settings of the best trial, N = 16: ratio of actions until then below 1",
            _scale_slows,
        ),
        Claim(
            "With the norm, fast weights need their memory to play.",
            "not in the paper",
            "settings of the best trial: with η=0 the mean test return is more than 0.1 lower",
            _memory_helps,
        ),
    ),
    table=table,
    figures={"figure5": draw},
    quick=("trainer.max_updates=1000",),
    searches=Searches({f"ba2016/figure5/search_{size}": STUDIES for size in VISIBLE}, trials=60, quick_trials=4),
    curves=("val/return", "val/entropy"),
    replayed=(
        {"name": "ba2016-figure5", "model": "fastweights"},
        {"name": "ba2016-figure5", "model": "lstm"},
    ),
    replayed_curve="val/entropy",
)
