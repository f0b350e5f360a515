"""The cores and the memory of this machine, or of the container that this process runs in."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def num_cores() -> int:
    """Number of cores that this process may use: those of its affinity, or fewer under the quota of a container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    numbers = _numbers("cpu.max") or _numbers("cpu/cpu.cfs_quota_us") + _numbers("cpu/cpu.cfs_period_us")
    if len(numbers) == 2 and min(numbers) > 0:  # -1, like "max", means no quota
        cores = min(cores, math.ceil(numbers[0] / numbers[1]))
    return cores


def memory() -> int:
    """Bytes of memory of the machine, or fewer under the limit of a container."""
    limits = _numbers("memory.max") or _numbers("memory/memory.limit_in_bytes")
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits])


def _numbers(name: str) -> list[int]:
    """The numbers in a file of a control group, version 2 or 1; none if it is missing or says "max"."""
    try:
        return [int(word) for word in (CGROUP / name).read_text().split()]
    except (OSError, ValueError):
        return []
