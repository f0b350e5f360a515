"""Shows where the time of an update goes, with torch.profiler."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

log = logging.getLogger(__name__)
WARMUP = 10


@contextmanager
def profiled(num_updates: int, folder: Path) -> Iterator[Callable[[], None] | None]:
    """Profile some updates after a warm-up: write a table to the log and a trace for chrome://tracing to the folder.

    Yields a function to call after every update; None if there is nothing to profile.
    """
    if num_updates == 0:
        yield None
        return

    def report(profiler: torch.profiler.profile) -> None:
        profiler.export_chrome_trace(str(folder / "trace.json"))
        table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=40)
        log.info("profiled %d updates; trace in %s\n%s", num_updates, folder / "trace.json", table)

    schedule = torch.profiler.schedule(wait=0, warmup=WARMUP, active=num_updates, repeat=1)
    with torch.profiler.profile(schedule=schedule, on_trace_ready=report) as profiler:
        yield profiler.step
