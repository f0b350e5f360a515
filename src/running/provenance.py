"""Where a result comes from: code, versions, machine, date."""

import datetime
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from src.config.paths import PROJECT

PACKAGES = ("torch", "numpy", "hydra-core", "omegaconf", "tensorboard")


def provenance(threads: int, device: str, command: Sequence[str] | None = None) -> dict[str, Any]:
    """What one has to know to repeat or to question a result; the command is this process's own, unless given."""
    return {
        "command": shlex.join(command or ["python", *sys.orig_argv[1:]]),
        **_of_git(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "platform": platform.platform(),
        "processor": processor(),
        "device": device,
        "card": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "threads": threads,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _of_git() -> dict[str, Any]:
    """The commit of the project and whether files differ from it; None without git, or inside another repository."""
    top = _git("rev-parse", "--show-toplevel")
    if top is None or Path(top) != PROJECT:
        return {"git_commit": None, "git_dirty": None}
    return {"git_commit": _git("rev-parse", "HEAD"), "git_dirty": bool(_git("status", "--porcelain"))}


@cache
def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(["git", "-C", str(PROJECT), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


@cache
def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
