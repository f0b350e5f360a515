"""Why layer normalization of the preliminary state delays learning, a variant of public re-implementations."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, thousands

if TYPE_CHECKING:
    from torch import Tensor

    from src.models.fastweights import FastWeights

NORM = "model.layer_norm_preliminary"
FAST_LRS = (0.5, 0.1, 0.02)


def _measured(evidence: Evidence, normalized: bool, fast_lr: float) -> pd.DataFrame:
    measured = evidence.measured
    if {NORM, "model.fast_lr"} - {*measured}:
        raise NotRunError("no network has been measured")
    found = measured[(measured[NORM] == normalized) & (measured["model.fast_lr"] == fast_lr)]
    if found.empty:
        raise NotRunError(f"no network with {NORM}={normalized}, model.fast_lr={fast_lr} has been measured")
    return found


def _until(evidence: Evidence, normalized: bool, fast_lr: float, bound: float = 0.1) -> np.ndarray:
    settings = {"model__layer_norm_preliminary": normalized, "model__fast_lr": fast_lr}
    return evidence.updates_until("val/error", bound, **settings)


def _delays(evidence: Evidence) -> Finding:
    with_norm, without = (_until(evidence, normalized, 0.5) for normalized in (True, False))
    measured = f"with: {thousands(with_norm)}; without: {thousands(without)}"
    return Finding(measured, bool(np.median(with_norm) > 2 * np.median(without)))


def _outweighs(evidence: Evidence) -> Finding:
    with_norm, without = (
        _measured(evidence, normalized, 0.5)["memory_to_input"].mean() for normalized in (True, False)
    )
    return Finding(f"with: {with_norm:.1f}; without: {without:.1f}", bool(with_norm > 2 * without))


def _weaker_memory_helps(evidence: Evidence) -> Finding:
    until = {fast_lr: _until(evidence, True, fast_lr) for fast_lr in FAST_LRS}
    measured = "; ".join(f"η={fast_lr:g}: {thousands(values)}" for fast_lr, values in until.items())
    return Finding(measured, bool(min(np.median(until[0.1]), np.median(until[0.02])) < np.median(until[0.5])))


def measure(folder: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """What the memory does in networks with and without the preliminary norm before they have learned anything.

    Columns: `memory_to_input`, the norm of A h_0 to that of the boundary condition z, and `likeness_of_steps`, the
    cosine of h(t) and h(t+1); means over steps from the second on and over 1,000 validation sequences.
    """
    import torch

    from src.models.fastweights import FastWeights
    from src.results.result import read_result
    from src.running.build import build_model, build_task

    rows = []
    for _, row in runs.iterrows():
        result = read_result(folder / row["run"])
        assert result is not None
        config = OmegaConf.create(result["config"])
        task = build_task(config)
        torch.manual_seed(config.seed)
        model = build_model(config, task)
        settings = {key: row[key] for key in (NORM, "model.fast_lr", "seed")}
        with torch.no_grad():
            p_BTH = model.project(next(iter(task.evaluation("val"))).inputs).vectors
            assert isinstance(model.core, FastWeights)
            rows.append({"run": row["run"]} | settings | _at_work(model.core, p_BTH))
    return pd.DataFrame(rows)


def _at_work(core: "FastWeights", p_BTH: "Tensor") -> dict[str, float]:
    """Step by step, as in `FastWeights.step`, with a look at what is added."""
    import torch

    state = core.initial_state(len(p_BTH))
    ratios, cosines = [], []
    for p_BH in p_BTH.unbind(1):
        h_BH = state.h_BH
        z_BH = core.recurrent(h_BH) + p_BH
        h_0_BH = core.preliminary_norm(z_BH).relu()
        _, state = core.step(p_BH, state)
        read_BH = torch.bmm(state.A_BHH, h_0_BH[:, :, None])[:, :, 0]
        ratios.append((read_BH.norm(dim=1) / z_BH.norm(dim=1)).mean())
        cosines.append(torch.cosine_similarity(h_BH, state.h_BH, dim=1).mean())
    return {
        "memory_to_input": float(torch.stack(ratios[1:]).mean()),
        "likeness_of_steps": float(torch.stack(cosines[1:]).mean()),
    }


def _share_is_all(evidence: Evidence) -> Finding:
    with_norm, without = _until(evidence, True, 0.02), _until(evidence, False, 0.1)
    share_with = _measured(evidence, True, 0.02)["memory_to_input"].mean()
    share_without = _measured(evidence, False, 0.1)["memory_to_input"].mean()
    measured = (
        f"with, memory to input {share_with:.1f}: {thousands(with_norm)}; "
        f"without, {share_without:.1f}: {thousands(without)}"
    )
    return Finding(measured, bool(np.median(with_norm) <= 2 * np.median(without)))


def table(evidence: Evidence) -> pd.DataFrame:
    """One row per setting: the memory before learning, and what is learned."""
    rows: list[dict[str, object]] = []
    for normalized in (False, True):
        for fast_lr in FAST_LRS:
            settings = {"model__layer_norm_preliminary": normalized, "model__fast_lr": fast_lr}
            row: dict[str, object] = {"norm of the preliminary state": "yes" if normalized else "no"}
            row["η"] = f"{fast_lr:g}"
            try:
                before = _measured(evidence, normalized, fast_lr)
                runs = evidence.select(**settings)
            except NotRunError:
                rows.append(row | {"test error": "not run"})
                continue
            row |= {"memory to input": f"{before['memory_to_input'].mean():.1f}"}
            row |= {"cosine of h(t), h(t+1)": f"{before['likeness_of_steps'].mean():.2f}"}
            row |= {"test error": evidence.errors(**settings)}
            row |= {"updates to 10 %": thousands(_until(evidence, normalized, fast_lr)), "n": str(len(runs))}
            rows.append(row)
    return pd.DataFrame(rows)


REPRODUCTION = Reproduction(
    title="Ba et al. 2016, what the paper left out: layer normalization of the preliminary state",
    experiments=("ba2016/ablations/preliminary_norm",),
    claims=(
        Claim(
            "Normalizing the preliminary state delays learning.",
            "not in the paper; public re-implementations do it",
            "η=0.5: more than twice the median updates to 10 % validation error",
            _delays,
        ),
        Claim(
            "With it the memory outweighs the input from the start.",
            "not in the paper",
            "η=0.5, untrained: the norm of A h_0 to that of z is more than twice as large",
            _outweighs,
        ),
        Claim(
            "So a weaker memory learns sooner with it.",
            "not in the paper",
            "with it: a smaller median number of updates to 10 % validation error for η=0.1 or 0.02 than for 0.5",
            _weaker_memory_helps,
        ),
        Claim(
            "That is all of it: where the memory has about the same share, the norm makes no difference.",
            "not in the paper",
            "with it and η=0.02, at most twice the median updates to 10 % validation error as without it and η=0.1",
            _share_is_all,
        ),
    ),
    table=table,
    measure=measure,
    quick=("trainer.max_updates=4000", "seed=0"),
    notes=Path(__file__).with_name("preliminary_norm.md"),
)
