"""What a configuration may hold.

The signature of whatever receives the settings is their schema: a dataclass below for what the runner owns, the
constructor that `_target_` names for everything else. Keyword-only parameters are keys; annotations give types and
ranges. So a typo is an error in a file as on the command line, before any folder exists.
"""

import dataclasses
import difflib
import importlib
import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Len, Lt, MinLen, Predicate
from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, TypeAdapter, ValidationError

from src.errors import UserError, choose
from src.identity import without_hydra


def _is_plain_name(text: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*", text) is not None


PlainName = Annotated[str, Predicate(_is_plain_name)]
Seed = Annotated[int, Ge(0), Lt(2**63)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """How long, how often, and with what precautions. An update is one step of the optimizer."""

    max_updates: Annotated[int, Ge(1)]
    batch_size: Annotated[int, Ge(1)]
    eval_every: Annotated[int, Ge(1)]
    log_every: Annotated[int, Ge(1)]
    checkpoint_every: Annotated[int, Ge(1)]
    clip_norm: Annotated[float, Gt(0)] | None
    norm_stabilizer: Annotated[float, Ge(0)]
    weight_noise: Annotated[float, Ge(0)]
    stop_at: float | None
    patience: Annotated[int, Ge(1)] | None
    threads: Annotated[int, Ge(1)]
    deterministic: bool
    overfit_one_batch: bool
    detect_anomaly: bool
    profile_updates: Annotated[int, Ge(0)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Where runs are kept, and what to do with the ones that are there."""

    root: Annotated[str, MinLen(1)]
    fresh: bool
    retry_failed: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """What the settings that vary in a sweep are for; those not named here are compared, a row of the table each."""

    grid: list[str]
    repeated: list[str]
    columns: list[str]
    two_stage: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The root of a configuration."""

    name: PlainName
    seed: Seed
    device: Literal["auto", "cpu", "cuda", "mps"]
    model: Any
    task: Any
    network: Any
    optimizer: Any
    scheduler: Any
    trainer: TrainerSettings
    search: SearchSettings
    run: RunSettings


def check(config: DictConfig) -> None:
    """Raise `UserError` if a composed configuration cannot be run: wrong keys, types, values or combinations."""
    config = without_hydra(config)
    check_keys(config, Settings, "")
    check_device(config.device)
    _check_combination(config)


def check_keys(node: Any, receiver: Any, path: str) -> None:
    """Hold the keys and values of a node to the annotations of what receives them."""
    if not OmegaConf.is_dict(node):
        raise UserError(f"{path}={node}: must be a group of settings")
    annotations, required = signature(receiver)
    for key in node:
        if key != "_target_" and key not in annotations:
            full_key = f"{path}.{key}" if path else str(key)
            of = f" of {path}" if path else ""
            raise UserError(f"{full_key} is not a setting{of}{choose(str(key), annotations)}")
    for key in annotations:
        if OmegaConf.is_missing(node, key) or (key in required and key not in node):
            raise UserError(f"{path}.{key}".lstrip(".") + " is missing")
    for key, hint in annotations.items():
        if key in node:
            _check_value(node[key], hint, f"{path}.{key}".lstrip("."))


def _check_value(value: Any, hint: Any, path: str) -> None:
    if dataclasses.is_dataclass(hint):
        check_keys(value, hint, path)
    elif hint is Any:
        if not OmegaConf.is_dict(value) or "_target_" not in value:
            raise UserError(f"{path}: has no _target_")
        check_keys(value, locate(str(value["_target_"]), path), path)
    else:
        plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        try:
            TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False)).validate_python(plain, strict=True)
        except ValidationError:
            nearest = difflib.get_close_matches(str(plain), _names(hint), n=1)
            did_you_mean = f"; did you mean {nearest[0]}?" if nearest else ""
            shown = "null" if plain is None else str(plain).lower() if isinstance(plain, bool) else plain
            raise UserError(f"{path}={shown}: must be {describe(hint)}{did_you_mean}") from None


def describe(hint: Any) -> str:
    """The legal values of an annotation in words: "an integer, at least 1, or null"."""
    if hint in _WORDS:
        return str(_WORDS[hint])
    if get_origin(hint) is Literal:
        return " or ".join(", ".join(map(str, get_args(hint))).rsplit(", ", 1))
    if get_origin(hint) in (Union, UnionType):
        return ", or ".join(describe(option) for option in get_args(hint))
    if get_origin(hint) is list:
        return f"a list, each of it {describe(get_args(hint)[0])}"
    if get_origin(hint) is Annotated:
        kind, *bounds = get_args(hint)
        return ", ".join([describe(kind), *map(_describe_bound, bounds)])
    return str(hint)


_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text", type(None): "null"}


def _describe_bound(bound: Any) -> str:
    match bound:
        case Ge(least):
            return f"at least {least}"
        case Gt(below):
            return f"above {below}"
        case Le(most):
            return f"at most {most}"
        case Lt(above):
            return f"below {above}"
        case MinLen(least):
            return "not empty" if least == 1 else f"at least {least} long"
        case Len(length):
            return f"{length} long"
        case Predicate():
            return "letters, digits, dots, hyphens and underscores only"
        case _:
            return str(bound)


def _names(hint: Any) -> list[str]:
    """The words among the legal values of an annotation."""
    if get_origin(hint) is Literal:
        return [str(name) for name in get_args(hint)]
    return [name for option in get_args(hint) if get_origin(option) for name in _names(option)]


def signature(receiver: Any) -> tuple[dict[str, Any], list[str]]:
    """The keyword-only parameters of a callable or dataclass with their annotations, and which have no default."""
    function = receiver.__init__ if inspect.isclass(receiver) else receiver
    hints = get_type_hints(function, include_extras=True)
    if dataclasses.is_dataclass(receiver):
        hints = get_type_hints(receiver, include_extras=True)
    parameters = [
        parameter
        for parameter in inspect.signature(receiver).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    required = [parameter.name for parameter in parameters if parameter.default is inspect.Parameter.empty]
    return {parameter.name: hints[parameter.name] for parameter in parameters}, required


def locate(target: str, path: str) -> Any:
    """The class or function that a `_target_` names."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise UserError(f"{path}._target_={target}: cannot be imported") from None


def check_device(device: str) -> None:
    """Raise `UserError` if this machine does not have the device."""
    if device in ("auto", "cpu"):
        return
    import torch

    if not (torch.cuda.is_available() if device == "cuda" else torch.backends.mps.is_available()):
        raise UserError(f"device={device}: there is none here; legal: auto, cpu")


def _check_combination(config: DictConfig) -> None:
    """Build what is cheap to build, so that rules across settings speak before the run."""
    import torch
    from hydra.utils import instantiate

    from src.experiment import build_model, build_task

    with _named("task"):
        task = build_task(config)
    # not on the meta device, whose first random number imports torch's compiler, in a second
    with _named("model"), torch.random.fork_rng(devices=[]):
        build_model(config, task)
    with _named("optimizer"):
        optimizer = instantiate(config.optimizer, [torch.nn.Parameter(torch.zeros(()))], _convert_="all")
    with _named("scheduler"):
        instantiate(config.scheduler, optimizer, config.trainer.max_updates)


@contextmanager
def _named(node: str) -> Iterator[None]:
    """Say to which node a constructor's ValueError belongs: "task.num_pairs=12: ..."."""
    from hydra.errors import InstantiationException

    try:
        yield
    except (InstantiationException, ValueError) as error:
        cause: BaseException | None = error
        while isinstance(cause, InstantiationException):  # a core is built by the constructor of its network
            cause = cause.__cause__
        if not isinstance(cause, ValueError):
            raise
        raise UserError(f"{node}.{cause}") from None
