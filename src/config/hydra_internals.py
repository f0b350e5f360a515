"""The private names of Hydra 1.3 that the project needs, where public ones do not do."""

from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl

__all__ = ["ConfigLoaderImpl", "basic_sweeper"]
"""`ConfigLoaderImpl` lists the files of a group, but not those in subfolders, and applies overrides to a configuration
that is composed already, in a hundredth of the time of composing it."""


def basic_sweeper() -> Any:
    """The class that turns overrides into jobs: those that are checked and those that are launched have to be the same.

    Looking for plugins, Hydra imports its module anew, so the class has to be asked for each time.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    return BasicSweeper
