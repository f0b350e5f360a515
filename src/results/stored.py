"""Reads and checks the files that runs leave, which may be damaged, and may come from anyone."""

import dataclasses
import logging
from collections.abc import Mapping
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import UnsupportedInterpolationType
from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from src.config.errors import UserError, explain, what_is_wrong
from src.config.resolvers import only_harmless_resolvers
from src.config.schema import SearchSettings, Settings

log = logging.getLogger(__name__)
Content = TypeVar("Content")
MOST_BYTES, MOST_LEVELS, MOST_INTERPOLATIONS = 2**16, 20, 20
"""Limits of a stored configuration: a short one can expand to terabytes."""
TOO_DEEP = f"nested more than {MOST_LEVELS} levels deep"


def _plain(node: Any, level: int = 1) -> Any:
    """Return the settings; raise a ValueError if they contain anything that no run stores."""
    if level > MOST_LEVELS:
        raise ValueError(TOO_DEEP)
    for value in node.values() if isinstance(node, Mapping) else node:
        if isinstance(value, Mapping | list):
            _plain(value, level + 1)
        elif isinstance(value, int) and abs(value) >= 2**63:
            raise ValueError("an integer outside the 64-bit range")
        elif isinstance(value, str) and "${" in value:
            raise ValueError(f"{value[:50]!r} would be evaluated")
        elif not isinstance(value, int | float | str | None):
            raise ValueError(f"a value of type {type(value).__name__}")
    return node


_SEARCH: Any = TypedDict("_SEARCH", get_type_hints(SearchSettings))  # type: ignore[misc]
_GROUPS = {
    field.name: _SEARCH if field.type is SearchSettings else dict[str, Any]
    for field in dataclasses.fields(Settings)
    if field.type is Any or dataclasses.is_dataclass(field.type)
}
_CONFIG = TypedDict("_CONFIG", _GROUPS, total=False)  # type: ignore[misc]
_CONFIG.__pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[attr-defined]
Config = Annotated[_CONFIG, AfterValidator(_plain)]
"""The configuration of a run, from this version or an earlier one, complete or not."""


CONFIGS: Any = TypeAdapter(Config)


def checked_config(settings: Any) -> dict[str, Any]:
    """Return a stored configuration if it has the structure of one; `stored_config` checks whether it can be built.

    Raises:
        UserError: it has another structure.
    """
    try:
        return CONFIGS.validate_python(settings, strict=True)
    except ValidationError as error:
        raise UserError(what_is_wrong(error)) from None


def read_json(path: Path, kind: TypeAdapter[Content], most_bytes: int) -> Content | None:
    """The content of a JSON file; None if it is missing or, after a warning, if it is damaged."""
    try:
        return kind.validate_json(_read(path, most_bytes), strict=True)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        warn(f"{path} is damaged and counts as missing: {what_is_wrong(error)}")
    except (OSError, UserError) as error:
        warn(f"{path} cannot be read and counts as missing: {explain(error)}")
    return None


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in the configuration that Hydra wrote for a run, read without following references out of the file.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is damaged, would run a resolver (other than ${by:} and ${units_for:}), or exceeds the limits.
    """
    try:
        text = _read(path, MOST_BYTES).decode()
        level = 0
        for event in yaml.parse(text):
            level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if level > MOST_LEVELS:
                raise UserError(TOO_DEEP)
            if isinstance(event, yaml.AliasEvent):
                raise UserError(f"*{event.anchor} is an alias, which is not allowed in a stored configuration")
            if level == 0 and isinstance(event, yaml.ScalarEvent):
                raise UserError("not a group of settings")
        if text.count("${") > MOST_INTERPOLATIONS:
            raise UserError(f"more than {MOST_INTERPOLATIONS} interpolations")
        with only_harmless_resolvers():
            return checked_config(OmegaConf.to_container(OmegaConf.load(StringIO(text)), resolve=True))
    except FileNotFoundError:
        raise
    except UnsupportedInterpolationType as error:
        raise UserError(
            f"{path}: {error.full_key} would run a resolver; legal: ${{by:}}, ${{units_for:}} and keys of settings"
        ) from None
    except Exception as error:  # YAML and OmegaConf raise many kinds of error
        raise UserError(f"{path}: {explain(error).removeprefix(f'{path}: ')}") from None


@cache
def warn(message: str) -> None:
    """Log a warning the first time only, since files are read again and again."""
    log.warning("%s", message)


def _read(path: Path, most_bytes: int) -> bytes:
    if path.exists() and not path.is_file():
        raise UserError("not a file")
    with open(path, "rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise UserError(f"larger than {most_bytes} bytes")
    return content
