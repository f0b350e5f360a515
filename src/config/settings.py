"""Settings as nested dictionaries and by full key."""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf


def without_hydra(config: DictConfig) -> DictConfig:
    """The configuration of a run, without Hydra's own settings."""
    if "hydra" not in config:
        return config
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def resolved(config: DictConfig) -> DictConfig:
    """A configuration with values in the place of its interpolations."""
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
    """{"model": "irnn", "model.hidden_size": 50, ...}: nested settings by full key."""
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
    """A value of flat settings as on the command line, where None is null."""
    return "null" if value == "None" else str(value)


def varied(configurations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that differ between flat settings, without those that only some models, tasks or optimizers have."""
    values: dict[str, dict[Any, set[str]]] = {}
    for configuration in configurations:
        for key, value in configuration.items():
            owner = configuration.get(key.partition(".")[0]) if "." in key else None
            values.setdefault(key, {}).setdefault(owner, set()).add(str(value))
    return [key for key, by_owner in values.items() if any(len(options) > 1 for options in by_owner.values())]


def sortable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for the HParams page without nulls, since TensorBoard cannot sort a column of texts and numbers.

    The seed is a text: a number would be shown as 0.0000.
    """
    known = {key: value for key, value in settings.items() if value != "None"}
    return known | ({"seed": str(known["seed"])} if "seed" in known else {})
