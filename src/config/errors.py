"""Every user error ends in one line that names the culprit and what is legal, with exit status 1.

Set HYDRA_FULL_ERROR=1 to see the traceback instead.
"""

import difflib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from src.config.paths import CONFIGS


class UserError(Exception):
    """A user's mistake; its message is the one line that explains it."""


def choose(name: str, legal: Iterable[str]) -> str:
    """The end of a message about an unknown name: the closest spelling, if any, and the legal names."""
    names = sorted(map(str, legal))
    nearest = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ";"
    return f"{hint} legal: {', '.join(names) or 'nothing'}"


@contextmanager
def in_one_line() -> Iterator[None]:
    """Turn the exceptions of a command into one line on stderr and exit status 1."""
    if _full_error():
        yield
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra pass exceptions on unchanged
    threading.excepthook = lambda _: None  # TensorBoard's thread re-raises in the main thread
    try:
        yield
    except Exception as error:
        sys.exit(f"error: {explain(error)}")
    finally:
        os.environ.pop("HYDRA_FULL_ERROR", None)
        threading.excepthook = threading.__excepthook__


def exit_on_user_error(check: Callable[[], None]) -> None:
    """Run a check inside a Hydra callback, where an exception would only become a warning."""
    try:
        check()
    except Exception as error:
        if _full_error() and not isinstance(error, UserError):
            import traceback

            traceback.print_exc()
        sys.exit(f"error: {explain(error)}")


_user_wants_tracebacks = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")


def _full_error() -> bool:
    return _user_wants_tracebacks


def explain(error: BaseException) -> str:
    """One line for an exception, from the most informative one in its chain."""
    from hydra.errors import MissingConfigException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ValidationError

    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, UserError):
            return str(link)
        if isinstance(link, MissingConfigException):
            return _missing_file(link)
        if isinstance(link, ConfigKeyError | ConfigAttributeError):
            return _unknown_key(link)
        if isinstance(link, ValidationError):
            return _single_line(f"{link.full_key}: {link.msg}" if link.full_key else str(link))
        if isinstance(link, OSError) and link.strerror:
            return f"{link.filename}: {link.strerror}" if link.filename else link.strerror
    if type(chain[0]).__name__ in ("TerminatedWorkerError", "UncompletedJobError", "WorkerCrashedError"):
        return "a worker was killed, perhaps for lack of memory; run the same command again to resume"
    text = _single_line(str(chain[0]))
    if "Ambiguous value for argument" in text:
        argument = text.split("'")[1]
        return f"{argument} gives several values; add -m to run them all"
    if type(chain[0]).__module__.partition(".")[0] in ("hydra", "omegaconf"):
        return text
    return f"{type(chain[0]).__name__}: {text}".removesuffix(": ")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _unknown_key(error) -> str:
    from omegaconf import OmegaConf

    full_key = str(error.full_key or error.key)
    parent, _, key = full_key.rpartition(".")
    node = error.parent_node
    legal = [str(name) for name in node if name not in ("_target_", "hydra")] if OmegaConf.is_dict(node) else []
    return f"{full_key} is not a setting{f' of {parent}' if parent else ''}{choose(key, legal)}"


def _missing_file(error) -> str:
    group, _, name = str(error.missing_cfg_file or "").strip("/").rpartition("/")
    options = error.options
    if group == "hydra/launcher" and name.partition("_")[0] in ("joblib", "submitit", "ray"):
        return f"{group}={name} needs a plugin: pip install -e '.[{name.partition('_')[0]}]'"
    if not options:
        options = [path.relative_to(CONFIGS / group).with_suffix("") for path in (CONFIGS / group).rglob("*.yaml")]
    if group and name:
        return f"{group}={name} does not exist{choose(name, map(str, options))}"
    if group or name:
        return f"{group or name}= needs a value{choose(name, map(str, options))}"
    return _single_line(str(error))


def _single_line(text: str) -> str:
    return " ".join(line.strip() for line in text.strip().splitlines() if line.strip())
