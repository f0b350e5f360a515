"""A search over continuous or discrete ranges with a fixed budget: Optuna proposes settings, ordinary runs train them.

Every trial is the run that `python -m src.train` would do. Proposals and their results are in `optuna.journal` in the
folder of the runs, from which the same command resumes. A study is a set of ranges with its fixed settings, sampler and
seed; several may share a folder.
"""

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, Sweep
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial, TrialState
from rich import get_console

from src.config.compose import compose, for_hydra
from src.config.errors import DIED, UserError, explain
from src.config.fingerprint import decisive_keys, run_name
from src.config.jobs import values_of
from src.config.paths import CONFIGS, JOURNAL, folder_of_runs
from src.config.schema import SearchSettings
from src.reports.report import end_sweep
from src.results.manifest import read_manifest, with_searched, write_manifest
from src.running.build import build_task
from src.running.lifecycle import death_in, record_death
from src.specs import Objective
from src.sweeping.trial import NOTHING, composed, id_of, mend, run_trial, storage_of, workers
from src.training.signals import exit_status
from src.utils import lifeline, supervisor
from src.utils.files import locked
from src.utils.machine import num_cores

log = logging.getLogger(__name__)
WITHOUT_EFFECT = ("run.together", "run.retry_failed", "search.two_stage")
"""Settings of sweeps that have no effect in a search. A failed trial is not run again: Optuna is told about it."""


@dataclass(frozen=True)
class Options:
    """How to search.

    Attributes:
        trials: the budget, including trials of earlier calls.
        sampler: independent draws, or Optuna's tree-structured Parzen estimator.
        seed: seed of the proposals; random ones depend only on it, the ranges and the number of the trial.
        workers: number of trials at a time.
        prune: whether to stop runs that are worse than the median of the others at the same update.
    """

    trials: int
    sampler: Literal["random", "tpe"] = "random"
    seed: int = 0
    workers: int = 1
    prune: bool = False


def search(overrides: Sequence[str], options: Options) -> int:
    """Run the rest of the budget, print and write the tables of the folder, and return the exit status."""
    fixed, space = split(overrides)
    example = {key: _example(distribution) for key, distribution in space.items()}
    config = composed(_with(fixed, example))
    _check(config, space)
    for key, distribution in space.items():
        if isinstance(distribution, CategoricalDistribution) and (CONFIGS / key).is_dir():
            for choice in distribution.choices[1:]:  # if one were misspelled, all of its trials would fail
                compose(*_with(fixed, example | {key: choice}))
    if options.workers * config.trainer.threads > num_cores():
        most = max(1, num_cores() // config.trainer.threads)
        there_are = f"{num_cores()} cores here and trainer.threads={config.trainer.threads}"
        raise UserError(f"--workers {options.workers}: must be at most {most}, with {there_are}")
    folder = folder_of_runs(config)
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with locked(folder):
        lifeline.hold(folder)
        mend(folder)
        this = _Search(folder, fixed, space, options, build_task(config).objective)
        try:
            this.run()
            failed = this.study.get_trials(deepcopy=False, states=[TrialState.FAIL])
            status = int(any(len(trial.params) == len(space) for trial in failed))  # not those that were never begun
        except KeyboardInterrupt:
            status = exit_status()
    manifest = read_manifest(folder)
    statuses = end_sweep(folder, manifest.runs if manifest else {})
    return status or int("failed" in statuses)


def split(overrides: Sequence[str]) -> tuple[list[str], dict[str, BaseDistribution]]:
    """Separate fixed settings, kept as typed, from ranges: `interval`, `choice`, `range`, `tag(log, ...)`."""
    fixed, space = [], {}
    parsed = OverridesParser.create().parse_overrides(for_hydra(overrides))
    given = Counter(override.key_or_group for override in parsed)
    for override in parsed:
        key = override.get_key_element().lstrip("+")
        if key in WITHOUT_EFFECT or key.replace("/", ".").startswith("hydra."):
            at_once = key == "run.together" or key.startswith("hydra/launcher")
            instead = "; --workers sets how many runs are trained at a time" if at_once else ""
            raise UserError(f"{key}: has no effect in a search{instead}")
        if override.is_sweep_override():
            if given[override.key_or_group] > 1:
                raise UserError(f"{override.input_line}: {key} is given twice")
            space[key] = _distribution(override)
        else:
            fixed.append(str(override.input_line))
    return fixed, space


def _distribution(override: Override) -> BaseDistribution:
    values = override.value()
    if isinstance(values, Glob):
        raise UserError(f"{override.input_line}: glob works only in sweeps; list the values, as in choice(a, b)")
    assert isinstance(values, Sweep)
    legal = {"log"} if isinstance(values, IntervalSweep) else set()
    if wrong := sorted(values.tags - legal):
        raise UserError(f"{override.input_line}: tag {wrong[0]} has no effect; legal: log, of an interval")
    if not isinstance(values, IntervalSweep):
        return CategoricalDistribution(values_of(override))
    if values.start is None or values.end is None or not -math.inf < values.start < values.end < math.inf:
        raise UserError(f"{override.input_line}: an interval needs two finite ends, the lower one first")
    logarithmic = "log" in values.tags
    if logarithmic and values.start <= 0:
        raise UserError(f"{override.input_line}: a logarithmic interval must be above 0")
    if isinstance(values.start, int) and isinstance(values.end, int):
        return IntDistribution(values.start, values.end, log=logarithmic)
    return FloatDistribution(values.start, values.end, log=logarithmic)


def _with(fixed: list[str], drawn: dict[str, Any]) -> list[str]:
    """The overrides for one point of a search."""
    return fixed + [f"{key}={value}" for key, value in drawn.items()]


def _example(distribution: Any) -> Any:
    return distribution.choices[0] if isinstance(distribution, CategoricalDistribution) else distribution.low


def _check(config: DictConfig, space: dict[str, BaseDistribution]) -> None:
    if not space:
        raise UserError("nothing to search; give a range, such as 'optimizer.lr=tag(log, interval(1e-4, 1e-2))'")
    for key in space:
        if key in config.search.repeated:
            raise UserError(f"{key} is in search.repeated, so it cannot be searched; sweep over it at the chosen point")
        if key in config.search.columns:
            raise UserError(f"{key} is in search.columns, so it cannot be searched")
        if key == "task":
            raise UserError("task cannot be searched: errors on different tasks are not comparable")
        if key not in decisive_keys(config):
            raise UserError(f"{key}: does not change the result of a run, so it cannot be searched")
    SearchSettings.of(config).check(decisive_keys(config))
    if config.run.fresh:
        raise UserError("run.fresh=true: a search resumes from its journal; set another name= to start over")


def proposal(space: dict[str, BaseDistribution], seed: int, index: int) -> dict[str, Any]:
    """The settings of a random trial, as a function of the ranges, the seed and the number of the trial."""
    sampler = optuna.samplers.RandomSampler(seed=_seed(seed, index))
    return optuna.create_study(sampler=sampler).ask(space).params


def _seed(seed: int, index: int) -> int:
    """The seed of one trial, so that a resumed search proposes the same settings as an uninterrupted one."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


@dataclass
class _Search:
    """One study and the runs of its trials."""

    folder: Path
    fixed: list[str]
    space: dict[str, BaseDistribution]
    options: Options
    objective: Objective

    def __post_init__(self) -> None:
        ranges = {key: repr(distribution) for key, distribution in self.space.items()}
        described = json.dumps([sorted(self.fixed), sorted(ranges.items()), self.options.sampler, self.options.seed])
        self.name = hashlib.sha256(described.encode()).hexdigest()[:8]
        try:
            self.study = optuna.create_study(
                storage=storage_of(self.folder),
                study_name=self.name,
                load_if_exists=True,
                direction="maximize" if self.objective.higher_is_better else "minimize",
            )
        except (LookupError, TypeError, ValueError) as error:  # from records that only Optuna can check
            raise UserError(
                f"{self.folder / JOURNAL} is damaged ({explain(error)}); remove it: the runs are kept and found again"
            ) from None

    def run(self) -> None:
        """Run the trials of the budget that have not ended, interrupted ones first."""
        left = self._left()
        while under_way := self._run(left, self.options.workers):
            for trial in under_way:  # one of them killed its process: each runs again, alone
                if self._run(iter([trial]), 1):
                    self._record_death(trial, DIED)

    def _run(self, trials: Iterator[Trial], number: int) -> list[Trial]:
        """Run trials, `number` at a time; return those in progress if a worker process died, else none."""
        running: dict[Future, Trial] = {}
        starting: list[Trial] = []
        with workers(number, here=self.options.workers == 1) as start:
            try:
                while True:
                    while len(running) < number and (trial := next(trials, None)) is not None:
                        if (overrides := self._expect(trial)) is not None:
                            study = (self.name, id_of(trial)) if self.options.prune else None
                            starting = [trial]
                            running[start(run_trial, overrides, study)] = trial
                            starting = []
                    if not running:
                        return []
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        self._tell(running[future], future.result())
                        del running[future]
            except BrokenProcessPool:
                return [*running.values(), *starting]

    def _left(self) -> Iterator[Trial]:
        for trial in self.study.get_trials(states=[TrialState.RUNNING]):
            if len(trial.params) == len(self.space):
                yield Trial(self.study, id_of(trial))
            else:  # stopped while being proposed
                self.study.tell(trial.number, state=TrialState.FAIL)
        supervisor.check_explained()
        while (index := len(self._proposed())) < self.options.trials:
            if self.options.sampler == "tpe":
                self.study.sampler = optuna.samplers.TPESampler(
                    seed=_seed(self.options.seed, index), constant_liar=self.options.workers > 1
                )
            elif not self.study.get_trials(states=[TrialState.WAITING]):
                self.study.enqueue_trial(proposal(self.space, self.options.seed, index))
            yield self.study.ask(self.space)

    def _proposed(self) -> list[FrozenTrial]:
        return [trial for trial in self.study.get_trials(deepcopy=False) if len(trial.params) == len(self.space)]

    def _overrides(self, trial: Trial) -> list[str]:
        return _with(self.fixed, {key: trial.params[key] for key in self.space})

    def _expect(self, trial: Trial) -> list[str] | None:
        """Add the run of a trial to the manifest of the folder, and return its overrides; None if the trial failed."""
        overrides = self._overrides(trial)
        try:
            config = composed(overrides)
            self._check_objective(config)
        except (UserError, HydraException, OmegaConfBaseException) as error:
            self._tell(trial, NOTHING | {"status": "failed", "reason": explain(error)})
            return None
        if death := death_in(self.folder / run_name(config), config):
            self._record_death(trial, death.reason)
            return None
        plan = SearchSettings.of(config)
        plan = with_searched(replace(plan, grid=list(dict.fromkeys([*plan.grid, *self.space]))), self.folder)
        write_manifest(self.folder, plan, {run_name(config): decisive_keys(config)})
        return overrides

    def _check_objective(self, config: DictConfig) -> None:
        """Raise `UserError` if settings of the task change its objective, so that values cannot be compared."""
        if (objective := build_task(config).objective) != self.objective:
            raise UserError(f"its objective is {objective.metric}, that of this search is {self.objective.metric}")

    def _record_death(self, trial: Trial, reason: str) -> None:
        """Record that the process of a trial died, in its run and in the study."""
        config = composed(self._overrides(trial))
        log.warning("%s", record_death(self.folder / run_name(config), config, reason))
        self._tell(trial, NOTHING | {"status": "failed", "reason": reason})

    def _tell(self, trial: Trial, given: dict[str, Any]) -> None:
        """Record how a trial ended; an interrupted one stays open, and is resumed the next time."""
        status, value = given["status"], given["objective"]
        trial.set_user_attr("run", given["run"])
        trial.set_user_attr("reason", given["reason"])
        if status == "finished" and math.isfinite(value):
            self.study.tell(trial, value)
        elif status in ("finished", "diverged"):
            self.study.tell(trial, -math.inf if self.objective.higher_is_better else math.inf)
        elif given["pruned"]:
            self.study.tell(trial, state=TrialState.PRUNED)
        elif status in ("failed", "in use"):
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            raise KeyboardInterrupt
        settings = "  ".join(f"{key}={_short(value)}" for key, value in trial.params.items())
        ended = f"{given['tag']} {value:.4g}" if status == "finished" else f"{status}, {given['reason']}"
        line = f"trial {trial.number + 1} of {self.options.trials}: {settings}  {ended}"
        get_console().print(line, markup=False, highlight=False, soft_wrap=True)
        if given["stop_requested"]:
            raise KeyboardInterrupt


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
