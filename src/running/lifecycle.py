"""One run from its configuration to its `result.json`: skip, lock, resume, fail.

A folder with the result of the same run is left as it is; a run with checkpoints is resumed.
"""

import logging
import os
import time
import traceback
from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from src.config.errors import UserError, explain
from src.config.fingerprint import Described, describe
from src.config.paths import CHECKPOINTS, EVENT_FILES, LOG, METRICS, OVERRIDES, RESULT
from src.config.schema import RunSettings
from src.config.settings import short_name
from src.results.manifest import trial_name
from src.results.result import ENDED, has_another_note, read_result, stands, write_result
from src.running.build import build_trainer, choose_device
from src.running.conclusion import conclude
from src.running.examples import show_examples
from src.running.groups import others_of_group
from src.running.provenance import provenance
from src.running.together import Life, finish
from src.training.checkpoint import newest_first
from src.training.curves import Curves
from src.training.floors import draw_floors
from src.training.profiler import profiled
from src.training.progress import RunProgress
from src.training.signals import exit_status
from src.training.trainer import StopRule, Trainer
from src.utils import supervisor
from src.utils.files import locked

log = logging.getLogger(__name__)
JOB = ".slurm_job"
"""File with the id of the SLURM job that was the last to start a run over."""


def run(config: DictConfig) -> float:
    """Complete the run of Hydra's output folder, with the others of its group, and return its test objective.

    In a sweep a failure is recorded and nan returned, so that the other runs continue; a failed single run ends the
    command.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    folder = folder.relative_to(Path.cwd()) if Path.cwd() in folder.parents else folder
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return conclude(run_in(folder, config, patience=0.3), folder, in_sweep=False)
    runs = {folder: config} | others_of_group(folder)
    results = finish({each: life(each, runs[each], patience=10, number=len(runs)) for each in runs})
    ended_first = sorted(results, key=lambda each: results[each]["status"] == "interrupted")
    objectives = {each: conclude(results[each], each, in_sweep=True) for each in ended_first}
    if any(result.get("stop_requested") for result in results.values()):  # by a signal after the last update
        raise KeyboardInterrupt(exit_status())
    return objectives[folder]


def run_in(folder: Path, config: DictConfig, patience: float, stop_rule: StopRule | None = None) -> dict[str, Any]:
    """Complete the run of a folder and return its result, or return the result that already exists.

    Args:
        folder: an existing folder.
        config: the configuration of the run, already checked.
        patience: seconds to wait for another process that works on the same run.
        stop_rule: a rule that may stop the run; see `src.training.trainer`.
    """
    return finish({folder: life(folder, config, patience, stop_rule)})[folder]


def life(folder: Path, config: DictConfig, patience: float, stop_rule: StopRule | None = None, number: int = 1) -> Life:
    """Do everything in `run_in` except the updates; `number` is the number of runs trained together."""
    try:
        with locked(folder, patience):
            described = describe(config)
            existing = _existing(folder, config, described.fingerprint)
            return existing or (yield from _execute(config, described, folder, stop_rule, number))
    except UserError as error:
        return {"status": "in use", "reason": str(error)}
    except OSError as error:  # from the lock, or from what an earlier attempt left
        return {"status": "failed", "reason": explain(error)}


def _existing(folder: Path, config: DictConfig, fingerprint: str) -> dict[str, Any] | None:
    """The result of a run that need not be run again; None if it has to be.

    Raises:
        UserError: the folder holds the result of another run.
    """
    result, settings = read_result(folder), RunSettings(**config.run)
    if result is not None and result.get("fingerprint", fingerprint) != fingerprint:
        raise UserError(f"{folder} holds another run ({result['fingerprint']}, this is {fingerprint})")
    if settings.fresh and not _begun_by_this_job(folder):
        clear(folder)
        if job := os.environ.get("SLURM_JOB_ID"):
            (folder / JOB).write_text(job)
        return None
    if not stands(result, replace(settings, fresh=False)):
        return None
    log.info("%s has already %s; run.fresh=true starts over", folder, result["status"])
    if has_another_note(result, config):
        log.warning("note=%s is not stored: the run has ended and keeps its earlier note", config.note)
    return dict(result)


def _begun_by_this_job(folder: Path) -> bool:
    """Whether SLURM has requeued this job, as after its time limit, and the job has already started the run over."""
    again = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    return again and (folder / JOB).exists() and (folder / JOB).read_text() == os.environ.get("SLURM_JOB_ID")


def _execute(config: DictConfig, described: Described, folder: Path, stop_rule: StopRule | None, number: int) -> Life:
    """Train, and write the result even if the run fails."""
    started = time.perf_counter()
    for left in folder.rglob(".*.tmp"):  # from writes that were killed
        left.unlink(missing_ok=True)
    result = _failed(described)
    try:
        yield from _train(config, described, folder, result, stop_rule, number)
    except Exception as error:
        result["reason"] = explain(error)
        result["traceback"] = traceback.format_exc()
        with suppress(OSError), open(folder / LOG, "a") as file:
            file.write(result["traceback"])
    result["wall_seconds"] = time.perf_counter() - started
    try:
        write_result(folder, result)
    except OSError as error:
        result |= {"status": "failed", "reason": explain(error)}
    return result


def death_in(folder: Path, config: DictConfig) -> supervisor.Death | None:
    """The earlier process of this command that died in this run; None if there is none.

    Also None if the result of the run is final: then the process that died had only visited the run.
    """
    return None if stands(read_result(folder), RunSettings(**config.run)) else supervisor.death_in(folder, RESULT)


def record_death(folder: Path, config: DictConfig, reason: str) -> str:
    """Write the result of a run whose process died before it could do so itself; return a line that says so."""
    folder.mkdir(parents=True, exist_ok=True)  # the process may have died before creating it
    write_result(folder, _failed(describe(config)) | {"reason": reason})
    return f"{folder.name}: {reason}"


def _failed(described: Described) -> dict[str, Any]:
    """The result of a failed run, still without a reason."""
    result: dict[str, Any] = {"status": "failed", "reason": "", "metrics": {}}
    return result | {"fingerprint": described.fingerprint, "config": described.config}


def _train(
    config: DictConfig,
    described: Described,
    folder: Path,
    result: dict[str, Any],
    stop_rule: StopRule | None,
    number: int,
) -> Generator[Trainer, None, None]:
    """Train a run, new or resumed, and fill in its result."""
    result["provenance"] = provenance(config.trainer.threads, str(choose_device(config)), _command(folder))
    result["provenance"]["together"] = number
    trainer = build_trainer(config, folder, described.fingerprint)
    trainer.stop_rule = stop_rule
    model, objective = trainer.model, trainer.task.objective
    result |= {"num_parameters": model.num_parameters, "state_size": model.core.state_size, "floors": trainer.floors}
    result |= {"objective": objective.metric, "higher_is_better": objective.higher_is_better}

    state = trainer.state
    resumed = trainer.checkpoints.resume(state)
    log.info("%s %s", folder, f"resumes from update {state.update}" if resumed else "starts")
    yield trainer
    with (
        profiled(trainer.settings.profile_updates, folder) as after_update,
        Curves(folder, first_update=state.update + 1 if resumed else 0) as curves,
    ):
        curves.describe(described.config, described.settings, trial_name(folder, described.fingerprint))
        try:
            draw_floors(folder.parent, short_name(config.task._target_), trainer.floors, trainer.settings.max_updates)
        except OSError as error:  # the run continues without these lines
            log.warning("no floors in TensorBoard: %s", explain(error))
        with RunProgress(trainer.settings.max_updates, state.update, has_bar=number == 1) as progress:
            for _ in trainer.updates(curves, progress):
                yield trainer
                if after_update is not None:
                    after_update()
        outcome = trainer.outcome
        result |= {
            "status": outcome.status,
            "reason": outcome.reason,
            "metrics": outcome.metrics,
            "selected_update": None if state.selected is None else state.selected.update,
            "updates": state.update,
            "seconds": state.seconds,
            "updates_per_second": state.update / state.seconds if state.seconds else 0.0,
        }
        if outcome.status in ENDED:
            try:
                show_examples(trainer, curves)
            except Exception as error:  # the result is valid without them
                log.warning("no examples in TensorBoard: %s", explain(error))
        curves.end(described.settings)


def _command(folder: Path) -> list[str] | None:
    """The command for this run alone, whichever sweep or process it belongs to; None if no overrides are stored."""
    path = folder / OVERRIDES
    overrides: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False) if path.exists() else None
    return None if overrides is None else ["python", "-m", "src.train", *overrides]


def clear(folder: Path) -> None:
    """Remove what an earlier attempt left."""
    checkpoints = folder / CHECKPOINTS
    own = newest_first(checkpoints) if checkpoints.is_dir() and not checkpoints.is_symlink() else [checkpoints]
    for path in [*own, folder / RESULT, folder / METRICS, *folder.glob(EVENT_FILES)]:
        path.unlink(missing_ok=True)
