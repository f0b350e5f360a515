"""A sweep: all runs are checked before the first one starts, only missing ones are launched, and a table follows."""

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from src.config.errors import DIED, UserError, died, exit_on_user_error
from src.config.fingerprint import decisive_keys, run_name
from src.config.jobs import Job, composed, expand
from src.config.paths import RESULT
from src.config.schema import RunSettings, SearchSettings
from src.reports.report import end_sweep
from src.results.manifest import write_manifest
from src.results.result import ENDED, read_result, stands
from src.results.runs import Run, load_runs
from src.results.selection import first_stage, num_of_second_stage, second_stage
from src.running.build import check
from src.running.lifecycle import record_death
from src.running.load import refuse_other_run
from src.sweeping import ending
from src.sweeping.hydra_sweeper import redirect
from src.sweeping.launchers import fit, outlives_the_sweep, runs_here
from src.sweeping.progress import SweepProgress
from src.utils import lifeline, supervisor

log = logging.getLogger(__name__)
DIR, SUBDIR = "${sweep_dir:}", "${run_name:}"
"""`hydra.sweep` in configs/train.yaml."""


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
        command: the configuration of the sweep itself.
        configurations: `settings` of the runs requested so far.
    """

    folder: Path
    jobs: dict[str, Job]
    settings: dict[str, dict[str, Any]]
    search: SearchSettings
    run: RunSettings
    batch_size: int | None
    command: DictConfig
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
        kept = [
            name
            for name in names
            if supervisor.held(self.folder / name) or stands(read_result(self.folder / name), self.run)
        ]
        left = [name for name in names if name not in set(kept)]
        self.progress.expect(kept, left, num_later)
        if kept:
            log.info("%d of %d runs have ended already; run.fresh=true starts them over", len(kept), len(names))
        for start in range(0, len(left), self.batch_size or max(len(left), 1)):
            yield [self.jobs[name] for name in left[start:][: self.batch_size]]

    def launch(self, launch: Callable[..., list], jobs: Sequence[Job], initial_job_idx: int) -> list:
        """Launch jobs; when a worker has died, launch those it may have died of one by one, and then the others.

        A worker that dies of a single run is that run's failure.
        """
        started = time.time()
        try:
            return list(launch(jobs, initial_job_idx=initial_job_idx))
        except Exception as error:
            if not died(error) or outlives_the_sweep(self.command.hydra.launcher):
                raise
            log.warning("%s", DIED)
            folders = {tuple(overrides): self.folder / name for name, overrides in self.jobs.items()}
            left = [job for job in jobs if not _written_since(folders[tuple(job)] / RESULT, started)]
            begun = [job for job in left if _written_since(folders[tuple(job)] / ".lock", started)]
            if not begun:
                raise
        lifeline.hold(self.folder)
        if len(jobs) == 1:
            record_death(folders[tuple(jobs[0])], composed(self.command, jobs[0]), DIED)
            return []
        others = [job for job in left if job not in begun]
        return [
            ended
            for again in [*([job] for job in begun), others]
            if again
            for ended in self.launch(launch, again, initial_job_idx)
        ]

    def end(self) -> bool:
        """Print and write the table; whether all runs have a result."""
        self.progress.end()
        return set(ENDED).issuperset(end_sweep(self.folder, self.configurations))


def _written_since(path: Path, moment: float) -> bool:
    return path.exists() and path.stat().st_mtime >= moment


class Checks(Callback):
    """Checks every run before any folder is created."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a single run."""
        exit_on_user_error(lambda: _check_single(config))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check all runs of a sweep, then make Hydra launch those that are left."""
        exit_on_user_error(lambda: _start(config))


def _check_single(config: DictConfig) -> None:
    check(config, to_run=True)
    SearchSettings.of(config).check(decisive_keys(config))
    refuse_other_run(Path(config.hydra.run.dir), config)


def _start(config: DictConfig) -> None:
    folder, launcher = _folder(config), config.hydra.launcher
    here = runs_here(launcher)
    jobs: dict[str, Job] = {}
    settings: dict[str, dict[str, Any]] = {}
    first: DictConfig | None = None
    for overrides, job in expand(config):
        name, first = run_name(job), first or job
        for group in ("name", "run", "search"):
            if job[group] != first[group]:
                which = _difference(next(iter(jobs.values())), overrides)
                raise UserError(f"{which}: {group} differs, but a sweep has one folder and table; start one for each")
        if name in jobs:
            raise UserError(f"{_difference(jobs[name], overrides)}: these jobs are the same run, {name}")
        if not stands(read_result(folder / name), RunSettings(**job.run)):
            check(job, to_run=here)
        if reason := supervisor.death_in(folder / name, RESULT):
            record_death(folder / name, job, reason)
        jobs[name], settings[name] = overrides, decisive_keys(job)
    assert first is not None
    supervisor.check_explained()
    search = SearchSettings.of(first)
    search.check(set().union(*settings.values()))

    at_once = fit(launcher, max(run["trainer.threads"] for run in settings.values()))
    limits = [limit for limit in (at_once, config.hydra.sweeper.get("max_batch_size")) if limit]
    sweep = Sweep(folder, jobs, settings, search, RunSettings(**first.run), min(limits, default=None), config)
    ending.end = sweep.end
    if outlives_the_sweep(launcher):
        lifeline.release()
    else:
        lifeline.hold(folder)
    redirect(sweep.batches(), sweep.launch)


def _folder(config: DictConfig) -> Path:
    """The folder of a sweep, the same for all of its runs, each of which has a folder of its own there."""
    given: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
    if given["subdir"] != SUBDIR:
        raise UserError(f"hydra.sweep.subdir={given['subdir']}: must be {SUBDIR}, a folder for each run")
    if given["dir"] != DIR and re.search(r"\$\{(?!oc\.|now:)", given["dir"]):
        raise UserError(f"hydra.sweep.dir={given['dir']}: must be the same for all runs")
    return Path(config.hydra.sweep.dir)


def _difference(one: Job, other: Job) -> str:
    """The overrides that differ between two jobs: "seed=0 and seed=1"."""
    differing = [pair for pair in zip(one, other, strict=True) if len(set(pair)) > 1] or [(" ".join(one), "")]
    return " and ".join(filter(None, (" ".join(side) for side in zip(*differing, strict=True))))
