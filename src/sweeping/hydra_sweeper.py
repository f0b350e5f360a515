"""Expands the jobs of Hydra's basic sweeper, and makes it launch only some of them.

The sweeper launches the product of all values: it can neither skip finished runs nor wait for results before deciding
what to run. Replacing its batches of jobs does both.
"""

import copy
import inspect
from collections.abc import Iterator
from itertools import islice
from typing import Any

from omegaconf import DictConfig, OmegaConf

from src.config.settings import without_hydra

Job = list[str]
"""The overrides of one run."""


def expand(config: DictConfig) -> Iterator[tuple[Job, DictConfig]]:
    """Every job of a sweep with its configuration, in the order of the sweeper.

    Composing takes 0.1 s, so each combination of files is composed once, and other settings are applied to a copy.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    loader = GlobalHydra.instance().config_loader()
    parser = OverridesParser.create(config_loader=loader)
    parameters = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    sweep = parser.parse_overrides(parameters + list(config.hydra.overrides.task))
    # None: include groups whose files are all in subfolders, such as experiment
    groups = {override.key_or_group for override in sweep if loader.get_group_options(override.key_or_group, None)}
    composed: dict[tuple[str, ...], DictConfig] = {}
    for job in BasicSweeper.split_arguments(sweep, None)[0]:
        overrides = parser.parse_overrides(job)
        files = tuple(str(override.input_line) for override in overrides if override.key_or_group in groups)
        if files not in composed:
            composed[files] = without_hydra(loader.load_sweep_config(config, list(files)))
        settings = copy.deepcopy(composed[files])
        OmegaConf.set_struct(settings, True)
        others = [override for override in overrides if override.key_or_group not in groups]
        ConfigLoaderImpl._apply_overrides_to_config(others, settings)
        yield job, settings


class Batches:
    """Batches of jobs; each is decided only when Hydra's sweeper checks whether there is a next one."""

    def __init__(self, batches: Iterator[list[Job]]):
        self.batches = batches
        self.known: list[list[Job]] = []
        self.taken = 0

    def __len__(self) -> int:
        if self.taken == len(self.known):
            self.known.extend(islice(self.batches, 1))
        return len(self.known)

    def __getitem__(self, index: int) -> list[Job]:
        self.taken = index + 1
        return self.known[index]


_replaced: dict[str, Any] = {}


def redirect(batches: Iterator[list[Job]] | None) -> None:
    """Make the sweeper launch these batches instead of the product of all values; None restores the product.

    Its check that every job can be composed, 0.1 s each, is skipped: `expand` has composed them.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    for name, original in _replaced.items():
        setattr(BasicSweeper, name, original)
    _replaced.clear()
    if batches is not None:
        replacements = {
            "split_arguments": staticmethod(lambda *_: Batches(batches)),
            "validate_batch_is_legal": lambda *_: None,
        }
        for name, replacement in replacements.items():
            _replaced[name] = inspect.getattr_static(BasicSweeper, name)
            setattr(BasicSweeper, name, replacement)
