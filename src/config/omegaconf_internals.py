"""The private names of OmegaConf 2.3 that the project needs, where public ones do not do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from omegaconf import Node
from omegaconf.basecontainer import BaseContainer


def root_of(node: Any) -> Any:
    """The whole configuration of a part, which an error has of the place where a key is unknown."""
    return node._get_root()


def full_key_of(node: Node) -> str:
    """The key of a setting from the root, such as "trainer.max_updates", which its resolver is not told."""
    return str(node._get_full_key(None))


@contextmanager
def only_resolvers(names: Sequence[str]) -> Iterator[None]:
    """Know only these resolvers meanwhile: OmegaConf's own, such as ${oc.env:}, come back when all are cleared."""
    every = BaseContainer._resolvers
    BaseContainer._resolvers = {name: every[name] for name in names}
    try:
        yield
    finally:
        BaseContainer._resolvers = every
