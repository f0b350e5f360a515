"""What a sweep adds to its runs: all are known and checked before the first starts, and a table ends it."""

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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


class Sweep:
    """The runs that a command asks for, and the launching of those that are left.

    Args:
        folder: of its runs.
        jobs: the overrides of every run that it may come to ask for, by name.
        settings: the settings, by full keys, of the same runs.
        search: what the settings that vary are for.
        run: which results stand.
        batch_size: how many jobs to hand over at a time; None for all.
    """

    def __init__(
        self,
        folder: Path,
        jobs: dict[str, Job],
        settings: dict[str, dict[str, Any]],
        search: SearchSettings,
        run: RunSettings,
        batch_size: int | None,
    ):
        self.folder = folder
        self.jobs = jobs
        self.settings = settings
        self.search = search
        self.run = run
        self.batch_size = batch_size
        self.progress = SweepProgress(folder)
        self.configurations: dict[str, dict[str, Any]] = {}
        self.planned = [Run(name=name, settings=settings[name]) for name in jobs]
        self.ask_for(first_stage(self.planned, search))

    def ask_for(self, runs: Iterable[Run]) -> None:
        """Put runs into the manifest and into the table; those of a second stage come once they are chosen."""
        asked = {run.name: self.settings[run.name] for run in runs}
        self.configurations |= asked
        write_manifest(self.folder, self.search, asked)

    def batches(self) -> Iterator[list[Job]]:
        """The jobs that are left, batch after batch; the second stage is chosen when the first has ended."""
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
        """The jobs of runs without a result that stands."""
        kept = [name for name in names if stands(read_result(self.folder / name), self.run)]
        left = [name for name in names if name not in set(kept)]
        self.progress.expect(kept, left, num_later)
        if kept:
            log.info("%d of %d runs have ended already; run.fresh=true starts them over", len(kept), len(names))
        for start in range(0, len(left), self.batch_size or max(len(left), 1)):
            yield [self.jobs[name] for name in left[start:][: self.batch_size]]


_sweep: Sweep | None = None
"""The sweep that this process has started."""


class Checks(Callback):
    """Checks every run before the first folder is made."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """A single run."""
        exit_on_user_error(lambda: _check(config))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """All runs of a sweep; then have Hydra launch those that are left."""
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
        raise UserError("these settings give no run; a glob that matches nothing?")

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
    """After Hydra has returned or raised: the table of the sweep, if there was one, and the exit status."""
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
        from src.reports.report import end_sweep  # imports what draws tables

        statuses = end_sweep(_sweep.folder, _sweep.configurations)
        if not status and not set(ENDED).issuperset(statuses):
            status = 1
    if status:
        sys.exit(status)
