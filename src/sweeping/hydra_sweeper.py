"""Makes Hydra's basic sweeper launch only some of its jobs.

The sweeper launches the product of all values: it can neither skip finished runs nor wait for results before deciding
what to run. Replacing its batches of jobs does both.
"""

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

from src.config.hydra_internals import basic_sweeper
from src.config.jobs import Job


class Batches:
    """Batches of jobs, each of which is decided only when Hydra's sweeper checks whether there is a next one."""

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


_replaced: dict[tuple[type, str], Any] = {}


def redirect(batches: Iterator[list[Job]] | None, around: Callable[..., Any] | None = None) -> None:
    """Make the sweeper launch these batches instead of the product of all values; None restores the product.

    Its check that every job can be composed, 0.1 s each, is skipped: `expand` has composed them. `around` is called in
    place of the launcher's own `launch`, with this `launch` and the jobs of a batch.
    """

    def surround(launcher: Any) -> None:
        if around is not None and (launcher, "launch") not in _replaced:
            launch = launcher.launch
            _replace(launcher, "launch", lambda self, *jobs, **more: around(partial(launch, self), *jobs, **more))

    for (owner, name), original in _replaced.items():
        setattr(owner, name, original)
    _replaced.clear()
    if batches is not None:
        _replace(basic_sweeper(), "split_arguments", staticmethod(lambda *_: Batches(batches)))
        _replace(basic_sweeper(), "validate_batch_is_legal", lambda sweeper, _: surround(type(sweeper.launcher)))


def _replace(owner: type, name: str, replacement: Any) -> None:
    _replaced[owner, name] = inspect.getattr_static(owner, name)
    setattr(owner, name, replacement)
