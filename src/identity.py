"""Which run a configuration is: everything that can change its result, however it was spelled."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, Node, OmegaConf

from src.errors import UserError

CANNOT_CHANGE_THE_RESULT = (
    "name",
    "device",
    "run",
    "search",
    "trainer.log_every",
    "trainer.checkpoint_every",
    "trainer.threads",
    "trainer.profile_updates",
)
"""Settings that are not part of a run's identity."""


def without_hydra(config: DictConfig) -> DictConfig:
    """The configuration that the run itself sees."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def identity(config: DictConfig) -> str:
    """Eight hexadecimal digits that stand for everything that can change the result of a run."""
    text = json.dumps(_plain(decisive_settings(config)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def decisive_settings(config: DictConfig) -> dict[str, Any]:
    """Everything that can change the result of a run, as nested dictionaries."""
    settings: Any = OmegaConf.to_container(without_hydra(config), resolve=True)
    for path in CANNOT_CHANGE_THE_RESULT:
        *parents, key = path.split(".")
        node = settings
        for parent in parents:
            node = node.get(parent, {})
        node.pop(key, None)
    return settings


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"model": "irnn", "model.hidden_size": 50, ...}: nested settings by their full keys, for tables."""
    by_key: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            if "_target_" in value:
                by_key[prefix + key] = stem(value)
            by_key |= flat(value, f"{prefix}{key}.")
        elif key != "_target_":
            by_key[prefix + key] = value if isinstance(value, bool | int | float | str) else str(value)
    return by_key


def varied(configurations: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys in which flat settings differ, leaving out what differs only because another model or task has it."""
    values: dict[str, dict[Any, set[str]]] = {}
    for configuration in configurations:
        for key, value in configuration.items():
            owner = configuration.get(key.partition(".")[0]) if "." in key else None
            values.setdefault(key, {}).setdefault(owner, set()).add(str(value))
    return [key for key, by_owner in values.items() if any(len(options) > 1 for options in by_owner.values())]


def _plain(value: Any) -> Any:
    """1.0 and 1 are the same setting."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def stem(node: Any) -> str:
    """The one spelling of a model, task or optimizer: its module's name."""
    target = str(node["_target_"]).split(".")
    return target[-2] if target[-1][0].isupper() else target[-1]


def run_name(config: DictConfig) -> str:
    """The folder of a run: a readable prefix and the identity, whichever way the settings were spelled."""
    model = f"{stem(config.model)}{config.model.get('hidden_size', '')}"
    lr = f"lr{float(config.optimizer.get('lr', 0)):g}"
    return "-".join([model, stem(config.task), lr, f"s{config.seed}", identity(config)])


def _resolve_run_name(*, _root_: DictConfig) -> str:
    return run_name(_root_) if "name" in _root_ else "run"


def _resolve_run_dir(*, _root_: DictConfig) -> str:
    return f"{_root_.run.root}/{_root_.name}/{run_name(_root_)}" if "name" in _root_ else "run"


def _resolve_by(value: Any, settings: DictConfig, otherwise: Any = None, *, _node_: Node) -> Any:
    if value in settings:
        return settings[value]
    if otherwise is not None:
        return otherwise
    known = ", ".join(map(str, settings))
    raise UserError(f"{_node_._get_full_key(None)} has no value here for {value}, only for {known}; give it one")


def register_resolvers() -> None:
    """Make ${run_name:} and ${run_dir:} known to configuration files, and ${by:} for a setting that follows another.

    `${by:${model.hidden_size},{20:100000,50:50000}}` is 100000 for 20 units and 50000 for 50; one more
    argument is the setting for every other value.
    """
    OmegaConf.register_new_resolver("by", _resolve_by, replace=True)
    OmegaConf.register_new_resolver("run_name", _resolve_run_name, replace=True)
    OmegaConf.register_new_resolver("run_dir", _resolve_run_dir, replace=True)
