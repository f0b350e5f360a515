"""Beyond the report: is a recurrence of products unstable, and what do a nonlinearity, linear terms and a gate change?

Shapes: B sequences, T time steps, H hidden units.
"""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from src.reports.style import FLOOR as FLOOR_LINE
from src.reports.style import RC, legend, panels, styles_of
from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, mean_and_sd
from src.reproduction.effects import mean

if TYPE_CHECKING:
    from torch import Tensor

    from src.models.base import Core

MODELS = {"bilinear": "product alone", "mrnn": "multiplicative RNN", "cp_rnn": "CP RNN", "cp_gate": "CP gate"}
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Factors that scale the bilinear term; at 1 it has the variance of state times input."""
TRANSIENT = 50
"""The number of initial steps over which the exponent is not measured."""


def measure(folder: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Measure the largest Lyapunov exponent of each untrained network and the size of its state, for each factor.

    Columns: `exponent`, in nats per step; `log_size`, the mean logarithm of the root mean square of the state at the
    last step.
    """
    import torch

    from src.models.tensor_core import TensorCore
    from src.running.build import build_model, build_task
    from src.running.load import read_config
    from src.tensors.cp import CP

    rows = []
    for _, row in runs.iterrows():
        config = read_config(folder / row["run"])
        task = build_task(config)
        torch.manual_seed(config.seed)
        model = build_model(config, task).double()
        assert isinstance(model.core, TensorCore)
        (term,) = (module for module in model.core.modules() if isinstance(module, CP))
        inputs_BTX = next(iter(task.evaluation("test"))).inputs.double()
        output_factor = term.B_RJ.detach().clone()
        for scale in SCALES:
            term.B_RJ.data.copy_(scale * output_factor)
            exponent, log_size = exponent_of(model.core.requires_grad_(False), inputs_BTX)
            found = {"scale": scale, "exponent": exponent, "log_size": log_size}
            rows.append({"run": row["run"], "model": row["model"], "seed": row["seed"]} | found)
    return pd.DataFrame(rows)


def exponent_of(core: "Core", inputs_BTX: "Tensor") -> tuple[float, float]:
    """The largest Lyapunov exponent along the sequences and the logarithm of the size of y_T, averaged over sequences.

    A random gradient is propagated backward through h, the first tensor of the state, step by step. It grows at the
    rate of a perturbation, since a product of matrices and its transpose have the same singular values.
    """
    import optree
    import torch

    from src.ops.inputs import steps

    projected, states = steps(core.project(inputs_BTX)), [core.initial_state(len(inputs_BTX))]
    with torch.no_grad():
        for p in projected:
            y_BH, state = core.step(p, states[-1])
            states.append(state)
    gradient_BH = torch.randn(y_BH.shape, generator=torch.Generator().manual_seed(0)).to(y_BH)
    gradient_BH /= gradient_BH.norm(dim=1, keepdim=True)
    grown_B = torch.zeros_like(y_BH[:, 0])
    for p, before in zip(projected[:TRANSIENT:-1], states[-2:TRANSIENT:-1], strict=True):
        (h_BH, *others), structure = optree.tree_flatten(before)
        h_BH = h_BH.requires_grad_()
        after = core.step(p, optree.tree_unflatten(structure, [h_BH, *others]))[1]
        (gradient_BH,) = torch.autograd.grad(optree.tree_leaves(after)[0], h_BH, gradient_BH)
        size_B = gradient_BH.norm(dim=1).clamp(min=1e-300)
        gradient_BH = gradient_BH / size_B[:, None]
        grown_B += torch.log(size_B)
    largest_B1 = y_BH.abs().amax(1, keepdim=True).clamp(min=1e-300)  # its square may overflow
    log_size_B = torch.log((y_BH / largest_B1).square().mean(1).sqrt() * largest_B1[:, 0])
    return float(grown_B.mean()) / (len(projected) - TRANSIENT - 1), float(log_size_B.mean())


def _at(evidence: Evidence, model: str, scale: float, column: str = "exponent") -> np.ndarray:
    return evidence.select_measured(model=model, scale=scale)[column].to_numpy(float)


def _is_a_line(evidence: Evidence) -> Finding:
    base = _at(evidence, "bilinear", 1.0)
    off = {scale: _at(evidence, "bilinear", scale) - base - np.log(scale) for scale in SCALES}
    largest = max(np.abs(values).max() for values in off.values())
    measured = f"at scale 1: {mean_and_sd(base, '.3f')}; off the line by {largest:.1e} at most"
    effects = [mean(values, f"scale {scale:g}", "per step").within(-1e-6, 1e-6) for scale, values in off.items()]
    return Finding(measured, effects)


def _is_never_neutral(evidence: Evidence) -> Finding:
    norms = {scale: _at(evidence, "bilinear", scale, "log_size") / np.log(10) for scale in SCALES}
    measured = "; ".join(f"scale {scale:g}: 1e{values.mean():.0f}" for scale, values in norms.items())
    sizes = {scale: mean(np.abs(values), f"scale {scale:g}", "decades") for scale, values in norms.items()}
    return Finding(measured, [size.within(least=3) for size in sizes.values()])


def _the_gate_is_bounded(evidence: Evidence) -> Finding:
    norms = {scale: np.exp(_at(evidence, "cp_gate", scale, "log_size")) for scale in SCALES}
    measured = "; ".join(f"scale {scale:g}: {values.mean():.2f}" for scale, values in norms.items())
    sizes = {scale: mean(np.log10(values), f"scale {scale:g}", "decades") for scale, values in norms.items()}
    return Finding(measured, [size.within(-1, 1) for size in sizes.values()])


def _the_gate_is_stable(evidence: Evidence) -> Finding:
    exponents = {scale: _at(evidence, "cp_gate", scale) for scale in SCALES}
    measured = "; ".join(f"scale {scale:g}: {values.mean():.2f}" for scale, values in exponents.items())
    effects = [mean(values, f"scale {scale:g}", "per step").within(most=0) for scale, values in exponents.items()]
    return Finding(measured, effects)


def table(evidence: Evidence) -> pd.DataFrame:
    """Lyapunov exponent by network and scale of the bilinear term, nats per step."""
    rows = []
    for model, label in MODELS.items():
        row = {"network": label}
        for scale in SCALES:
            with suppress(NotRunError):
                row[f"scale {scale:g}"] = mean_and_sd(_at(evidence, model, scale))
        rows.append(row)
    return pd.DataFrame(rows)


def draw(evidence: Evidence) -> Figure:
    """Lyapunov exponent against the scale of the bilinear term."""
    with rc_context(RC):
        figure, (axes,) = panels([""])
        styles = styles_of({label: model for model, label in MODELS.items()})
        for model, (label, style) in zip(MODELS, styles.items(), strict=True):
            with suppress(NotRunError):
                values = np.stack([_at(evidence, model, scale) for scale in SCALES])
                spread = values.std(1, ddof=1) if values.shape[1] > 1 else None
                axes.errorbar(SCALES, values.mean(1), spread, label=label, capsize=2, **style)
        axes.axhline(0, **FLOOR_LINE)
        axes.set(xscale="log", xlabel="scale of the bilinear term", ylabel="Lyapunov exponent (nats per step)")
        axes.set_xticks(SCALES, [f"{scale:g}" for scale in SCALES])
        axes.minorticks_off()
        legend(figure, [axes])
    return figure


REPRODUCTION = Reproduction(
    title="Mathews 2016, beyond the report: Lyapunov exponents of recurrences with a bilinear term, before training",
    experiments=("mathews2016/stability",),
    claims=(
        Claim(
            "A recurrence of products alone has the Lyapunov exponent λ + ln s, which is 0 at a single scale s.",
            "“multiplicative dynamics = instability?”, a note in the margin",
            "the exponents at all scales are on this line to 1e-6",
            _is_a_line,
        ),
        Claim(
            "At none of five scales, 0.25 to 4, does the state of such a recurrence keep its size over 200 steps.",
            "the same",
            "the root mean square of the state has changed by more than a factor of 1,000, on average over seeds",
            _is_never_neutral,
        ),
        Claim(
            "Inside a gate the product cannot change the size of the state.",
            "the architecture: each entry is an average of candidates",
            "the root mean square of the state is between 0.1 and 10 at all scales",
            _the_gate_is_bounded,
        ),
        Claim(
            "Inside a gate the product does not make small disturbances grow.",
            "not in the report",
            "negative exponents at all scales",
            _the_gate_is_stable,
        ),
    ),
    table=table,
    measure=measure,
    figures={"exponents": draw},
    quick=("seed=0,1",),
    curves=("val/mse",),
)
