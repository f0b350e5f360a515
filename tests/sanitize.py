"""Runs tests with kernels compiled with the sanitizers for addresses and undefined behavior.

    python -m tests.sanitize
    python -m tests.sanitize tests/models/test_contract.py -k lstm

Arguments are passed to pytest. Without any, it tests the hand-written kernels, steps that use every feature of the
generated ones, and every model of configs/model. A finding is printed with its line of C++ and ends the tests. It needs
g++ on Linux. Most of the time goes into recompiling the kernels, into the usual cache.
"""

import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
COMPILER = "g++"
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all -g1"
TESTS = (
    ("tests/ops/cpu/test_kernels.py", "tests/ops/cpu/test_equations.py", "tests/ops/cpu/test_calls.py"),
    ("tests/ops/test_linear_recurrence.py",),
    ("tests/ops/generated/test_coverage.py",),
    ("tests/models/test_contract.py", "-k", "holds_at_every_length or resets_are_fresh or batch_of_one"),
)


def environment() -> dict[str, str]:
    """The environment of the tests.

    Python itself is not compiled with the sanitizers, so they are preloaded, as is the library that throws exceptions.
    """
    paths = []
    for name in ("libasan.so", "libstdc++.so.6"):
        command = [COMPILER, f"-print-file-name={name}"]
        paths.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    return os.environ | {
        "CXX": f"env -u LD_PRELOAD {COMPILER} {FLAGS}",  # else the compiler itself would be checked, and take minutes
        "LD_PRELOAD": " ".join(paths),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python does not free all its memory before it exits
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "OMP_NUM_THREADS": "1",
    }


def main(arguments: list[str]) -> int:
    """Run the tests; return the first exit status that is not 0, or 0."""
    for chosen in [arguments] if arguments else TESTS:
        command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "--capture=sys", *chosen]  # reports pass through
        if status := subprocess.run(command, cwd=PROJECT, env=environment()).returncode:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
