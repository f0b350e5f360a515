"""Compiles kernels for this machine on first use, and loads them.

There is one library for fast weights and the code shared by all steps, one for the linear recurrence, and one for
every generated step. All but the linear recurrence are also compiled with `ONE_LANE`, to compute a few sequences one at
a time (`csrc/lanes.h`). The libraries have a plain C interface and include no torch headers, so that compiling takes
only seconds. They are cached under `TORCH_EXTENSIONS_DIR` (by default `~/.cache/torch_extensions`), by a hash of
everything that determines them: sources, flags, compiler and processor. Each file name contains a hash of the content,
which is checked before loading.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from src.config.errors import UserError, explain
from src.utils.files import FolderInUseError, locked, write_whole

log = logging.getLogger(__name__)
SOURCES = Path(__file__).parent / "csrc"
INSTALL = "Debian: apt-get install g++, macOS: xcode-select --install"
_OPTIONAL: tuple[tuple[str, ...], ...] = ((), ("-fopenmp",), ("-march=", "-mcpu="), ("-fopenmp", "-march=", "-mcpu="))
"""Flags to leave out in successive attempts, by prefix: threads and the instructions of this processor."""
ONE_LANE = ("-DONE_LANE",)
ELSEWHERE = "set TORCH_EXTENSIONS_DIR to keep compiled kernels in another folder"


@cache
def library() -> ctypes.CDLL | None:
    """The hand-written kernels; None, after a single warning that says why, if they are not available."""
    return _by_hand(cache_folder, "the fused kernels for this processor", "the fused kernels are")


@cache
def one_lane_library() -> ctypes.CDLL | None:
    """The same for one sequence at a time; None as for `library`, whose kernels can compute a few sequences as well."""
    what = "the fused kernels for few sequences"
    return _by_hand(lambda: cache_folder() / "one_lane", what, f"{what} are", *ONE_LANE)


def _by_hand(folder: Callable[[], Path], what: str, are: str, *flags: str) -> ctypes.CDLL | None:
    try:
        sources = [SOURCES / f"{name}.cpp" for name in ("fastweights", "products", "recurrence")]
        return _loaded(_compiled(folder(), sources, what, *flags), ctypes.RTLD_GLOBAL)
    except Exception as error:
        _warn(are, error)
        return None


@cache
def linear_library() -> ctypes.CDLL | None:
    """The kernel of the linear recurrence, which takes as long to compile as all the others; None as for `library`."""
    if library() is None:
        return None
    try:
        return step_library((SOURCES / "linear_recurrence.cpp").read_text(), "the linear recurrence")
    except Exception as error:
        _warn("the kernel of the linear recurrence is", error)
        return None


def _warn(what: str, error: Exception) -> None:
    reason = " ".join(explain(error).split())[:400]
    log.warning("%s not available, so a slower form is used: %s", what, reason)


@cache
def step_library(source: str, name: str) -> ctypes.CDLL:
    """The library of a generated step, which uses functions of `library`.

    Raises:
        UserError: the library cannot be compiled or loaded.
    """
    if library() is None:
        raise UserError("it needs the fused kernels, which are not available")
    return _of_step(source, "", f"the kernel of {name}")


@cache
def one_lane_step_library(source: str, name: str) -> ctypes.CDLL | None:
    """The same for one sequence at a time; None, after a single warning, if it is not available."""
    if one_lane_library() is None:
        return None
    what = f"the kernel of {name} for few sequences"
    try:
        return _of_step(source, "_one_lane", what, *ONE_LANE)
    except Exception as error:
        _warn(f"{what} is", error)
        return None


def _of_step(source: str, suffix: str, what: str, *own: str) -> ctypes.CDLL:
    folder = cache_folder() / f"step_{hashlib.sha256(source.encode()).hexdigest()[:16]}{suffix}"
    return _loaded(_compiled(folder, source, what, *own), ctypes.RTLD_LOCAL)


def _loaded(path: Path, mode: int) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path), mode)
    except OSError as error:  # the file is intact, so the problem is its location
        raise UserError(f"{error}; is that file system mounted noexec? {ELSEWHERE}") from None


def _compiler() -> list[str]:
    compiler = shlex.split(os.environ.get("CXX", "")) or ["c++"]
    if shutil.which(compiler[0]) is None:
        raise UserError(f"no C++ compiler: {compiler[0]} is not on the path ({INSTALL})")
    return compiler


def cache_root() -> Path:
    """The folder of everything that is generated for this machine."""
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions")


def cache_folder() -> Path:
    """The folder of everything that is compiled by this compiler, with these flags, for this processor."""
    return cache_root() / f"fastweights_{_key(tuple(_compiler()))}"


def _compiled(folder: Path, sources: list[Path] | str, what: str, *own: str) -> Path:
    """The path of the library, compiled if it is missing or damaged; other processes wait for the one that compiles."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (finished := _undamaged(folder)) is None:
            with locked(folder, patience=600):
                finished = _undamaged(folder) or _compile(folder, sources, what, *own)
    except FolderInUseError as error:
        raise UserError(f"{error}, which has not finished compiling within 10 minutes") from None
    except OSError as error:
        raise UserError(f"{explain(error)}; {ELSEWHERE}") from None
    return finished


def _undamaged(folder: Path) -> Path | None:
    """The library, if its content matches the digest in its name: loading a truncated one would crash the process."""
    for path in folder.glob("fused.*.so"):
        if path.is_file() and path.name == _name(path.read_bytes()):
            return path
    return None


def _name(content: bytes) -> str:
    return f"fused.{hashlib.sha256(content).hexdigest()[:16]}.so"


def _compile(folder: Path, sources: list[Path] | str, what: str, *own: str) -> Path:
    """Compile under a temporary name and rename, so that a killed compilation leaves nothing to load."""
    started, compiler = time.perf_counter(), _compiler()
    log.info("compiling %s (only once) ...", what)
    for left in folder.glob("tmp*"):  # from a killed compilation
        shutil.rmtree(left, ignore_errors=True)
    for damaged in folder.glob("fused.*.so"):
        log.warning("%s is damaged; compiling it again", damaged)
        damaged.unlink()
    with TemporaryDirectory(prefix="tmp", dir=folder) as build:
        made = Path(build) / "fused.so"
        if isinstance(sources, str):
            (Path(build) / "step.cpp").write_text(sources)
            sources = [Path(build) / "step.cpp"]
        failures = []
        for left_out in _OPTIONAL:
            flags = [flag for flag in _flags() if not flag.startswith(left_out)]
            command = [*compiler, "-shared", "-fPIC", "-std=c++17", *flags, *own, f"-I{SOURCES}"]
            failure = _failure(command, sources, made)
            if failure is None:
                break
            failures.append(f"{shlex.join(compiler)} failed: {failure}")
        else:
            raise UserError(failures[0])
        if failures:
            missing = " and ".join(flag for flag in _flags() if flag not in flags)
            reason = " ".join(failures[0].split())[:300]
            log.warning("%s: compiled without %s, so slower: %s", what, missing, reason)
        content = made.read_bytes()
    write_whole(folder / _name(content), content)
    log.info("compiled in %.0f s", time.perf_counter() - started)
    return folder / _name(content)


def _failure(command: list[str], sources: list[Path], made: Path) -> str | None:
    """Build a library from the sources, several of them compiled at the same time; the error message, or None."""
    if len(sources) > 1:
        objects = [made.with_name(f"{source.stem}.o") for source in sources]
        with ThreadPoolExecutor(len(sources)) as pool:
            found = list(pool.map(lambda source, made: _failure([*command, "-c"], [source], made), sources, objects))
        if failures := [failure for failure in found if failure is not None]:
            return failures[0]
        sources = objects
    ended = subprocess.run([*command, *map(str, sources), "-o", str(made)], capture_output=True, text=True)
    if ended.returncode == 0 and made.exists():
        return None
    return str(ended.stderr).strip() or str(ended.returncode)


def _flags() -> list[str]:
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    # a step finds the functions it uses in the library that is loaded before it
    system = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-fopenmp"]
    return ["-O3", native, "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", *system]


@cache
def _key(compiler: tuple[str, ...]) -> str:
    """A hash of everything that determines the libraries compiled here, except the sources of steps."""
    parts = [path.read_bytes() for path in sorted(SOURCES.iterdir())]
    ended = subprocess.run([*compiler, "--version"], capture_output=True)
    if ended.returncode != 0:
        raise UserError(f"{shlex.join(compiler)} --version failed with status {ended.returncode} ({INSTALL})")
    parts += [shlex.join([*compiler[1:], *_flags()]).encode(), ended.stdout, _processor().encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _processor() -> str:
    """What `native` stands for on this machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return "\n".join(dict.fromkeys(named))
