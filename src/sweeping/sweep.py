"""A sweep: all runs are checked before the first one starts, only missing ones are launched, and a table is printed."""

import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import active_children
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from src.config.errors import DIED, UserError, died, exit_on_user_error
from src.config.fingerprint import decisive_keys, run_name
from src.config.jobs import Job, expand
from src.config.paths import RESULT, STORED
from src.config.schema import RunSettings, SearchSettings
from src.config.settings import without_hydra
from src.reports.report import end_sweep
from src.results.manifest import with_searched, write_manifest
from src.results.result import ENDED, has_another_note, read_result, stands
from src.results.runs import Run, load_runs
from src.results.selection import first_stage, num_of_second_stage, second_stage
from src.running.build import check
from src.running.groups import group, write_group
from src.running.lifecycle import death_in, record_death
from src.running.load import refuse_other_run
from src.sweeping import ending
from src.sweeping.hydra_sweeper import redirect
from src.sweeping.launchers import fit, outlives_the_sweep, runs_here
from src.sweeping.progress import SweepProgress
from src.training.signals import interrupt, passing_on
from src.utils import lifeline, supervisor
from src.utils.files import is_locked

log = logging.getLogger(__name__)
DIR, SUBDIR = "${sweep_dir:}", "${run_name:}"
"""The values of `hydra.sweep` in configs/train.yaml."""


@dataclass
class Sweep:
    """Holds the runs of a command, and launches those that are left.

    Attributes:
        folder: the folder of the runs.
        jobs: {name: overrides} of every run that the sweep may launch.
        configs: {name: configuration} of the same runs.
        settings: {name: settings by full keys} of the same runs.
        search: which settings are searched and repeated.
        run: the settings that decide which results are final.
        batch_size: how many jobs to launch at a time; None for all.
        command: the configuration of the sweep itself.
        alone: runs that are trained by themselves, since the process of their whole group has died.
        groups: {name of the first run: all names} of the runs that have been launched together.
        configurations: `settings` of the runs requested so far.
    """

    folder: Path
    jobs: dict[str, Job]
    configs: dict[str, DictConfig]
    settings: dict[str, dict[str, Any]]
    search: SearchSettings
    run: RunSettings
    batch_size: int | None
    command: DictConfig
    alone: set[str]
    groups: dict[str, list[str]] = field(default_factory=dict, init=False)
    configurations: dict[str, dict[str, Any]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.progress = SweepProgress(self.folder)
        self.planned = [Run(name=name, settings=self.settings[name]) for name in self.jobs]
        self.ask_for(first_stage(self.planned, self.search))

    def ask_for(self, runs: Iterable[Run]) -> None:
        """Add runs to the manifest and to the table; those of a second stage are added once they have been chosen."""
        asked = {run.name: self.settings[run.name] for run in runs}
        self.configurations |= asked
        write_manifest(self.folder, with_searched(self.search, self.folder), asked)

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
        """Batches of jobs for the runs without a final result; a group of runs is one job."""
        kept = [
            name
            for name in names
            if (name not in self.alone and supervisor.held(self.folder / name))
            or stands(read_result(self.folder / name), self.run)
        ]
        left = [name for name in names if name not in set(kept) and _can_be_written(self.folder / name)]
        self.progress.expect(kept, left, num_later)
        if kept:
            log.info("%d of %d runs have ended already; run.fresh=true starts them over", len(kept), len(names))
        others = [name for name in kept if has_another_note(read_result(self.folder / name), self.configs[name])]
        if others:
            note = self.configs[others[0]].note
            log.warning(
                "note=%s is not stored with %d runs, which have ended and keep their earlier notes", note, len(others)
            )
        groups = [[name] for name in left if name in self.alone]
        groups += group({name: self.configs[name] for name in left if name not in self.alone})
        for start in range(0, len(groups), self.batch_size or max(len(groups), 1)):
            yield [self._job_of(names) for names in groups[start:][: self.batch_size]]

    def _job_of(self, names: list[str]) -> Job:
        """The job that does all runs of a group: the job of the first one."""
        self.groups[names[0]] = names
        write_group(self.folder, {name: (self.jobs[name], self.configs[name]) for name in names})
        return self.jobs[names[0]]

    def launch(self, launch: Callable[..., list], jobs: Sequence[Job], initial_job_idx: int) -> list:
        """Launch jobs; if a worker dies, launch the runs that may have killed it one by one, and then the others.

        A single run that kills its worker has failed.
        """
        started = time.time()
        try:
            with passing_on(self._interrupt_workers):
                return list(launch(jobs, initial_job_idx=initial_job_idx))
        except Exception as error:
            if not died(error) or outlives_the_sweep(self.command.hydra.launcher):
                raise
            log.warning("%s", DIED)
            names = {tuple(overrides): name for name, overrides in self.jobs.items()}
            groups = [self._left_since(started, self.groups[names[tuple(job)]]) for job in jobs]
            begun = [group for group in groups if any(self._written_since(started, name, ".lock") for name in group)]
            if not begun:
                raise
        lifeline.hold(self.folder)
        if len(jobs) == 1 and len(self.groups[names[tuple(jobs[0])]]) == 1:
            [[name]] = begun
            log.warning("%s", record_death(self.folder / name, self.configs[name], DIED))
            return []
        again = [[self._job_of([name])] for names in begun for name in names]
        again.append([self._job_of(names) for names in groups if names and names not in begun])
        return [ended for jobs in again if jobs for ended in self.launch(launch, jobs, initial_job_idx)]

    def _interrupt_workers(self) -> None:
        """Interrupt the runs in child processes, and wait until they are saved: joblib kills its workers."""
        runs = self._in_workers()
        interrupt(set(runs.values()))  # a process may train several runs
        while runs.items() & self._in_workers().items():
            time.sleep(0.02)

    def _in_workers(self) -> dict[str, int]:
        """The runs that are being trained in child processes, with the id of the process of each."""
        workers = {process.pid for process in active_children()}
        holders = {name: supervisor.holder(self.folder / name) for name in self.jobs if workers}
        return {name: pid for name, pid in holders.items() if pid in workers and pid and is_locked(self.folder / name)}

    def _left_since(self, moment: float, names: list[str]) -> list[str]:
        """The runs that have written no result since the given moment."""
        return [name for name in names if not self._written_since(moment, name, RESULT)]

    def _written_since(self, moment: float, name: str, file: str) -> bool:
        path = self.folder / name / file
        return path.exists() and path.stat().st_mtime >= moment

    def end(self) -> bool:
        """Print and write the table; return whether all runs finished or diverged."""
        self.progress.end()
        return set(ENDED).issuperset(end_sweep(self.folder, self.configurations))


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
    folder = Path(config.hydra.run.dir)
    refuse_other_run(folder, config)
    if death := death_in(folder, config):
        raise UserError(record_death(folder, without_hydra(config), death.reason))
    supervisor.check_explained()


def _start(config: DictConfig) -> None:
    folder, launcher = _folder(config), config.hydra.launcher
    here = runs_here(launcher)
    jobs: dict[str, Job] = {}
    configs: dict[str, DictConfig] = {}
    deaths: dict[supervisor.Death, list[str]] = {}
    settings: dict[str, dict[str, Any]] = {}
    first: DictConfig | None = None
    for overrides, job in expand(config):
        name, first = run_name(job), first or job
        for node in ("name", "run", "search"):
            if job[node] != first[node]:
                which = _difference(next(iter(jobs.values())), overrides)
                raise UserError(f"{which}: {node} differs, but a sweep has one folder and table; start one for each")
        if name in jobs:
            raise UserError(f"{_difference(jobs[name], overrides)}: these jobs are the same run, {name}")
        if not stands(read_result(folder / name), RunSettings(**job.run)):
            check(job, to_run=here)
        if death := death_in(folder / name, job):
            deaths.setdefault(death, []).append(name)
        jobs[name], configs[name], settings[name] = overrides, job, decisive_keys(job)
    assert first is not None
    alone: set[str] = set()
    for death, names in deaths.items():
        if len(names) > 1:  # they were trained together, and any of them may be the reason
            alone.update(names)
        else:
            log.warning("%s", record_death(folder / names[0], configs[names[0]], death.reason))
    supervisor.check_explained()
    search = SearchSettings.of(first)
    search.check(set().union(*settings.values()))

    at_once = fit(launcher, max(run["trainer.threads"] for run in settings.values()))
    given = config.hydra.sweeper.get("max_batch_size")
    if given is not None and given < 1:
        raise UserError(f"hydra.sweeper.max_batch_size={given}: must be at least 1, or null for no limit")
    limits = [limit for limit in (at_once, given) if limit]
    most = min(limits, default=None)
    sweep = Sweep(folder, jobs, configs, settings, search, RunSettings(**first.run), most, config, alone)
    ending.end = sweep.end
    if outlives_the_sweep(launcher):
        lifeline.release()
    else:
        lifeline.hold(folder)
    redirect(sweep.batches(), sweep.launch)


def _can_be_written(folder: Path) -> bool:
    """Whether the folder of a run is writable or missing; otherwise a warning says that the run is not started."""
    for path in (folder, (folder / STORED).parent):
        if os.path.lexists(path) and not (path.is_dir() and os.access(path, os.W_OK | os.X_OK)):
            says = "is not writable" if path.is_dir() else "is not a folder"
            log.warning("%s %s, so this run is not started; the others continue", path, says)
            return False
    return True


def _folder(config: DictConfig) -> Path:
    """The folder of a sweep, which is the same for all of its runs; each of them has its own subfolder."""
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
