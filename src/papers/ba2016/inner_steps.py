"""Beyond the paper: what lets fast weights with several inner steps start to learn."""

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.papers.ba2016.table1 import FLOOR
from src.reports.style import FLOOR as FLOOR_LINE
from src.reports.style import RC, legend, panels, styles_of
from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, chosen_lr, percent, thousands
from src.reproduction.effects import difference, mean, ratio

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import Tensor

    from src.models.fastweights import FastWeights
    from src.models.sequence import SequenceModel

ONE, START, LONG = "ba2016-inner-steps-one", "ba2016-inner-steps-start", "ba2016-inner-steps-long"
"""Folder names."""
KEYS = ("model.num_inner_steps", "model.normalized", "model.read_weights", "model.fast_lr", "seed")
READ_WITH = (1, 2, 3, 5)
FURTHER = (2, 3)
FURTHER_UPDATES = 5000
"""Numbers of inner steps with which a network trained with one is read, and with which its training continues."""
OF_LONG = [(1, 0.5), *((steps, 0.02) for steps in (1, *FURTHER))]
"""Inner steps and η of those networks that are built as in the paper and learn."""
VARIANTS = {
    ("all", "one"): "as in the paper",
    ("all", "learned"): "learned reads",
    ("last", "one"): "last norm only",
    ("last", "learned"): "last norm only, learned reads",
}


def _settings(steps: int, normalized: str, read_weights: str) -> dict[str, Any]:
    varied = {"model__normalized": normalized, "model__read_weights": read_weights}
    return {"name": START, "model__num_inner_steps": steps, **varied}


def _plain(steps: int, fast_lr: float) -> dict[str, Any]:
    """The settings of networks as in the paper; with more than one inner step, of the longer runs."""
    return {"name": ONE if steps == 1 else LONG, "model__num_inner_steps": steps, "model__fast_lr": fast_lr}


def _changed(evidence: Evidence, steps: int, fast_lr: float, **settings: Any) -> np.ndarray:
    """Errors of networks that were trained with one inner step and are read with another number of them."""
    found = evidence.select_measured(**_plain(1, fast_lr), read_with=steps, **settings)
    return found["error"].to_numpy(float)


def _similar(evidence: Evidence, by_steps: dict[int, dict[str, Any]]) -> Finding:
    errors = {steps: evidence.values("test/error", **settings) for steps, settings in by_steps.items()}
    measured = "; ".join(f"S={steps}: {percent(values)}" for steps, values in errors.items())
    effects = [difference(errors[steps], errors[1], f"S={steps}").within(-0.01, 0.01) for steps in errors if steps > 1]
    return Finding(measured, effects)


def _as_one_step(evidence: Evidence) -> Finding:
    return _similar(evidence, {1: _plain(1, 0.5)} | {steps: _settings(steps, "last", "learned") for steps in FURTHER})


def _weak_and_long(evidence: Evidence) -> Finding:
    return _similar(evidence, {steps: _plain(steps, 0.02) for steps in (1, *FURTHER)})


def _later(evidence: Evidence) -> Finding:
    until = {steps: evidence.updates_until("val/error", 0.02, **_plain(steps, 0.02)) for steps in (1, 2)}
    measured = "2 % validation error at " + "; ".join(f"S={steps}: {thousands(u)}" for steps, u in until.items())
    return Finding(measured, [ratio(until[2], until[1], evidence.updates_of(**_plain(2, 0.02))).within(least=2)])


def _one_change_helps(normalized: str, read_weights: str) -> Claim:
    def test(evidence: Evidence) -> Finding:
        changed, as_in_paper = (
            evidence.values("test/error", **_settings(2, *variant))
            for variant in ((normalized, read_weights), ("all", "one"))
        )
        measured = f"{percent(changed)} against {percent(as_in_paper)}"
        return Finding(measured, [difference(changed, as_in_paper).within(most=-0.1)])

    statements = {
        ("last", "one"): "Two inner steps start if only the last is normalized.",
        ("all", "learned"): "Two inner steps start if the weight of the first read is learned, from 0.",
    }
    return Claim(
        statements[normalized, read_weights],
        "not in the paper",
        "η=0.5, 10,000 updates: mean test error more than 10 points lower than as in the paper",
        test,
    )


def _reads_are_used(evidence: Evidence) -> Finding:
    measured, effects = [], []
    for steps in FURTHER:
        settings = _settings(steps, "last", "learned")
        whole = evidence.values("test/error", **settings)
        without = evidence.select_measured(**settings, read_with=1)["error"].to_numpy(float)
        measured.append(f"S={steps}: {percent(whole)}, without {percent(without)}")
        effects.append(difference(without, whole, f"S={steps}").within(least=0.1))
    return Finding("; ".join(measured), effects)


def _forgets(evidence: Evidence) -> Finding:
    by_steps = {1: _plain(1, 0.5), 2: _settings(2, "all", "one")}
    kept = {
        steps: evidence.select_measured(**settings, weights="initial", inner_step=steps)["kept"].to_numpy(float)
        for steps, settings in by_steps.items()
    }
    measured = "; ".join(f"S={steps}: {values.mean():.1e}" for steps, values in kept.items())
    return Finding(measured, [ratio(kept[2], kept[1], never=np.inf).within(most=0.1)])


def _goes_on(fast_lr: float) -> Claim:
    def test(evidence: Evidence) -> Finding:
        errors = {steps: _changed(evidence, steps, fast_lr, further_updates=FURTHER_UPDATES) for steps in FURTHER}
        measured = "; ".join(f"S={steps}: {percent(values)}" for steps, values in errors.items())
        return Finding(measured, [mean(values, f"S={steps}").within(most=0.02) for steps, values in errors.items()])

    return Claim(
        f"Trained with one inner step and η={fast_lr:g}, a network learns to use two or three.",
        "not in the paper",
        f"after {FURTHER_UPDATES:,} further updates, mean test errors below 2 %",
        test,
    )


def measure(folder: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Measure what each inner step of the last time step does, and the error with other numbers of inner steps.

    Rows with `weights`, initial or trained, and `inner_step` s describe h_s, as means over 500 validation sequences:
    `read_weight`, w_s; `memory_to_input`, the norm of w_s A h_s relative to that of z; `eigenvector`, its cosine with
    the first eigenvector of A; `kept`, one minus its cosine with the state that another question about the same
    sequence leads to.

    Rows with `read_with` S have the test error of the trained network read with S inner steps, after `further_updates`
    with this S. A network with learned reads is read with one step only, without its earlier reads.
    """
    import torch

    from src.running.build import build_model
    from src.running.load import evaluate_on, load_run

    rows: list[dict[str, Any]] = []
    for _, row in runs.iterrows():
        config, trained, task, *_ = load_run(folder / row["run"])
        torch.manual_seed(config.seed)
        initial = build_model(config, task)
        of_run = {"run": row["run"], "name": folder.name} | {key: row[key] for key in KEYS}
        inputs = next(iter(task.evaluation("val"))).inputs[:500]
        for weights, model in (("initial", initial), ("trained", trained)):
            rows += [of_run | {"weights": weights} | at_step for at_step in _inner_steps(model, inputs)]
        if config.model.num_inner_steps == 1:
            changes = [(steps, 0) for steps in READ_WITH] + [(steps, FURTHER_UPDATES) for steps in FURTHER]
        else:
            changes = [(1, 0)] if config.model.read_weights == "learned" else []
        for steps, further_updates in changes:
            model = _read_with(steps, further_updates, config, trained)
            at_change = {"read_with": steps, "further_updates": further_updates}
            rows.append(of_run | at_change | {"error": evaluate_on(model, task, "test")["error"]})
    return pd.DataFrame(rows)


def _inner_steps(model: "SequenceModel", inputs: "Tensor") -> list[dict[str, float]]:
    """The measurements of `measure`, one row per h_s of the last time step."""
    import torch

    core: FastWeights = model.core  # type: ignore[assignment]
    num_pairs = (inputs.shape[1] - 3) // 2
    letters = inputs[:, : 2 * num_pairs : 2]
    asked = (letters == inputs[:, -1:]).int().argmax(1)
    others = inputs.clone()
    others[:, -1] = letters.gather(1, ((asked + 1) % num_pairs)[:, None])[:, 0]
    with torch.no_grad():
        *before, last_BH = model.project(inputs).vectors.unbind(1)
        state = core.initial_state(len(inputs))
        for p_BH in before:
            _, state = core.step(p_BH, state)
        read_A_BHH = core.decay * state.A_BHH + core.fast_lr * state.h_BH[:, :, None] * state.h_BH[:, None, :]
        first_BH = torch.linalg.eigh(read_A_BHH).eigenvectors[:, :, -1]
        of_query = [
            _settled(core, core.recurrent(state.h_BH) + p_BH, read_A_BHH)
            for p_BH in (last_BH, model.project(others).vectors[:, -1])
        ]
        rows = []
        for s, (h_BH, weight, ratio_B) in enumerate(of_query[0]):
            cosine = torch.cosine_similarity(h_BH, first_BH, dim=1).abs().mean()
            kept = 1 - torch.cosine_similarity(h_BH.double(), of_query[1][s][0].double(), dim=1).mean()
            shares = {"read_weight": weight, "memory_to_input": float(ratio_B.mean())}
            rows.append({"inner_step": s, "eigenvector": float(cosine), "kept": float(kept)} | shares)
    return rows


def _settled(core: "FastWeights", z_BH: "Tensor", A_BHH: "Tensor") -> list[tuple["Tensor", float, "Tensor"]]:
    """h_s, w_s and the norm of w_s A h_s relative to that of z, for s = 0 ... S; nan for h_S, which reads nothing."""
    import torch

    states, reads = [], []

    def read(h_s_BH: "Tensor") -> "Tensor":
        states.append(h_s_BH)
        reads.append(torch.bmm(A_BHH, h_s_BH[:, :, None])[:, :, 0])
        return reads[-1]

    states.append(core.settle(z_BH, read))
    learned = [] if core.read_weights is None else core.read_weights.tolist()
    weights = [*learned, *[1.0] * (core.num_inner_steps - len(learned))]
    ratios = [abs(w) * r.norm(dim=1) / z_BH.norm(dim=1) for w, r in zip(weights, reads, strict=True)]
    nothing = float("nan")
    return list(zip(states, [*weights, nothing], [*ratios, torch.full_like(z_BH[:, 0], nothing)], strict=True))


def _read_with(steps: int, further_updates: int, config: "DictConfig", trained: "SequenceModel") -> "SequenceModel":
    """A trained network with another number of inner steps, after further updates with them."""
    from omegaconf import DictConfig, OmegaConf

    from src.config.fingerprint import fingerprint
    from src.running.build import build_trainer
    from src.training.curves import Curves
    from src.training.progress import RunProgress

    changes = {"model": {"num_inner_steps": steps}, "trainer": {"max_updates": max(further_updates, 1)}}
    changed = OmegaConf.merge(config, changes)
    assert isinstance(changed, DictConfig)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trainer = build_trainer(changed, folder, fingerprint(changed))
        trainer.model.load_state_dict(trained.state_dict(), strict=False)
        if further_updates:
            with Curves(folder, 0) as curves, RunProgress(further_updates, 0, seconds_between_lines=1e9) as progress:
                trainer.fit(curves, progress, lambda: None)
    return trainer.model


def _cells(evidence: Evidence) -> list[tuple[dict[str, Any], dict[str, str]]]:
    """The settings of every row of the table, and the text that shows them."""
    found = []
    for steps in FURTHER:
        for normalized, read_weights in VARIANTS:
            shown = {"norm": normalized, "reads": read_weights, "η": "0.5", "S": str(steps)}
            found.append((_settings(steps, normalized, read_weights), shown))
    for steps, fast_lr in OF_LONG:
        shown = {"norm": "all", "reads": "one", "η": f"{fast_lr:g}", "S": str(steps)}
        found.append((_plain(steps, fast_lr), shown))
    return found


def _of_steps(measured: pd.DataFrame) -> dict[str, str]:
    """The measurements of each inner step as text, before and after training."""
    shown = {
        "memory to input": ("memory_to_input", lambda value: f"{value:,.0f}" if value > 10 else f"{value:.2g}"),
        "cosine with eigenvector": ("eigenvector", "{:.2f}".format),
        "kept of the question": ("kept", "{:.1g}".format),
    }
    means = measured.groupby(["weights", "inner_step"])[[key for key, _ in shown.values()]].mean()
    return {
        label: " → ".join(", ".join(map(form, means.loc[which, key].dropna())) for which in ("initial", "trained"))
        for label, (key, form) in shown.items()
    }


def table(evidence: Evidence) -> pd.DataFrame:
    """One row per setting: the result of training, and the inner steps of the last time step before and after it."""
    rows = []
    for settings, shown in _cells(evidence):
        row = dict(shown) | {"updates": "", "test error": "not run"}
        with suppress(NotRunError):
            runs = evidence.select(**settings)
            row |= {"updates": f"{runs['trainer.max_updates'].iloc[0]:,}", "test error": evidence.errors(**settings)}
            row["updates to 2 %"] = thousands(evidence.updates_until("val/error", 0.02, **settings))
            row |= {"lr": chosen_lr(runs), "n": str(len(runs))}
        with suppress(NotRunError):
            row |= _of_steps(evidence.select_measured(**settings))
        rows.append(row)
    for fast_lr in (0.5, 0.02):
        for further_updates, with_steps in ((0, READ_WITH), (FURTHER_UPDATES, FURTHER)):
            for steps in with_steps:
                with suppress(NotRunError):
                    errors = _changed(evidence, steps, fast_lr, further_updates=further_updates)
                    shown = {"norm": "all", "reads": "one", "η": f"{fast_lr:g}", "S": f"1, then {steps}"}
                    shown["updates"] = f"then {further_updates:,}"
                    rows.append(shown | {"test error": percent(errors), "n": str(len(errors))})
    return pd.DataFrame(rows)


def draw(evidence: Evidence) -> Figure:
    """Learning curves of the variants and of longer runs, and what each inner step keeps of the question."""
    with rc_context(RC):
        titles = ["S = 2 and 3, η = 0.5", "as in the paper, longer", "before training, S = 2, η = 0.5"]
        figure, (short, long, kept) = panels(titles)
        names = [f"{label}, S={steps}" for label in VARIANTS.values() for steps in FURTHER]
        names += [f"η={fast_lr:g}, S={steps}" for steps, fast_lr in OF_LONG]
        styles = styles_of(dict.fromkeys(names, "fastweights"))
        for (normalized, read_weights), label in VARIANTS.items():
            for steps in FURTHER:
                settings = _settings(steps, normalized, read_weights)
                _curve(short, evidence, settings, f"{label}, S={steps}", styles[f"{label}, S={steps}"])
            with suppress(NotRunError):
                settings = _settings(2, normalized, read_weights)
                initial = evidence.select_measured(**settings, weights="initial").groupby("inner_step")["kept"].mean()
                style = styles[f"{label}, S=2"]
                kept.plot(initial.index, initial, **style)
        for steps, fast_lr in OF_LONG:
            _curve(
                long, evidence, _plain(steps, fast_lr), f"η={fast_lr:g}, S={steps}", styles[f"η={fast_lr:g}, S={steps}"]
            )
        for axes in (short, long):
            axes.axhline(FLOOR, label="knows the digits only", **FLOOR_LINE)
            axes.set(yscale="log", ylim=(1e-4, 1), xlabel="update", ylabel="validation error")
        kept.set(yscale="log", xlabel="inner step s", ylabel="1 - cosine of two questions", xticks=range(3))
        legend(figure, [short, long])
    return figure


def _curve(axes: Axes, evidence: Evidence, settings: dict[str, Any], label: str, style: dict[str, Any]) -> None:
    with suppress(NotRunError):
        curve = evidence.mean_curve("val/error", **settings)["mean"].clip(lower=1e-4)
        axes.plot(curve.index, curve, label=label, **(style | {"markevery": max(len(curve) // 6, 1), "linewidth": 1.2}))


REPRODUCTION = Reproduction(
    title="Ba et al. 2016, beyond the paper: what lets several inner steps start",
    experiments=tuple(f"ba2016/ablations/inner_steps_{which}" for which in ("one", "start", "long")),
    only_in_full=("ba2016/ablations/inner_steps_long",),
    claims=(
        Claim(
            "More inner steps give similar results, if all but the last have no norm and learned reads.",
            "Section 4.1: S=1 is used, more were tried",
            "η=0.5, mean test errors of S=2 and 3 within 1 point of that of S=1",
            _as_one_step,
        ),
        Claim(
            "As in the paper but with a weaker memory, more inner steps give similar results after 40,000 updates.",
            "Section 4.1",
            "η=0.02, mean test errors of S=2 and 3 after 40,000 updates within 1 point of that of S=1 after 10,000",
            _weak_and_long,
        ),
        Claim(
            "The second inner step delays learning.",
            "not in the paper",
            "η=0.02, updates to 2 % validation error, S=2 (40,000 updates) to S=1 (10,000): ratio above 2",
            _later,
        ),
        _one_change_helps("last", "one"),
        _one_change_helps("all", "learned"),
        Claim(
            "Networks with learned reads use more than the last of them.",
            "not in the paper",
            "without all reads but the last, the mean test error is more than 10 points higher",
            _reads_are_used,
        ),
        Claim(
            "Before training, the second read forgets what was asked.",
            "not in the paper",
            "η=0.5, one minus the cosine of the states that two questions lead to, S=2 to S=1: ratio below 0.1",
            _forgets,
        ),
        _goes_on(0.02),
        _goes_on(0.5),
    ),
    table=table,
    measure=measure,
    figures={"inner_steps": draw},
    quick=("trainer.max_updates=4000", "optimizer.lr=1e-3,3e-4", "seed=0"),
)
