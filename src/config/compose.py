"""Composing a configuration from configs/, and the resolvers that its files use."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.basecontainer import BaseContainer

from src.config.errors import UserError, files_of
from src.config.matching import units_for
from src.config.paths import CONFIGS, folder_of_runs
from src.config.settings import short_name

MULTIRUN = frozenset({"-m", "--multirun"})


def compose(overrides: Sequence[str]) -> DictConfig:
    """The configuration of one run, not yet checked. Settings that an experiment varies keep their defaults."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    register_resolvers()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra_compose("train", list(overrides))


def prepare_hydra() -> None:
    """Register the resolvers, and make Hydra complete and glob the files of a group in subfolders."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.object_type import ObjectType

    register_resolvers()
    direct = ConfigLoaderImpl.get_group_options

    def at_any_depth(
        loader: ConfigLoaderImpl, group_name: str, results_filter: Any = ObjectType.CONFIG, *rest: Any, **more: Any
    ) -> list[str]:
        found = direct(loader, group_name, results_filter, *rest, **more)
        return found or (files_of(group_name) if results_filter == ObjectType.CONFIG else [])

    ConfigLoaderImpl.get_group_options = at_any_depth  # type: ignore


def for_hydra(arguments: Sequence[str]) -> list[str]:
    """Arguments as Hydra takes them: `~/` is the home folder, and a setting of a group that varies goes to every run.

    Hydra would apply `optimizer.momentum=0.9` of `optimizer=sgd,rmsprop` to the default optimizer first, which may lack
    it; as a sweep over one value it is applied to the runs only.
    """
    arguments = [re.sub(r"^([\w.]+=)~(?=/|$)", rf"\1{Path.home()}", argument) for argument in arguments]
    pairs = [argument.partition("=") for argument in arguments]
    varied = {key for key, _, value in pairs if re.search(r"[,(]", value) and (CONFIGS / key).is_dir()}
    if varied and MULTIRUN.intersection(arguments):
        fixed = re.compile(rf"((?:{'|'.join(varied)})\.[\w.]+)=([^,(]+|\[.*\])")
        found = {argument: fixed.fullmatch(argument) for argument in arguments}
        return [f"{match[1]}=choice({match[2]})" if match else argument for argument, match in found.items()]
    return arguments


def register_resolvers() -> None:
    """Register ${run_name:}, ${run_dir:}, ${sweep_dir:}, ${units_for:}, and ${by:} for what depends on another setting.

    `${by:${model.hidden_size},{20:100000,50:50000}}` is 100000 for 20 units and 50000 for 50; a third
    argument is the value for all others. A `_target_` goes by its short name: `${by:${model._target_},{lstm:1},2}`.
    """
    OmegaConf.register_new_resolver("by", _resolve_by, replace=True)
    OmegaConf.register_new_resolver("units_for", units_for, replace=True)
    OmegaConf.register_new_resolver("run_name", _resolve_run_name, replace=True)
    OmegaConf.register_new_resolver("run_dir", _resolve_run_dir, replace=True)
    OmegaConf.register_new_resolver("sweep_dir", _resolve_sweep_dir, replace=True)


@contextmanager
def only_harmless_resolvers() -> Iterator[None]:
    """Know only ${by:} and ${units_for:} meanwhile, so that a stored file reads neither environment nor other files."""
    register_resolvers()
    every = BaseContainer._resolvers
    BaseContainer._resolvers = {name: every[name] for name in ("by", "units_for")}
    try:
        yield
    finally:
        BaseContainer._resolvers = every


def _resolve_run_name(*, _root_: DictConfig) -> str:
    from src.config.fingerprint import run_name  # imports pydantic, which `--help` need not wait for

    return run_name(_root_) if "name" in _root_ else "run"


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
    raise UserError(f"{_node_._get_full_key(None)} has no value for {name}, only for {known}; set it explicitly")
