"""Configurations as commands would compose them, without running anything."""

from collections.abc import Sequence
from copy import deepcopy
from functools import cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from src.config import compose as here
from src.config import jobs
from src.config.hydra_internals import ConfigLoaderImpl
from src.config.paths import CONFIGS

_compose_once = cache(here.compose)
_jobs_once = cache(lambda *overrides: list(jobs.jobs_of(overrides)))


def compose(*overrides: str) -> DictConfig:
    """Compose each combination of files once per process, and apply other settings to a copy, as `jobs.expand` does.

    Composing takes a tenth of a second, which would dominate many tests.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    values = [override for override in parsed if _is_value(override)]
    config = deepcopy(_compose_once(*(str(override.input_line) for override in parsed if not _is_value(override))))
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
    return config


def _is_value(override: Override) -> bool:
    """Whether an override is neither the choice of a file nor a sweep."""
    key = override.key_or_group
    return "/" not in key and not (CONFIGS / key).is_dir() and not override.is_sweep_override()


def jobs_of(overrides: Sequence[str]) -> list[tuple[jobs.Job, DictConfig]]:
    """Like `compose`, for the jobs of a sweep."""
    return deepcopy(_jobs_once(*overrides))
