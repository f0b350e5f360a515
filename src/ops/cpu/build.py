"""Compiles the kernels for this machine on first use, and loads them.

The library has a plain C interface and includes no torch headers, so that compiling it takes only seconds. It is cached
under `TORCH_EXTENSIONS_DIR` (by default `~/.cache/torch_extensions`), by a hash of everything that determines it:
sources, flags, compiler and processor.
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
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from src.utils.files import locked

log = logging.getLogger(__name__)
SOURCES = Path(__file__).parent / "csrc"


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None, after one warning that says why, if they are not available."""
    try:
        return ctypes.CDLL(str(_compiled()))
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        log.warning(
            "the fused kernels cannot be compiled, so a slower form is used (%s); they need a C++ compiler "
            "(Debian: apt-get install g++, macOS: xcode-select --install)",
            reason,
        )
        return None


def _compiled() -> Path:
    """The path of the library, compiled if missing; other processes wait for the one that compiles."""
    compiler = shlex.split(os.environ.get("CXX", "")) or ["c++"]
    if shutil.which(compiler[0]) is None:
        raise FileNotFoundError(f"no C++ compiler: {compiler[0]} is not on the path")
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions")
    folder = root / f"fastweights_{_key(compiler)}"
    finished = folder / "fused.so"
    if finished.exists():
        return finished
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, patience=600):
        if not finished.exists():
            _compile(compiler, folder, finished)
    return finished


def _compile(compiler: list[str], folder: Path, finished: Path) -> None:
    """Compile under another name and rename, so that a killed compilation leaves nothing to load."""
    started = time.perf_counter()
    log.info("compiling the fused kernels for this processor, once ...")
    for left in folder.glob("tmp*"):  # from a killed compilation
        shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(prefix="tmp", dir=folder) as build:
        made = Path(build) / finished.name
        command = [*compiler, "-shared", "-fPIC", "-std=c++17", *_flags(), str(SOURCES / "fused.cpp"), "-o", str(made)]
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode != 0 or not made.exists():
            raise RuntimeError(f"{shlex.join(compiler)} failed: {ended.stderr.strip() or ended.returncode}")
        os.replace(made, finished)
    log.info("compiled in %.0f s", time.perf_counter() - started)


def _flags() -> list[str]:
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    openmp = [] if sys.platform == "darwin" else ["-fopenmp"]
    return ["-O3", native, "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", *openmp]


def _key(compiler: list[str]) -> str:
    """A hash of everything that determines the library compiled here."""
    parts = [path.read_bytes() for path in sorted(SOURCES.iterdir())]
    version = subprocess.run([*compiler, "--version"], capture_output=True, check=True).stdout
    parts += [" ".join(_flags()).encode(), version, _processor().encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _processor() -> str:
    """What `native` stands for on this machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return "\n".join(dict.fromkeys(named))
