"""Settings as nested dictionaries, by full key, and as words."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

Pairs = tuple[tuple[str, Any], ...]
"""Settings as hashable (key, value) pairs."""


def without_hydra(config: DictConfig) -> DictConfig:
    """The configuration of a run, without Hydra's own settings."""
    if "hydra" not in config:
        return config
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def resolved(config: DictConfig) -> DictConfig:
    """A configuration with its interpolations replaced by their values."""
    settings: Any = OmegaConf.to_container(config, resolve=True)
    return OmegaConf.create(settings)


def short_name(target: str) -> str:
    """The short name of a model, task or optimizer: the module of a class, or the name of a function.

    `src.models.fastweights.FastWeights` is `fastweights`, `src.training.optimizers.adam` is `adam`. It stays the same
    when the module moves.
    """
    parts = target.split(".")
    return parts[-2] if len(parts) > 1 and parts[-1][:1].isupper() else parts[-1]


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by full key: {"model": "irnn", "model.hidden_size": 50, ...}."""
    by_key: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            if "_target_" in value:
                by_key[prefix + key] = short_name(str(value["_target_"]))
            by_key |= flat(value, f"{prefix}{key}.")
        elif key != "_target_":
            by_key[prefix + key] = value if isinstance(value, bool | int | float | str) else str(value)
    return by_key


def as_typed(value: Any) -> str:
    """A value of flat settings as written on the command line, where None is null."""
    return "null" if value == "None" else str(value)


def spelled(pairs: Pairs) -> str:
    """Settings as written on the command line: "model=lstm model.hidden_size=20"."""
    return " ".join(f"{key}={as_typed(value)}" for key, value in pairs)


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """Each key shortened to its last part, or in full if several share that part."""
    last = {key: key.rpartition(".")[2] for key in keys}
    count = Counter(last.values())
    return {key: name if count[name] == 1 else key for key, name in last.items()}


def label_of(pairs: Iterable[tuple[str, Any]], among: Iterable[str] = ()) -> str:
    """Settings as a label: "lstm, 50 units, decay 0.9". It tells their keys apart from each other and from `among`."""
    pairs = list(pairs)
    short = short_keys([*(key for key, _ in pairs), *among])
    return ", ".join(_words(key, short[key], value) for key, value in pairs)


def _words(key: str, short: str, value: Any) -> str:
    if key == "model.hidden_size":
        return f"{value} units"
    if "." not in key and key != "seed":  # which model, task, optimizer or schedule
        return str(value)
    return f"{short} {value:g}" if isinstance(value, float) else f"{short} {as_typed(value)}"


def varied(configurations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that differ between flat settings; those of a model, task or optimizer between settings that share it."""
    values: dict[str, dict[Any, set[str]]] = {}
    for configuration in configurations:
        for key, value in configuration.items():
            owner = configuration.get(key.partition(".")[0]) if "." in key else None
            values.setdefault(key, {}).setdefault(owner, set()).add(str(value))
    return [key for key, by_owner in values.items() if any(len(options) > 1 for options in by_owner.values())]


def sortable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for the HParams page without nulls, since TensorBoard cannot sort a column of both text and numbers.

    The seed is turned into text, since a number would be shown as 0.0000.
    """
    known = {key: value for key, value in settings.items() if value != "None"}
    return known | ({"seed": str(known["seed"])} if "seed" in known else {})
