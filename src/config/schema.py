"""The schema of configurations.

The schema of a group of settings is the signature of what receives them: a dataclass below for the runner's own
settings, the class or function named by `_target_` for all others. Keyword-only parameters are keys; annotations give
types and ranges. So a typo is an error, both in a file and on the command line, before any folder is created.
"""

import dataclasses
import difflib
import importlib
import inspect
import re
from collections.abc import Iterable, Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Len, Lt, MaxLen, MinLen, Predicate
from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, TypeAdapter, ValidationError

from src.config.errors import UserError, choose
from src.config.paths import CONFIGS
from src.config.settings import short_name


def _is_plain_name(text: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*", text) is not None


@dataclasses.dataclass(frozen=True)
class Neutral:
    """Marks a key that was added after runs had been made: `Annotated[int, Ge(0), Neutral(0)]`.

    With this value a run is the same as before the key existed, so the fingerprint leaves the key out, and a stored
    configuration without the key is read as having this value.
    """

    value: Any


Note = Annotated[str, MaxLen(500)]
PlainName = Annotated[str, Predicate(_is_plain_name), MaxLen(100)]  # a file name has at most 255 bytes
Precision = Literal["float32", "bfloat16"]
Seed = Annotated[int, Ge(0), Lt(2**63)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """Length, intervals, regularization and diagnostics of training. An update is one optimizer step."""

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
    threads: Annotated[int, Ge(1), Neutral(1)]
    precision: Annotated[Precision, Neutral("float32")]
    histograms: Annotated[bool, Neutral(False)]
    deterministic: bool
    overfit_one_batch: bool
    detect_anomaly: bool
    profile_updates: Annotated[int, Ge(0)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Where runs are stored, what to do with existing ones, and how many of a sweep are trained as one program."""

    root: Annotated[str, MinLen(1)]
    fresh: bool
    retry_failed: bool
    cuda_graphs: Annotated[bool, Neutral(True)]
    together: Annotated[Literal["auto"] | Annotated[int, Ge(1), Le(256)], Neutral("auto")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """The role of each setting that a sweep varies. Those not named here are compared, in the rows of the table."""

    grid: list[str]
    repeated: list[str]
    columns: list[str]
    two_stage: bool

    @classmethod
    def of(cls, config: DictConfig) -> "SearchSettings":
        """The search settings of a configuration."""
        return cls(**OmegaConf.to_container(config.search, resolve=True))  # type: ignore[arg-type]

    def check(self, known: Iterable[str]) -> None:
        """Raise `UserError` if a key is not a setting of any run, since it would be ignored."""
        for name in ("grid", "repeated", "columns"):
            for key in getattr(self, name):
                if key not in known:
                    raise UserError(f"search.{name}=[{key}]: no run has this setting{choose(key, known)}")
        self.check_roles()

    def check_roles(self) -> None:
        """Raise `UserError` if a key has two roles, since one of them would be ignored."""
        for one, other in (("grid", "repeated"), ("grid", "columns"), ("repeated", "columns")):
            for key in getattr(self, one):
                if key in getattr(self, other):
                    raise UserError(f"search.{one} and search.{other} both list {key}; remove it from one of them")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The root of a configuration."""

    name: PlainName
    note: Note = ""
    seed: Seed
    device: Literal["auto", "cpu", "cuda"]
    model: Any
    task: Any
    network: Any
    optimizer: Any
    scheduler: Any
    trainer: TrainerSettings
    search: SearchSettings
    run: RunSettings


def check_keys(node: Any, receiver: Any, path: str) -> None:
    """Check the keys and values of a node against the annotations of what receives them."""
    if not OmegaConf.is_dict(node):
        raise UserError(f"{path}={_as_typed(node)}: must be a group of settings")
    annotations, required = signature(receiver)
    for key in node:
        if key != "_target_" and key not in annotations:
            full_key = f"{path}.{key}" if path else str(key)
            of = f" of {path}" if path else ""
            if receiver is Settings and key in ("debug", "experiment", "local"):
                raise UserError(f"configs/{key}: the first line of a file there must be: # @package _global_")
            if not annotations:
                raise UserError(
                    f"{full_key}: settings must be keyword-only parameters, after the * in {receiver.__qualname__}"
                )
            raise UserError(f"{full_key} is not a setting{of}{choose(str(key), annotations)}")
    for key, hint in annotations.items():
        full_key = f"{path}.{key}".lstrip(".")
        if OmegaConf.is_missing(node, key) or (key not in node and (path or key in required)):
            raise UserError(f"{full_key} is missing")
        if key in node:
            _check_value(node[key], hint, full_key)


def _check_value(value: Any, hint: Any, path: str) -> None:
    if dataclasses.is_dataclass(hint):
        check_keys(value, hint, path)
    elif hint is Any:
        if not OmegaConf.is_dict(value) or "_target_" not in value:
            raise UserError(f"{path}._target_ is missing")
        check_keys(value, locate(str(value["_target_"]), path), path)
    else:
        plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        if isinstance(plain, str) and "${" in plain:
            raise UserError(f"{path}={plain}: must not contain ${{, which would be evaluated when it is read back")
        if not is_legal(plain, hint):
            nearest = difflib.get_close_matches(_MEANT.get(str(plain), str(plain)), _names(hint), n=1)
            did_you_mean = f"; did you mean {nearest[0]}?" if nearest else ""
            if isinstance(plain, float) and plain.is_integer() and abs(plain) < 2**63 and is_legal(int(plain), hint):
                did_you_mean = f"; write {int(plain)}"
            raise UserError(f"{path}={_as_typed(plain)}: must be {describe(hint)}{did_you_mean}")
        if isinstance(plain, int) and abs(plain) >= 2**63:  # more than torch or a stored run can hold
            raise UserError(f"{path}={plain}: an integer must be above {-(2**63)} and below {2**63}")


_MEANT = {"gpu": "cuda"}


def is_legal(value: Any, hint: Any) -> bool:
    """Whether a value is of the annotated type and within its bounds, and finite."""
    try:
        _adapter(hint).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


@cache
def _adapter(hint: Any) -> TypeAdapter:
    return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))


def _as_typed(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def describe(hint: Any) -> str:
    """The legal values of an annotation in words: "an integer, at least 1, or null"."""
    if hint in _WORDS:
        return str(_WORDS[hint])
    if get_origin(hint) is Literal:
        return " or ".join(", ".join(map(str, get_args(hint))).rsplit(", ", 1))
    if get_origin(hint) in (Union, UnionType):
        return ", or ".join(describe(option) for option in get_args(hint))
    if get_origin(hint) is list:
        return f"a list, each item {describe(get_args(hint)[0])}"
    if get_origin(hint) is Annotated:
        kind, *bounds = get_args(hint)
        return ", ".join(filter(None, [describe(kind), *map(_describe_bound, bounds)]))
    return str(hint)


_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a string", type(None): "null"}


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
            return "not empty" if least == 1 else f"at least {least} characters"
        case MaxLen(most):
            return f"at most {most} characters"
        case Len(length):
            return f"exactly {length} items"
        case Neutral():
            return ""
        case Predicate():
            return "letters, digits, dots, hyphens and underscores only"
        case _:
            return str(bound)


def _names(hint: Any) -> list[str]:
    """The legal values of an annotation that are names."""
    if get_origin(hint) is Literal:
        return [str(name) for name in get_args(hint)]
    return [name for option in get_args(hint) if get_origin(option) for name in _names(option)]


def signature(receiver: Any) -> tuple[dict[str, Any], list[str]]:
    """The annotations of the keyword-only parameters of a callable or dataclass, and which have no default."""
    function = receiver.__init__ if inspect.isclass(receiver) else receiver
    hints = get_type_hints(function, include_extras=True)
    if dataclasses.is_dataclass(receiver):
        hints = get_type_hints(receiver, include_extras=True)
    parameters = [
        parameter
        for parameter in inspect.signature(receiver).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    if unknown := [parameter.name for parameter in parameters if parameter.name not in hints]:
        raise UserError(f"{receiver.__qualname__}: parameter {unknown[0]} needs an annotation that says what is legal")
    required = [parameter.name for parameter in parameters if parameter.default is inspect.Parameter.empty]
    return {parameter.name: hints[parameter.name] for parameter in parameters}, required


@cache
def locate(target: str, path: str) -> Any:
    """The class or function named by a `_target_`, if a file in configs/ names it too: nothing else is imported."""
    known = known_targets(path.partition(".")[0])
    if known.get(short_name(target)) != target:
        legal = choose(target, known.values())
        raise UserError(f"{path}._target_={target}: no file in configs/ names it{legal}")
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{path}._target_={target}: cannot be imported: {error}") from None


@cache
def known_targets(group: str) -> dict[str, str]:
    """The `_target_` of each short name of a group, from the files in configs/."""
    files = sorted((CONFIGS / group).rglob("*.yaml")) if group.isidentifier() else []
    files = files or [CONFIGS / "train.yaml"]
    found = re.findall(r"^\s*_target_:\s*([\w.]+)", "\n".join(path.read_text() for path in files), re.MULTILINE)
    return {short_name(target): target for target in found}


def current_target(target: str, group: str) -> str:
    """The current `_target_` with the short name of a stored one, whose module may have moved since.

    Only what configs/ names is ever imported, whatever a stored configuration says.
    """
    known = known_targets(group)
    name = short_name(target)
    if name not in known:
        raise UserError(f"{group}._target_={target}: no such {group}{choose(name, known)}")
    return known[name]


def later_keys(settings: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """The neutral values of keys added later: {(group, key): value}."""
    own = {field.name: field.type for field in dataclasses.fields(Settings) if dataclasses.is_dataclass(field.type)}
    found: dict[tuple[str, str], Any] = {}
    for group, node in settings.items():
        if isinstance(node, Mapping):
            target = known_targets(group).get(short_name(str(node.get("_target_", ""))))
            receiver: Any = own.get(group) or (locate(target, group) if target else None)
            found |= {(group, key): value for key, value in _neutral_values(receiver).items()}
    return found


@cache
def _neutral_values(receiver: Any) -> dict[str, Any]:
    if receiver is None:
        return {}
    hints = signature(receiver)[0]
    marks = {key: mark for key, hint in hints.items() for mark in get_args(hint)[1:] if isinstance(mark, Neutral)}
    return {key: mark.value for key, mark in marks.items()}
