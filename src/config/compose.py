"""Composing a configuration from configs/, and the resolvers that its files use."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, Node, OmegaConf

from src.config.errors import UserError
from src.config.fingerprint import run_name
from src.config.paths import CONFIGS
from src.config.settings import short_name


def compose(overrides: Sequence[str]) -> DictConfig:
    """The configuration of one run, not yet checked. Settings that an experiment varies keep their defaults."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    register_resolvers()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra_compose("train", list(overrides))


def register_resolvers() -> None:
    """Register ${run_name:} and ${run_dir:}, and ${by:} for a setting that depends on another.

    `${by:${model.hidden_size},{20:100000,50:50000}}` is 100000 for 20 units and 50000 for 50; a third
    argument is the value for all others. A `_target_` goes by its short name: `${by:${model._target_},{lstm:1},2}`.
    """
    OmegaConf.register_new_resolver("by", _resolve_by, replace=True)
    OmegaConf.register_new_resolver("run_name", _resolve_run_name, replace=True)
    OmegaConf.register_new_resolver("run_dir", _resolve_run_dir, replace=True)


def _resolve_run_name(*, _root_: DictConfig) -> str:
    return run_name(_root_) if "name" in _root_ else "run"


def _resolve_run_dir(*, _root_: DictConfig) -> str:
    return f"{_root_.run.root}/{_root_.name}/{run_name(_root_)}" if "name" in _root_ else "run"


def _resolve_by(value: Any, settings: DictConfig, otherwise: Any = None, *, _node_: Node) -> Any:
    name = short_name(value) if isinstance(value, str) else value
    if name in settings:
        return settings[name]
    if otherwise is not None:
        return otherwise
    known = ", ".join(map(str, settings))
    raise UserError(f"{_node_._get_full_key(None)} has no value for {name}, only for {known}; set it explicitly")
