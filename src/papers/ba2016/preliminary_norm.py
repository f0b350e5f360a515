"""Beyond the paper: layer normalization of the preliminary state, as in public re-implementations."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from src.reproduction.base import Claim, Evidence, Finding, NotRunError, Reproduction, chosen_lr, thousands
from src.reproduction.effects import ratio

if TYPE_CHECKING:
    from torch import Tensor

    from src.models.fastweights import FastWeights

NORM = "model.layer_norm_preliminary"
FAST_LRS = (0.5, 0.1, 0.02)


def _settings(normalized: bool, fast_lr: float) -> dict[str, Any]:
    return {"model__layer_norm_preliminary": normalized, "model__fast_lr": fast_lr}


def _until(evidence: Evidence, normalized: bool, fast_lr: float) -> np.ndarray:
    return evidence.updates_until("val/error", 0.1, **_settings(normalized, fast_lr))


def _shares(evidence: Evidence, normalized: bool, fast_lr: float) -> np.ndarray:
    found = evidence.select_measured(**_settings(normalized, fast_lr)).drop_duplicates("seed")
    return found["memory_to_input"].to_numpy(float)


def _length(evidence: Evidence) -> float:
    return evidence.updates_of(**_settings(False, 0.5))


def _delays(evidence: Evidence) -> Finding:
    with_norm, without = (_until(evidence, normalized, 0.5) for normalized in (True, False))
    measured = f"with: {thousands(with_norm)}; without: {thousands(without)}"
    return Finding(measured, [ratio(with_norm, without, _length(evidence)).within(least=2)])


def _outweighs(evidence: Evidence) -> Finding:
    with_norm, without = (_shares(evidence, normalized, 0.5) for normalized in (True, False))
    measured = f"with: {with_norm.mean():.1f}; without: {without.mean():.1f}"
    return Finding(measured, [ratio(with_norm, without, never=np.inf).within(least=2)])


def _weaker_memory_helps(evidence: Evidence) -> Finding:
    until = {fast_lr: _until(evidence, True, fast_lr) for fast_lr in FAST_LRS}
    measured = "; ".join(f"η={fast_lr:g}: {thousands(values)}" for fast_lr, values in until.items())
    weaker = min(FAST_LRS[1:], key=lambda fast_lr: np.median(until[fast_lr]))
    effect = ratio(until[weaker], until[0.5], _length(evidence)).within(most=1)
    return Finding(measured, [effect], edge=weaker == min(FAST_LRS))


def measure(folder: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Measure what the memory contributes in untrained networks, with and without the norm.

    Columns: `memory_to_input`, the norm of A h_0 relative to that of the boundary condition z, and `likeness_of_steps`,
    the cosine of h(t) and h(t+1); both are means over the steps from the second on and 1,000 validation sequences.
    """
    import torch

    from src.models.fastweights import FastWeights
    from src.results.result import read_result
    from src.running.build import build_model, build_task
    from src.running.load import stored_config

    rows = []
    for _, row in runs.iterrows():
        result = read_result(folder / row["run"])
        assert result is not None
        config = stored_config(result["config"])
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
    """The measurements of `measure`, step by step as in `FastWeights.step`."""
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
    measured = (
        f"with, memory to input {_shares(evidence, True, 0.02).mean():.1f}: {thousands(with_norm)}; "
        f"without, {_shares(evidence, False, 0.1).mean():.1f}: {thousands(without)}"
    )
    return Finding(measured, [ratio(with_norm, without, _length(evidence)).within(most=2)])


def table(evidence: Evidence) -> pd.DataFrame:
    """One row per setting: the memory before training, and the result of training."""
    rows: list[dict[str, object]] = []
    for normalized in (False, True):
        for fast_lr in FAST_LRS:
            settings = _settings(normalized, fast_lr)
            row: dict[str, object] = {"norm of the preliminary state": "yes" if normalized else "no"}
            row["η"] = f"{fast_lr:g}"
            try:
                row |= {
                    "memory to input": f"{_shares(evidence, normalized, fast_lr).mean():.1f}",
                    "cosine of h(t), h(t+1)": f"{evidence.select_measured(**settings)['likeness_of_steps'].mean():.2f}",
                    "test error": evidence.errors(**settings),
                    "updates to 10 %": thousands(_until(evidence, normalized, fast_lr)),
                    "lr": chosen_lr(evidence.select(**settings)),
                    "n": str(len(evidence.select(**settings))),
                }
            except NotRunError:
                row["test error"] = "not run"
            rows.append(row)
    return pd.DataFrame(rows)


REPRODUCTION = Reproduction(
    title="Ba et al. 2016, beyond the paper: layer normalization of the preliminary state",
    experiments=("ba2016/ablations/preliminary_norm",),
    claims=(
        Claim(
            "Normalizing the preliminary state delays learning.",
            "not in the paper; public re-implementations do it",
            "η=0.5, updates to 10 % validation error: ratio above 2",
            _delays,
        ),
        Claim(
            "With the norm, the memory outweighs the input from the start.",
            "not in the paper",
            "η=0.5, untrained, the norm of A h_0 to that of z: ratio above 2",
            _outweighs,
        ),
        Claim(
            "With the norm, a weaker memory learns sooner.",
            "not in the paper",
            "with the norm, updates to 10 % validation error, η=0.1 or 0.02 (the sooner) to 0.5: ratio below 1",
            _weaker_memory_helps,
        ),
        Claim(
            "This explains all of the delay: at about the same share of the memory, the norm makes no difference.",
            "not in the paper",
            "updates to 10 % validation error with the norm and η=0.02 to those without it and η=0.1: ratio below 2",
            _share_is_all,
        ),
    ),
    table=table,
    measure=measure,
    quick=("trainer.max_updates=4000", "optimizer.lr=1e-3,3e-4", "seed=0"),
)
