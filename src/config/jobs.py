"""The jobs of a sweep, as Hydra's basic sweeper creates them."""

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from src.config.compose import for_hydra, with_one_value
from src.config.errors import UserError
from src.config.paths import CONFIGS
from src.config.resolvers import register_resolvers
from src.config.settings import without_hydra

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

Job = list[str]
"""The overrides of one run."""


def values_of(override: "Override") -> list[str]:
    """The values of a setting that has several, such as `1,2` or `range(3)`, as Hydra writes them.

    Raises:
        UserError: it has none.
    """
    try:
        values = list(override.sweep_string_iterator())
    except ValueError as error:  # a range with a step of 0
        raise UserError(f"{override.input_line}: {error}") from None
    if not values:
        raise UserError(f"{override.input_line}: gives no values")
    return values


def expand(config: DictConfig) -> Iterator[tuple[Job, DictConfig]]:
    """Every job of a sweep with its configuration, in the order of the sweeper.

    Composing takes 0.1 s, so each combination of files is composed once, and other settings are applied to a copy.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from src.config.hydra_internals import ConfigLoaderImpl, basic_sweeper

    loader = GlobalHydra.instance().config_loader()
    assert isinstance(loader, ConfigLoaderImpl)
    parser = OverridesParser.create(config_loader=loader)
    parameters = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    sweep = parser.parse_overrides(parameters + list(config.hydra.overrides.task))
    groups = {override.key_or_group for override in sweep if loader.repository.group_exists(override.key_or_group)}
    for override in sweep:
        if override.is_interval_sweep():
            raise UserError(f"{override.input_line}: a sweep needs a list; for intervals, use scripts/search.py")
        if override.is_sweep_override():
            values_of(override)
    by_files: dict[tuple[str, ...], DictConfig] = {}
    for job in basic_sweeper().split_arguments(sweep, None)[0]:
        overrides = parser.parse_overrides(job)
        files = tuple(str(override.input_line) for override in overrides if override.key_or_group in groups)
        if files not in by_files:
            whole = loader.load_sweep_config(config, list(files))
            if whole.hydra.sweeper.get("params") != config.hydra.sweeper.get("params"):
                raise UserError(f"{' '.join(files)}: has a grid of its own; run it as a separate command")
            by_files[files] = without_hydra(whole)
        settings = copy.deepcopy(by_files[files])
        OmegaConf.set_struct(settings, True)
        others = [override for override in overrides if override.key_or_group not in groups]
        ConfigLoaderImpl._apply_overrides_to_config(others, settings)
        yield job, settings


def jobs_of(overrides: Sequence[str]) -> Iterator[tuple[Job, DictConfig]]:
    """Every job of the sweep that `python -m src.train -m` would start with these overrides."""
    from hydra import compose, initialize_config_dir

    register_resolvers()
    overrides = for_hydra(["-m", *overrides])[1:]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", with_one_value(overrides), return_hydra_config=True)
        OmegaConf.set_readonly(config, False)
        config.hydra.overrides.task = overrides
        yield from expand(config)
