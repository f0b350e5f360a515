"""Composes configurations from configs/."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from src.config.errors import files_of
from src.config.paths import CONFIGS
from src.config.resolvers import register_resolvers

MULTIRUN = frozenset({"-m", "--multirun"})


def compose(*overrides: str) -> DictConfig:
    """Compose the configuration of one run, as on the command line: `compose("model=lstm", "task.num_pairs=6")`.

    It is not yet checked; see `src.running.build.check`. Settings that an experiment varies keep their defaults.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    register_resolvers()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra_compose("train", list(overrides))


def prepare_hydra() -> None:
    """Register the resolvers, and make Hydra's completion and glob find the files of a group in subfolders.

    Hydra's help remains unchanged: it lists every subfolder separately, and asks for the options of a group without a
    filter.
    """
    from hydra.core.object_type import ObjectType

    from src.config.hydra_internals import ConfigLoaderImpl

    register_resolvers()
    direct = ConfigLoaderImpl.get_group_options

    def at_any_depth(loader: ConfigLoaderImpl, group_name: str, *rest: Any, **more: Any) -> list[str]:
        found = direct(loader, group_name, *rest, **more)
        results_filter = rest[0] if rest else more.get("results_filter")
        return found or (files_of(group_name) if results_filter == ObjectType.CONFIG else [])

    ConfigLoaderImpl.get_group_options = at_any_depth  # type: ignore


def with_one_value(overrides: Sequence[str]) -> list[str]:
    """The overrides that give a setting one value, rather than several to try."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create()
    return [override for override in overrides if not parser.parse_override(override).is_sweep_override()]


def for_hydra(arguments: Sequence[str]) -> list[str]:
    """Rewrite arguments for Hydra: `-m` first, `~/` expanded, and settings of a varying group written as sweeps.

    Hydra's parser refuses whatever follows a `-m` between two settings. With `optimizer=sgd,rmsprop`, Hydra would also
    apply `optimizer.momentum=0.9` to the default optimizer first, which may not have this setting; as a sweep over one
    value it is applied to the runs only.
    """
    arguments = sorted(arguments, key=lambda argument: argument not in MULTIRUN)
    arguments = [re.sub(r"^([\w.]+=)~(?=/|$)", rf"\1{Path.home()}", argument) for argument in arguments]
    pairs = [argument.partition("=") for argument in arguments]
    varied = {key for key, _, value in pairs if re.search(r"[,(]", value) and (CONFIGS / key).is_dir()}
    if varied and MULTIRUN.intersection(arguments):
        fixed = re.compile(rf"((?:{'|'.join(varied)})\.[\w.]+)=([^,(]+|\[.*\])")
        found = {argument: fixed.fullmatch(argument) for argument in arguments}
        return [f"{match[1]}=choice({match[2]})" if match else argument for argument, match in found.items()]
    return arguments
