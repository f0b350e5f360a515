"""The resolvers that configurations use."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, Node, OmegaConf

from src.config.errors import UserError
from src.config.omegaconf_internals import full_key_of, only_resolvers
from src.config.paths import folder_of_runs
from src.config.settings import short_name


def register_resolvers() -> None:
    """Register ${run_name:}, ${run_dir:}, ${sweep_dir:}, ${units_for:}, and ${by:}, which depends on another setting.

    `${by:${model.hidden_size},{20:100000,50:50000}}` is 100000 for 20 units and 50000 for 50; a third argument is the
    value for all others. A `_target_` is looked up by its short name: `${by:${model._target_},{lstm:1},2}`.
    """
    OmegaConf.register_new_resolver("by", _resolve_by, replace=True)
    OmegaConf.register_new_resolver("units_for", _resolve_units_for, replace=True)
    OmegaConf.register_new_resolver("run_name", _resolve_run_name, replace=True)
    OmegaConf.register_new_resolver("run_dir", _resolve_run_dir, replace=True)
    OmegaConf.register_new_resolver("sweep_dir", _resolve_sweep_dir, replace=True)


@contextmanager
def only_harmless_resolvers() -> Iterator[None]:
    """Allow only ${by:} and ${units_for:} meanwhile, so a stored file cannot read the environment or other files."""
    register_resolvers()
    with only_resolvers(("by", "units_for")):
        yield


def _resolve_run_name(*, _root_: DictConfig) -> str:
    from src.config.fingerprint import run_name  # imports pydantic, which `--help` need not wait for

    return run_name(_root_) if "name" in _root_ else "run"


def _resolve_units_for(num_parameters: Any, *, _root_: DictConfig) -> int:
    from src.config.matching import units_for  # as above

    return units_for(num_parameters, _root_)


def _resolve_run_dir(*, _root_: DictConfig) -> str:
    return str(folder_of_runs(_root_) / _resolve_run_name(_root_=_root_)) if "name" in _root_ else "run"


def _resolve_sweep_dir(*, _root_: DictConfig) -> str:
    return str(folder_of_runs(_root_))


def _resolve_by(value: Any, settings: DictConfig, otherwise: Any = None, *, _node_: Node) -> Any:
    name = short_name(value) if isinstance(value, str) else value
    if name in settings:
        return settings[name]
    if otherwise is not None:
        return otherwise
    known = ", ".join(map(str, settings))
    raise UserError(f"{full_key_of(_node_)} has no value for {name}, only for {known}; set it explicitly")
