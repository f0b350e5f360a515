"""Configurations of commands that are not run."""

from copy import deepcopy
from functools import cache

from omegaconf import DictConfig

from src.config import compose as here

_compose_once = cache(here.compose)


def compose(*overrides: str) -> DictConfig:
    """A copy of the configuration, which is composed once in a process, since that takes most of many a test."""
    return deepcopy(_compose_once(*overrides))
