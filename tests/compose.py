"""Configurations as commands would compose them, without running anything."""

from collections.abc import Sequence
from copy import deepcopy
from functools import cache

from omegaconf import DictConfig

from src.config import compose as here
from src.config import jobs

_compose_once = cache(here.compose)
_jobs_once = cache(lambda *overrides: list(jobs.jobs_of(overrides)))


def compose(*overrides: str) -> DictConfig:
    """A copy of the configuration; each one is composed once per process, since composing dominates many tests."""
    return deepcopy(_compose_once(*overrides))


def jobs_of(overrides: Sequence[str]) -> list[tuple[jobs.Job, DictConfig]]:
    """Like `compose`, for the jobs of a sweep."""
    return deepcopy(_jobs_once(*overrides))
