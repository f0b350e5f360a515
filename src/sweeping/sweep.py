"""A sweep: all runs are checked before the first one starts, only missing ones are launched, and a table follows."""

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from src.config.errors import UserError, exit_on_user_error
from src.config.fingerprint import decisive_keys, run_name
from src.config.schema import RunSettings, SearchSettings
from src.results.manifest import write_manifest
from src.results.result import ENDED, read_result, stands
from src.results.runs import Run, load_runs
from src.results.selection import first_stage, num_of_second_stage, second_stage
from src.sweeping.hydra_sweeper import Job, expand, redirect
from src.sweeping.launchers import fit, outlives_the_sweep
from src.sweeping.progress import SweepProgress
from src.utils import lifeline

log = logging.getLogger(__name__)


@dataclass
class Sweep:
    """The runs of a command, and the launching of those that are left.

    Attributes:
        folder: of its runs.
        jobs: {name: overrides} of every run that it may launch.
        settings: {name: settings by full keys} of the same runs.
        search: which settings are searched and repeated.
        run: decides which results are final.
        batch_size: how many jobs to launch at a time; None for all.
        configurations: `settings` of the runs requested so far.
    """

    folder: Path
    jobs: dict[str, Job]
    settings: dict[str, dict[str, Any]]
    search: SearchSettings
    run: RunSettings
    batch_size: int | None
    configurations: dict[str, dict[str, Any]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.progress = SweepProgress(self.folder)
        self.planned = [Run(name=name, settings=self.settings[name]) for name in self.jobs]
        self.ask_for(first_stage(self.planned, self.search))

    def ask_for(self, runs: Iterable[Run]) -> None:
        """Add runs to the manifest and to the table; those of a second stage once they have been chosen."""
        asked = {run.name: self.settings[run.name] for run in runs}
        self.configurations |= asked
        write_manifest(self.folder, self.search, asked)

    def batches(self) -> Iterator[list[Job]]:
        """Batches of the jobs that are left; the second stage is chosen when the first has ended."""
        first = list(self.configurations)
        if not self.search.two_stage:
            yield from self._left(first)
            return
        yield from self._left(first, num_of_second_stage(self.planned, self.search))
        chosen, notes = second_stage(load_runs(self.folder, self.settings), self.search)
        log.info("%s", "\n".join(notes))
        self.ask_for(chosen)
        yield from self._left([run.name for run in chosen])

    def _left(self, names: list[str], num_later: int = 0) -> Iterator[list[Job]]:
        """Batches of jobs of the runs without a final result."""
        kept = [name for name in names if stands(read_result(self.folder / name), self.run)]
        left = [name for name in names if name not in set(kept)]
        self.progress.expect(kept, left, num_later)
        if kept:
            log.info("%d of %d runs have ended already; run.fresh=true starts them over", len(kept), len(names))
        for start in range(0, len(left), self.batch_size or max(len(left), 1)):
            yield [self.jobs[name] for name in left[start:][: self.batch_size]]


_sweep: Sweep | None = None
"""The sweep started by this process."""


class Checks(Callback):
    """Checks every run before any folder is created."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a single run."""
        exit_on_user_error(lambda: _check(config))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check all runs of a sweep, then make Hydra launch those that are left."""
        exit_on_user_error(lambda: _start(config))


def _check(config: DictConfig) -> None:
    from src.running.build import check

    check(config)


def _start(config: DictConfig) -> None:
    global _sweep
    jobs: dict[str, Job] = {}
    configurations: dict[str, DictConfig] = {}
    for overrides, job in expand(config):
        _check(job)
        jobs[run_name(job)] = overrides
        configurations[run_name(job)] = job
    if not jobs:
        raise UserError("these settings give no runs; does a glob match nothing?")

    launcher = config.hydra.launcher
    at_once = fit(launcher, max(job.trainer.threads for job in configurations.values()))
    limits = [limit for limit in (at_once, config.hydra.sweeper.get("max_batch_size")) if limit]
    _sweep = Sweep(
        Path(config.hydra.sweep.dir),
        jobs,
        {name: decisive_keys(job) for name, job in configurations.items()},
        SearchSettings.of(job),
        RunSettings(**job.run),
        min(limits, default=None),
    )
    if outlives_the_sweep(launcher):
        lifeline.release()
    else:
        lifeline.hold(_sweep.folder)
    redirect(_sweep.batches())


@contextmanager
def ending_in_a_table() -> Iterator[None]:
    """Once Hydra has returned or raised, print the table of the sweep, if any, and exit with its status."""
    global _sweep
    _sweep = None
    status: Any = 0
    try:
        yield
    except SystemExit as ended:
        status = ended.code
    except KeyboardInterrupt:
        status = 130
    finally:
        redirect(None)
    if _sweep is not None:
        _sweep.progress.end()
        from src.reports.report import end_sweep  # imports rich.table

        statuses = end_sweep(_sweep.folder, _sweep.configurations)
        if not status and not set(ENDED).issuperset(statuses):
            status = 1
    if status:
        sys.exit(status)
