"""What a sweep adds to its runs: all are known and checked before the first starts, and a table ends it."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from src.errors import UserError, exit_on_user_error
from src.experiment import read_result, stands
from src.identity import decisive_settings, flat, run_name
from src.launchers import fit, outlives_the_sweep
from src.schema import RunSettings, check
from src.selection import first_stage, num_of_second_stage, second_stage
from src.utils import lifeline
from src.utils.files import changing, write_whole
from src.utils.sweeper import Job, expand, redirect

log = logging.getLogger(__name__)
MANIFEST = "sweep.json"


@dataclass(frozen=True)
class Manifest:
    """What a folder of runs was made for, so that one sees what is missing.

    Attributes:
        search: the settings of the newest sweep in the folder: `grid`, `repeated`, `columns`, `two_stage`.
        runs: the flat decisive settings of each run that any sweep of the folder asks for, by name, in order. Of a
            two-stage search, the runs of the second stage are there once they are chosen.
    """

    search: dict[str, Any]
    runs: dict[str, dict[str, Any]]


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder of runs; None if no sweep has run in it."""
    try:
        return Manifest(**json.loads((folder / MANIFEST).read_text()))
    except (OSError, json.JSONDecodeError, TypeError):
        return None


def write_manifest(folder: Path, search: dict[str, Any], runs: dict[str, dict[str, Any]]) -> Manifest:
    """Write the manifest of a folder: the runs of earlier sweeps, and of those that start with this one, stay in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with changing(folder / MANIFEST):
        earlier = read_manifest(folder)
        manifest = Manifest(search, (earlier.runs if earlier else {}) | runs)
        write_whole(folder / MANIFEST, json.dumps(asdict(manifest), indent=1).encode())
    return manifest


class Sweep:
    """The runs that a command asks for, and the launching of those that are left.

    Args:
        folder: of its runs.
        jobs: the overrides of every run that it may come to ask for, by name.
        settings: the flat decisive settings of the same runs.
        search: what the settings that vary are for.
        run: which results stand.
        batch_size: how many jobs to hand over at a time; None for all.
    """

    def __init__(
        self,
        folder: Path,
        jobs: dict[str, Job],
        settings: dict[str, dict[str, Any]],
        search: dict[str, Any],
        run: RunSettings,
        batch_size: int | None,
    ):
        from src.watch import SweepProgress

        self.folder = folder
        self.jobs = jobs
        self.settings = settings
        self.search = search
        self.run = run
        self.batch_size = batch_size
        self.progress = SweepProgress(folder)
        self.configurations: dict[str, dict[str, Any]] = {}
        self.ask_for(first_stage(settings, search))

    def ask_for(self, names: list[str]) -> None:
        """Put runs into the manifest and into the table; those of a second stage come once they are chosen."""
        runs = {name: self.settings[name] for name in names}
        self.configurations |= runs
        write_manifest(self.folder, self.search, runs)

    def batches(self) -> Iterator[list[Job]]:
        """The jobs that are left, batch after batch; the second stage is chosen when the first has ended."""
        first = list(self.configurations)
        two_stage = self.search["two_stage"]
        yield from self._left(first, num_of_second_stage(self.settings, self.search) if two_stage else 0)
        if two_stage:
            results = {name: read_result(self.folder / name) for name in first}
            chosen, notes = second_stage(self.settings, self.search, results)
            log.info("%s", "\n".join(notes))
            self.ask_for(chosen)
            yield from self._left(chosen)

    def _left(self, names: list[str], num_later: int = 0) -> Iterator[list[Job]]:
        """The jobs of runs without a result that stands."""
        kept = {name: result for name in names if stands(result := read_result(self.folder / name), self.run)}
        left = [name for name in names if name not in kept]
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
        """A run that stands alone."""
        exit_on_user_error(lambda: check(config))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """All runs of a sweep; then have Hydra launch those that are left."""
        exit_on_user_error(lambda: _start(config))


def _start(config: DictConfig) -> None:
    global _sweep
    jobs: dict[str, Job] = {}
    configurations: dict[str, DictConfig] = {}
    for overrides, job in expand(config):
        check(job)
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
        {name: flat(decisive_settings(job)) for name, job in configurations.items()},
        OmegaConf.to_container(job.search, resolve=True),  # type: ignore[arg-type]
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
        from src.reports.report import end_sweep

        statuses = end_sweep(_sweep.folder, _sweep.configurations)
        if not status and not {"finished", "diverged"}.issuperset(statuses):
            status = 1
    if status:
        sys.exit(status)
