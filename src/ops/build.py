"""Compiles the kernels for the machine at hand on first use, and loads them.

The library is plain C, called by address, so that nothing of torch has to be compiled: the first use takes seconds. It
is kept under `TORCH_EXTENSIONS_DIR` (by default `~/.cache/torch_extensions`) by everything that decides what it holds:
sources, flags, compiler and processor.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

from src.utils.files import locked

log = logging.getLogger(__name__)
SOURCES = Path(__file__).parent / "csrc"


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None, after one warning that says why, where they cannot be had."""
    try:
        return ctypes.CDLL(str(_compiled()))
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        log.warning(
            "the fused kernels cannot be compiled, and a slower form takes over (%s); they need a C++ compiler "
            "(Debian: apt-get install g++, macOS: xcode-select --install)",
            reason,
        )
        return None


def _compiled() -> Path:
    """The path of the library, compiled if it is not there; other processes wait for the one that compiles."""
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        raise FileNotFoundError(f"no C++ compiler: {compiler} is not on the path")
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions")
    folder = root / f"fastweights_{_key(compiler)}"
    finished = folder / "fused.so"
    if finished.exists():
        return finished
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, patience=600):
        if not finished.exists():
            _compile(folder, finished)
    return finished


def _compile(folder: Path, finished: Path) -> None:
    from torch.utils import cpp_extension

    started = time.perf_counter()
    log.info("compiling the fused kernels for this processor, once ...")
    build = folder / "build"
    shutil.rmtree(build, ignore_errors=True)  # what a killed compilation left
    build.mkdir()
    cpp_extension.load(
        "fused",
        [str(SOURCES / "fused.cpp")],
        extra_cflags=_flags(),
        extra_ldflags=[flag for flag in _flags() if flag == "-fopenmp"],
        build_directory=str(build),
        is_python_module=False,
    )
    os.replace(build / "fused.so", finished)
    log.info("compiled in %.0f s", time.perf_counter() - started)


def _flags() -> list[str]:
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    openmp = [] if sys.platform == "darwin" else ["-fopenmp"]
    return ["-O3", native, "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", *openmp]


def _key(compiler: str) -> str:
    """A name for what would be compiled here."""
    parts = [path.read_bytes() for path in sorted(SOURCES.iterdir())]
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    parts += [" ".join(_flags()).encode(), version, _processor().encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _processor() -> str:
    """What `native` means here."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return "\n".join(dict.fromkeys(named))
