"""Identifies a run by every setting that can change its result, however the settings are spelled."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from src.config.schema import later_keys
from src.config.settings import flat, short_name, without_hydra

WITHOUT_EFFECT = (
    "name",
    "note",
    "device",
    "run",
    "search",
    "task.data_dir",
    "trainer.log_every",
    "trainer.checkpoint_every",
    "trainer.histograms",
    "trainer.profile_updates",
)
"""Settings that cannot change the result of a run, apart from rounding on another device."""


def fingerprint(config: DictConfig) -> str:
    """Eight hexadecimal digits that identify everything that can change the result of a run.

    Models, tasks and so on enter by their short names, so that modules can move. A key that was added later is left
    out while it has its neutral value (`src.config.schema.Neutral`), so that earlier runs keep their names.
    """
    text = json.dumps(_canonical(decisive_settings(config)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


class Described(NamedTuple):
    """A configuration as it is stored and shown with a run."""

    fingerprint: str
    settings: dict[str, Any]
    """The decisive settings by full key."""
    config: dict[str, Any]
    """All settings, as nested dictionaries."""


def describe(config: DictConfig) -> Described:
    """The fingerprint and settings of a configuration, to be stored and shown."""
    whole: Any = OmegaConf.to_container(config, resolve=True)
    return Described(fingerprint(config), decisive_keys(config), whole)


def decisive_settings(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Everything that can change the result of a run, as nested dictionaries, including keys added later."""
    settings: Any = config
    if isinstance(config, DictConfig):
        settings = OmegaConf.to_container(without_hydra(config), resolve=True)
    settings = {key: dict(value) if isinstance(value, Mapping) else value for key, value in settings.items()}
    for path in WITHOUT_EFFECT:
        group, _, key = path.rpartition(".")
        (settings.get(group, {}) if group else settings).pop(key, None)
    for (group, key), neutral in later_keys(settings).items():
        settings[group].setdefault(key, neutral)
    return settings


def decisive_keys(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """`decisive_settings` by full key."""
    return flat(decisive_settings(config))


def run_name(config: DictConfig) -> str:
    """The name of a run's folder: a readable prefix and the fingerprint, however the settings are spelled."""
    model = f"{short_name(config.model._target_)}{config.model.get('hidden_size', '')}"
    lr = f"lr{float(config.optimizer.get('lr', 0)):g}"
    return "-".join([model, short_name(config.task._target_), lr, f"s{config.seed}", fingerprint(config)])


_NONE = object()


def _canonical(settings: dict[str, Any]) -> dict[str, Any]:
    """The canonical form of settings: whatever makes no difference is left out or spelled in one way."""
    neutral = later_keys(settings)
    canonical: dict[str, Any] = {}
    for group, value in settings.items():
        if isinstance(value, Mapping):
            value = {key: item for key, item in value.items() if neutral.get((group, key), _NONE) != item}
            if "_target_" in value:
                value["_target_"] = short_name(str(value["_target_"]))
        canonical[group] = _plain(value)
    return canonical


def _plain(value: Any) -> Any:
    """Turn whole floats into integers, since 1.0 and 1 are the same setting."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
