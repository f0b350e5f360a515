"""Every file in configs/task, and small tasks built from them."""

import inspect
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from src.tasks.base import Task

FILES = sorted((Path(__file__).parents[2] / "configs" / "task").glob("*.yaml"))
# Validation is no smaller than training, so that evaluation("train") gives the whole training set.
SMALL = {"train_size": 30, "val_size": 40, "test_size": 25}


@cache
def node(file: Path) -> Any:
    """The settings of the task: all of the file, or its `task` if it sets others too."""
    content = OmegaConf.load(file)
    return content.get("task", content)


@cache
def signature(file: Path) -> dict[str, inspect.Parameter]:
    """The parameters of the constructor that are keys of the file."""
    parameters = inspect.signature(get_class(node(file)._target_)).parameters
    return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def make(file: Path, seed: int = 0, **changes: Any) -> Task:
    sizes = {name: size for name, size in SMALL.items() if name in signature(file)}
    return instantiate(node(file), seed, **{**sizes, **changes})


def variants(file: Path) -> list[dict[str, Any]]:
    """Changes to a file: none, then every other value of every switch and choice, one at a time."""
    hints = get_type_hints(get_class(node(file)._target_).__init__, include_extras=True)
    changes: list[dict[str, Any]] = [{}]
    for name in signature(file):
        hint = get_args(hints[name])[0] if get_origin(hints[name]) is Annotated else hints[name]
        choices = (False, True) if hint is bool else get_args(hint) if get_origin(hint) is Literal else ()
        changes += [{name: choice} for choice in choices if choice != node(file).get(name)]
    return changes
