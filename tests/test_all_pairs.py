"""Every model runs on every task."""

import math
from functools import cache

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from src.config.compose import compose
from src.config.paths import CONFIGS
from src.ops.cpu import calls
from src.running.build import build_model, build_task, check
from src.training.evaluation import evaluate
from tests.models.cores import WITHOUT_KERNEL

MODELS = [file.stem for file in sorted((CONFIGS / "model").glob("*.yaml"))]
NOT_IN_SHORT_SEQUENCES = {"fastweights_multilevel": ("core.recurrent.weight", "core.integration.weight")}
"""Weights that are used only at some steps of a quadrant, so that a short sequence may not use them."""
TASKS = [file.stem for file in sorted((CONFIGS / "task").glob("*.yaml"))]


@cache
def composed(task):
    """Composing takes far longer than the updates, so it is done once per task."""
    return compose(f"task={task}")


def pairs():
    """Every pair; by default, only a selection is run that has each model once and each task several times."""
    for number, model in enumerate(MODELS):
        for place, task in enumerate(TASKS):
            yield pytest.param(model, task, marks=[] if place == number % len(TASKS) else pytest.mark.slow)


@pytest.mark.usefixtures("made_up_data")
@pytest.mark.parametrize(("name", "task"), list(pairs()))
def test_a_model_trains_and_is_evaluated_on_a_task(name, task):
    config = composed(task).copy()
    small = {"train_size": 32, "val_size": 16, "test_size": 16, "sequence_length": 12, "window": 12}
    config.task.update({key: value for key, value in small.items() if key in config.task})
    config.model = OmegaConf.load(CONFIGS / "model" / f"{name}.yaml")
    config.model.hidden_size = 6
    unused = NOT_IN_SHORT_SEQUENCES.get(name, ())
    check(config)
    task = build_task(config)
    model = build_model(config, task)
    assert model.core.is_fused == (name not in WITHOUT_KERNEL and calls.available(torch.empty(0)))
    optimizer = instantiate(config.optimizer, model.parameters(), _convert_="all")
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # as in a run, so that every parameter has a gradient
    for index in range(3):
        optimizer.zero_grad(set_to_none=False)
        loss = task.loss(model, task.batch("train", index, 5)).loss  # 5 sequences are enough for lanes
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
    for (path, parameter), value in zip(model.named_parameters(), before, strict=True):
        assert parameter.isfinite().all(), path
        assert not torch.equal(parameter, value) or path in unused, path

    for split in ("train", "val", "test"):
        metrics = evaluate(model, task, split)
        assert task.objective.metric in metrics
        assert all(math.isfinite(value) for value in metrics.values())
        assert set(metrics) >= {name for floor in task.floors.values() for name in floor}
