"""The private names of Hydra 1.3 that the project needs where the public ones do not suffice."""

from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl

__all__ = ["ConfigLoaderImpl", "basic_sweeper"]
"""`ConfigLoaderImpl` lists the files of a group, except those in subfolders; its `repository` says whether a name is
that of a group; and it applies overrides to a configuration that is already composed, in a hundredth of the time that
composing takes."""


def basic_sweeper() -> Any:
    """The class that turns overrides into jobs, so that the jobs that are checked are those that Hydra launches.

    When Hydra looks for plugins, it imports the module of the class anew, so the class has to be looked up each time.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    return BasicSweeper
