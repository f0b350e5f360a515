"""One run from its configuration to its `result.json`: skip, lock, resume, failure.

A folder that holds the result of the same run is left as it is; one that holds checkpoints is gone on with. Heavy
imports wait until they are needed, so that the command line answers at once.
"""

import json
import logging
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src import errors
from src.identity import decisive_settings, flat, identity
from src.schema import RunSettings, TrainerSettings
from src.utils.files import FolderInUseError, locked, write_whole

if TYPE_CHECKING:
    import torch

    from src.models.sequence import Output, SequenceModel
    from src.tasks.base import Batch, Split, Task
    from src.trainer import Trainer, Watch

log = logging.getLogger(__name__)
RESULT = "result.json"
ENDED = ("finished", "diverged")


def run(config: DictConfig) -> float:
    """Bring the run that Hydra has made a folder for to its end and return its test objective.

    In a sweep a failure is recorded and nan returned, so that the other runs go on; alone it ends the command.
    """
    folder = _short(Path(HydraConfig.get().runtime.output_dir))
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    return _conclude(run_in(folder, config, patience=10 if in_sweep else 0.3), folder, in_sweep)


def run_in(folder: Path, config: DictConfig, patience: float, watch: "Watch | None" = None) -> dict[str, Any]:
    """Bring the run of a folder to its end and return its result, or the one that is there.

    Args:
        folder: an existing one.
        config: of the run, checked.
        patience: seconds to wait for another process that is at this run.
        watch: may stop the run, see `Trainer.watch`.
    """
    try:
        with locked(folder, patience):
            result = _stored(folder, RunSettings(**config.run))
            return _execute(config, folder, watch) if result is None else result
    except FolderInUseError as error:
        log.error("%s", error)
        return {"status": "in use", "reason": str(error)}


def _stored(folder: Path, settings: RunSettings) -> dict[str, Any] | None:
    """The result of a run that need not be run again."""
    if settings.fresh:
        clear(folder)
        return None
    result = read_result(folder)
    if not stands(result, settings):
        return None
    log.info("%s is %s already; run.fresh=true starts over", folder, result["status"])
    return result


def stands(result: dict[str, Any] | None, settings: RunSettings) -> TypeGuard[dict[str, Any]]:
    """Whether a result is there to stay, so that the run need not be run again."""
    if result is None or settings.fresh:
        return False
    return result["status"] in ENDED or (result["status"] == "failed" and not settings.retry_failed)


def _execute(config: DictConfig, folder: Path, watch: "Watch | None") -> dict[str, Any]:
    """Train and write the result, whatever it is."""
    started = time.perf_counter()
    result: dict[str, Any] = {"status": "failed", "reason": "", "metrics": {}, "identity": identity(config)}
    result["config"] = OmegaConf.to_container(config, resolve=True)
    try:
        _train(config, folder, result, watch)
    except Exception as error:
        result["reason"] = errors.explain(error)
        result["traceback"] = traceback.format_exc()
        with suppress(OSError), open(folder / "train.log", "a") as file:
            file.write(result["traceback"])
    result["wall_seconds"] = time.perf_counter() - started
    try:
        write_whole(folder / RESULT, json.dumps(result, indent=2).encode())
    except OSError as error:
        result |= {"status": "failed", "reason": errors.explain(error)}
    return result


def _command(folder: Path) -> list[str] | None:
    """What makes this run alone, whichever sweep or process it belongs to; None where Hydra keeps nothing."""
    overrides = folder / ".hydra" / "overrides.yaml"
    return ["python", "-m", "src.train", *OmegaConf.load(overrides)] if overrides.exists() else None


def _train(config: DictConfig, folder: Path, result: dict[str, Any], watch: "Watch | None") -> None:
    """Fill in the result of a run, new or gone on with."""
    from src.utils.profiler import profiled
    from src.utils.progress import RunProgress
    from src.utils.provenance import provenance
    from src.utils.tensorboard import Curves

    result["provenance"] = provenance(config.trainer.threads, str(choose_device(config.device)), _command(folder))
    trainer = build_trainer(config, folder)
    trainer.watch = watch
    model, task, settings = trainer.model, trainer.task, trainer.settings
    result |= {"num_parameters": model.num_parameters, "state_size": model.core.state_size, "floors": trainer.floors}
    result["objective"] = task.objective

    resumed = trainer.resume()
    log.info("%s %s", folder, f"goes on from update {trainer.update}" if resumed else "starts")
    curves = Curves(folder, first_update=trainer.update + 1 if resumed else 0)
    shown = flat(decisive_settings(config))
    curves.describe(OmegaConf.to_yaml(config, resolve=True), shown, list(next(iter(task.floors.values()))))
    with stopping_on_signals(trainer), RunProgress(settings.max_updates, trainer.update) as progress:
        with profiled(settings.profile_updates, folder) as after_update:
            outcome = trainer.fit(curves, progress, after_update)
        if outcome.status in ENDED:
            show_examples(trainer, curves)
    curves.close(shown)
    result |= {
        "status": outcome.status,
        "reason": outcome.reason,
        "metrics": outcome.metrics,
        "selected_update": None if trainer.selected is None else trainer.selected.update,
        "updates": trainer.update,
        "seconds": trainer.seconds,
        "updates_per_second": trainer.update / trainer.seconds if trainer.seconds else 0.0,
    }


def build_trainer(config: DictConfig, folder: Path) -> "Trainer":
    """The trainer of a configuration, before its first update, with its task and a new model."""
    import torch

    from src.trainer import Trainer
    from src.utils.flat import flat_parameters

    settings = TrainerSettings(**OmegaConf.to_container(config.trainer, resolve=True))  # type: ignore[arg-type]
    device = choose_device(config.device)
    torch.set_num_threads(settings.threads)
    torch.set_flush_denormal(True)  # gradients that vanish over hundreds of steps make some processors far slower
    if settings.deterministic != torch.are_deterministic_algorithms_enabled():  # setting it takes a second of imports
        torch.use_deterministic_algorithms(settings.deterministic)
    torch.autograd.set_detect_anomaly(settings.detect_anomaly)

    task = build_task(config).to(device)
    torch.manual_seed(config.seed)
    model = build_model(config, task).to(device)
    optimizer = instantiate(config.optimizer, [flat_parameters(model)], _convert_="all")
    scheduler = instantiate(config.scheduler, optimizer, settings.max_updates)
    return Trainer(model, task, optimizer, scheduler, settings, folder, identity(config))


def _conclude(result: dict[str, Any], folder: Path, in_sweep: bool) -> float:
    """Say how the run ended, and end the command if it stands alone."""
    from src.reports.hparams import update_hparams_page
    from src.reports.tables import one_line, show_run

    status = result["status"]
    if status == "interrupted":
        log.info("%s; the same command goes on from there", result["reason"])
        if in_sweep:
            raise KeyboardInterrupt
        sys.exit(130)
    if status not in ENDED:
        if in_sweep:
            log.error("%s", one_line(result, folder))
            return float("nan")
        sys.exit(f"error: {result['reason']}" + (f" (see {folder}/train.log)" if "traceback" in result else ""))
    if in_sweep:
        log.info("%s", one_line(result, folder))
    else:
        update_hparams_page(folder.parent)
        show_run(result, folder)
    return next((value for tag, value in result["metrics"].items() if tag.startswith("test/")), float("nan"))


def show_examples(trainer: "Trainer", curves: Any, num_examples: int = 12) -> None:
    """Rendered test examples, right and wrong, and what the memory of the model holds and looks at."""
    batch, output = examples(trainer.model, trainer.task, "test", num_examples)
    projected = trainer.model.project(batch.inputs).vectors.detach()
    lines = [trainer.task.render(batch, row, output) for row in range(len(batch.inputs))]
    curves.text("examples", lines, trainer.update)
    labels = [trainer.task.labels(batch, row) for row in range(len(batch.inputs))]
    attention = trainer.model.core.attention(projected)
    if attention is not None:
        from src.reports.figures import attention_figure

        curves.figure("memory/attention", attention_figure(attention, labels), trainer.update)
    memory = trainer.model.core.memory(projected)
    if memory is not None:
        from src.reports.figures import memory_figure

        curves.figure("memory/matrix", memory_figure(memory, lines), trainer.update)


def examples(model: "SequenceModel", task: "Task", split: "Split", num_examples: int) -> tuple["Batch", "Output"]:
    """A few examples of a split, wrong answers among them if there are any, and what the model makes of them."""
    import torch

    batch = next(iter(task.evaluation(split)))
    model.eval()
    with torch.no_grad():
        rows = torch.tensor(task.examples(batch, model(batch.inputs), num_examples), device=batch.inputs.device)
        shown = batch.take(rows)
        return shown, model(shown.inputs)


def build_task(config: DictConfig) -> "Task":
    """The task of a configuration, with the data of its seed."""
    return instantiate(config.task, config.seed, _convert_="all")


def build_model(config: DictConfig, task: "Task") -> "SequenceModel":
    """The model of a configuration between the encoder and the head that the task asks for."""

    def make_core(size: int):
        return instantiate(config.model, size, _convert_="all")

    return instantiate(config.network, task.input_spec, task.output_spec, make_core, _convert_="all")


def choose_device(name: str) -> "torch.device":
    """The named device; "auto" is a GPU where there is one."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def read_result(folder: Path) -> dict[str, Any] | None:
    """The `result.json` of a run, or None if there is none that can be read."""
    try:
        return json.loads((folder / RESULT).read_text())
    except (OSError, json.JSONDecodeError):
        return None


def _short(path: Path) -> Path:
    """Relative to the current folder where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def clear(folder: Path) -> None:
    """Remove what an earlier attempt left."""
    from src.utils.tensorboard import EVENT_FILES

    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    for path in [folder / RESULT, *folder.glob(EVENT_FILES)]:
        path.unlink(missing_ok=True)


@contextmanager
def stopping_on_signals(trainer: "Trainer") -> Iterator[None]:
    """Ctrl-C or SIGTERM asks the trainer to save and stop after the update at hand; a second one stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous: dict[signal.Signals, Any] = {}

    def request(number: int, frame: Any) -> None:
        trainer.stop_requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, request)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
