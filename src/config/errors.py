"""Reports every user error in one line that names the culprit and what is legal, with exit status 1.

Set HYDRA_FULL_ERROR=1 to see the traceback instead.
"""

import difflib
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from src.config.paths import CONFIGS, PROJECT

if TYPE_CHECKING:
    from pydantic import ValidationError


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
    """Turn the exceptions of a command into one line on stderr and exit status 1, and Ctrl-C into exit status 130.

    A KeyboardInterrupt may carry another status.
    """
    threading.excepthook = _of_other_threads
    try:
        yield
    except KeyboardInterrupt as stop:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends the remaining work at once
        sys.exit(stop.args[0] if stop.args else 130)
    except Exception as error:
        if _user_wants_tracebacks or isinstance(error, BrokenPipeError):  # nobody reads what is printed
            raise
        sys.exit(f"error: {explain(error)}")
    finally:
        threading.excepthook = threading.__excepthook__


@contextmanager
def raised_by_hydra() -> Iterator[None]:
    """Make `hydra.main` pass exceptions on unchanged, also in processes that are started meanwhile."""
    if _user_wants_tracebacks:
        yield
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        os.environ.pop("HYDRA_FULL_ERROR", None)


def _of_other_threads(ended: threading.ExceptHookArgs) -> None:
    """Say why a thread died, except TensorBoard's, whose exception is raised again in the main thread."""
    if not type(ended.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(ended)


def exit_on_user_error(check: Callable[[], None]) -> None:
    """Run a check inside a Hydra callback, where an exception would only become a warning."""
    try:
        check()
    except Exception as error:
        if _user_wants_tracebacks and not isinstance(error, UserError):
            traceback.print_exc()
        sys.exit(f"error: {explain(error)}")


_user_wants_tracebacks = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")


def explain(error: BaseException) -> str:
    """One line for an exception, from the most informative one in its chain."""
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ValidationError

    chain, causes = list(_chain(error)), list(_causes(error))
    for link in chain:
        if isinstance(link, UserError):
            return str(link)
        if isinstance(link, MissingConfigException):
            return _missing_file(link)
        if isinstance(link, OverrideParseException):
            of_function = re.search(r" while evaluating '.*?': (.*)", str(link))
            if of_function:
                return f"{link.override}: {of_function[1]}"
            return f"{link.override}: not key=value; a value with special characters needs quotes: 'key=\"value\"'"
        if isinstance(link, ConfigKeyError | ConfigAttributeError):
            return _unknown_key(link)
        if isinstance(link, ValidationError):
            return _single_line(f"{link.full_key}: {link.msg}" if link.full_key else str(link))
        if isinstance(link, OSError) and link.strerror and link in causes:
            return f"{link.filename}: {link.strerror}" if link.filename else link.strerror
    if died(error):
        return f"{DIED}; run the same command again to resume"
    text = _single_line(str(chain[0]))
    if "Ambiguous value for argument" in text or "requires --multirun" in text:
        argument = text.split("'")[1]
        return f"{argument} gives several values; add -m to run them all"
    if "Could not delete from config" in text:
        key = text.split("'")[1]
        return f"{key} cannot be removed: there is no such setting, or it is null"
    if argument := _argument(chain[0]):
        options = files_of(argument.partition("=")[0].strip("+~"))
        return f"{argument}{choose('', options)}" if options else f"{argument}: {text}"
    if type(chain[0]).__module__.partition(".")[0] in ("hydra", "omegaconf"):
        return text
    return f"{type(chain[0]).__name__}: {text}".removesuffix(": ")


def line_of(text: str) -> str:
    """The last line of this project in the text of a traceback, as "src/models/mine.py:27"; "" if there is none."""
    places = re.findall(r'File "(.+?)", line (\d+)', text)
    own = [(Path(file), line) for file, line in places if Path(file).is_relative_to(PROJECT / "src")]
    return f"{own[-1][0].relative_to(PROJECT)}:{own[-1][1]}" if own else ""


def _argument(error: BaseException) -> str:
    """The argument that Hydra was working on, unless the message already names it; else ""."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    override = frames[-1].f_locals.get("override") if frames else None
    argument = str(getattr(override, "input_line", None) or "")
    return "" if str(getattr(override, "key_or_group", "")) in str(error).split("'") else argument


DIED = "a worker was killed, perhaps for lack of memory"


def died(error: BaseException) -> bool:
    """Whether this exception means that one of a launcher's processes has died."""
    return type(error).__name__ in ("TerminatedWorkerError", "UncompletedJobError", "WorkerCrashedError")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, those that a traceback shows before it, and those that OmegaConf hides."""
    from omegaconf.errors import OmegaConfBaseException

    while error is not None:
        yield error
        hidden = error.__suppress_context__ and not isinstance(error, OmegaConfBaseException)
        error = error.__cause__ or (None if hidden else error.__context__)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def _unknown_key(error) -> str:
    from omegaconf import OmegaConf

    from src.config.omegaconf_internals import root_of

    full_key = str(error.full_key or error.key)
    parent, _, key = full_key.rpartition(".")
    node = error.parent_node
    if not OmegaConf.is_dict(node):
        return f"{full_key} is not a setting{choose(key, [])}"
    groups = {str(name): group for name, group in root_of(node).items_ex(resolve=False) if OmegaConf.is_dict(group)}
    elsewhere = [f"{name}.{key}" for name, group in groups.items() if key in group and name != "hydra"]
    legal = [str(name) for name in node if name not in ("_target_", "hydra")]
    hint = f"; did you mean {elsewhere[0]}?" if elsewhere else choose(key, legal)
    return f"{full_key} is not a setting{f' of {parent}' if parent else ''}{hint}"


def _missing_file(error) -> str:
    group, _, name = str(error.missing_cfg_file or "").strip("/").rpartition("/")
    options = error.options
    if not error.missing_cfg_file:  # the folder of --config-path does not exist
        return _single_line(str(error))
    if not group and not (CONFIGS / name).is_dir():
        return f"--config-name={name} does not exist{choose(name, (path.stem for path in CONFIGS.glob('*.yaml')))}"
    if group == "hydra/launcher" and name.partition("_")[0] in ("joblib", "submitit", "ray"):
        return f"{group}={name} needs a plugin: pip install -e '.[{name.partition('_')[0]}]'"
    key, _, folder = group.partition("/")
    if folder and (CONFIGS / key).is_dir():  # as it was typed, not as the group that Hydra turns it into
        options = [f"{folder}/{option}" for option in files_of(group)] or files_of(key)
        group, name = key, f"{folder}/{name}"
    options = options or files_of(group or name)
    wrong = f"{group}={name} does not exist" if group else f"{name}= needs a value"
    return wrong + choose(name if group else "", options)


def files_of(group: str) -> list[str]:
    """The files of a group, at any depth."""
    folder = CONFIGS / group
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml")) if group else []


def what_is_wrong(error: "ValidationError") -> str:
    """The first error that pydantic found: "metrics.val/error: input should be a valid number"."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    return ": ".join(filter(None, [".".join(map(str, first["loc"])), message[:1].lower() + message[1:]]))


def _single_line(text: str) -> str:
    """The text in one line, beginning with the key that OmegaConf names at its end, among types that help nobody."""
    line = " ".join(line.strip() for line in text.strip().splitlines() if line.strip())
    found = re.fullmatch(r"(.*) full_key: (\S+) object_type=\w+", line)
    if found is None:
        return line
    message, key = found.groups()
    return message if message.startswith(f"{key}: ") else f"{key}: {message}"
