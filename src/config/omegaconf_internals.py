"""The private names of OmegaConf 2.3 that the project needs where the public ones do not suffice."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from omegaconf import Node
from omegaconf.basecontainer import BaseContainer


def root_of(node: Any) -> Any:
    """The whole configuration that a node belongs to; an error about an unknown key holds only the node."""
    return node._get_root()


def full_key_of(node: Node) -> str:
    """The full key of a setting, such as "trainer.max_updates", which its resolver is not given."""
    return str(node._get_full_key(None))


@contextmanager
def only_resolvers(names: Sequence[str]) -> Iterator[None]:
    """Allow only these resolvers meanwhile. (Clearing all would bring back OmegaConf's own, such as ${oc.env:}.)"""
    every = BaseContainer._resolvers
    BaseContainer._resolvers = {name: every[name] for name in names}
    try:
        yield
    finally:
        BaseContainer._resolvers = every
