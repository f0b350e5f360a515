"""Check the project on a GPU: each part in a process with a time limit, and one report of what they find.

    python scripts/gpu_check.py                      on a machine with a CUDA GPU, at most 8 minutes
    python scripts/gpu_check.py --parts kernels speed
    python scripts/gpu_check.py --device cpu --tiny  try the command itself where there is no GPU

kernels, models   the Triton kernels, and every model in the form that it takes on the GPU, against the scan on the CPU:
                  alone and, for models, as a population whose runs differ in all numeric settings of the model
graphs            updates with CUDA graphs against updates without, bit for bit, also with carried states and random
                  numbers
resume            runs that are killed and resumed against undisturbed ones, bit for bit
compile           the kernels of every model, so that they are ready for the parts that measure
sanitizer         the kernels under compute-sanitizer, where it is installed
speed             fast weights compared with nn.LSTM, both as CUDA graphs
speed_of_models   every model as a CUDA graph compared with the same model run eagerly
populations       20 and 256 runs as one program
sweep             3 widths, 4 learning rates and 5 seeds, with the ordinary command

A part that fails, hangs or is killed does not affect the others, and its earlier findings are kept. The report,
`report.md` and `report.json`, is written after every part. The exit status is 1 if anything is wrong, fails or misses
its target.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from src.benchmarks.gpu.rows import GOOD, Row, read_rows
from src.config.errors import UserError
from src.config.paths import PROJECT
from src.running.provenance import provenance
from src.utils.console import CommandLine, printing
from src.utils.files import write_whole

WHOLE = 470.0
"""Time limit for all parts together, in seconds."""


class Part(NamedTuple):
    """A part of the check, its time limit in seconds, and the function that runs it."""

    name: str
    limit: float
    function: str


HERE = "src.benchmarks.gpu"
CARD = Part("card", 40, f"{HERE}.correctness.card")
TOGETHER = (
    Part("kernels", 110, f"{HERE}.correctness.kernels"),
    Part("models", 110, f"{HERE}.correctness.every_model"),
    Part("graphs", 110, f"{HERE}.recorded.graphs"),
    Part("resume", 110, f"{HERE}.correctness.resumed"),
    Part("compile", 110, f"{HERE}.compiled.every_model"),
    Part("sanitizer", 110, f"{HERE}.correctness.sanitized"),
)
"""Parts that measure no times, and so run concurrently."""
ALONE = (
    Part("speed", 80, f"{HERE}.speed.one_run"),
    Part("speed_of_models", 100, f"{HERE}.speed.every_model"),
    Part("populations", 80, f"{HERE}.speed.populations"),
    Part("sweep", 90, f"{HERE}.speed.sweep"),
)


def run_part(part: Part, device: str, tiny: bool, folder: Path, deadline: float) -> list[Row]:
    """Run a part and return its findings, with another one if it failed or exceeded its time limit."""
    path, limit = folder / f"{part.name}.jsonl", min(part.limit, deadline - time.monotonic())
    if limit <= 0:
        return [Row(part.name, "the part", "the time limit of all parts was already reached", verdict="not run")]
    command = [sys.executable, "-m", f"{HERE}.part", part.function, str(path), device]
    with open(folder / f"{part.name}.log", "w+", errors="replace") as log:
        process = subprocess.Popen(
            [*command, "--tiny"] if tiny else command,
            cwd=PROJECT,
            env=os.environ | {"PYTHONPATH": str(PROJECT), "PYTHONFAULTHANDLER": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _kill(process)
        log.seek(0)
        last = next((line.strip() for line in reversed(log.read().splitlines()) if line.strip()), "")
    rows = read_rows(path)
    if status is None:
        rows.append(Row(part.name, "the part", f"did not finish within {limit:.0f} s", verdict="failed"))
    elif status != 0:
        how = signal.strsignal(-status) if status < 0 else f"exit status {status}"
        rows.append(Row(part.name, "the part", f"{how}; last line of its log: {last[:200]}", verdict="failed"))
    return rows


def _kill(process: subprocess.Popen) -> None:
    """Kill a part and all processes that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def check(names: Sequence[str], device: str, tiny: bool, folder: Path, whole: float = WHOLE) -> list[Row]:
    """Run some parts and return all their findings; the report is written to the folder.

    Raises:
        UserError: the device does not work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CARD.name, *names):
        (folder / f"{name}.jsonl").unlink(missing_ok=True)
    deadline = time.monotonic() + whole
    rows = run_part(CARD, device, tiny, folder, deadline)
    if broken := [row for row in rows if row.verdict not in GOOD]:
        raise UserError(f"--device {device} does not work: {broken[0].found} (see {folder}/card.log)")
    origin = provenance(1, device)

    def report(found: list[Row]) -> None:
        rows.extend(found)
        for row in found:
            if row.what == "the part" or row.verdict not in GOOD:
                print(f"{row.part}: {row.what}: {row.found}", flush=True)
        write_report(rows, origin, folder)

    chosen = [part for part in (*TOGETHER, *ALONE) if part.name in names]
    start = partial(run_part, device=device, tiny=tiny, folder=folder, deadline=deadline)
    side_by_side = [part for part in chosen if part in TOGETHER]
    with ThreadPoolExecutor(max(1, len(side_by_side))) as pool:
        for found in pool.map(start, side_by_side):
            report(found)
    for part in chosen:
        if part not in side_by_side:
            print(f"{part.name} ...", flush=True)
            report(start(part))
    return rows


def write_report(rows: Sequence[Row], origin: dict[str, Any], folder: Path) -> None:
    """Write `report.json` and `report.md`."""
    content = {"provenance": origin, "rows": [row._asdict() for row in rows]}
    write_whole(folder / "report.json", json.dumps(content, indent=2).encode())
    lines = ["# On a GPU", "", f"`{origin['command']}`, {origin['date']}, commit {origin['git_commit']}"]
    for part in dict.fromkeys(row.part for row in rows):
        lines += ["", f"## {part}", "", "| | found | wanted | |", "| --- | --- | --- | --- |"]
        for row in rows:
            if row.part == part:
                cells = [text.replace("|", "\\|") for text in (row.what, row.found, row.wanted, row.verdict)]
                lines.append(f"| {' | '.join(cells)} |")
    write_whole(folder / "report.md", ("\n".join(lines) + "\n").encode())


def parse() -> argparse.Namespace:
    """The arguments of the command."""
    names = [part.name for part in (*TOGETHER, *ALONE)]
    parser = CommandLine(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=names, default=names, metavar="PART", help=", ".join(names))
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/gpu_check"), metavar="FOLDER", help="folder of the report"
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="default cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, whose numbers mean nothing")
    return parser.parse_args()


@printing()
def main() -> None:
    """The command."""
    import torch

    given = parse()
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: torch finds no CUDA GPU, which the check needs (see --help)")
    folder = given.out.absolute()
    try:
        rows = check(given.parts, given.device, given.tiny, folder)
    except (OSError, UserError) as error:
        sys.exit(f"error: {error}")
    bad = [row for row in rows if row.verdict not in GOOD]
    print(f"{len(rows)} findings, {len(bad)} of them bad: {folder}/report.md")
    sys.exit(1 if bad else 0)
