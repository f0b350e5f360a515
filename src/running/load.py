"""Loads the configuration and the network of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf

from src.config.errors import UserError
from src.config.fingerprint import fingerprint
from src.config.paths import CHECKPOINTS, STORED
from src.config.schema import current_target, later_keys
from src.models.sequence import SequenceModel
from src.results.result import read_result
from src.results.stored import checked_config, read_yaml
from src.running.build import build_model, build_task, check
from src.specs import Split
from src.tasks.base import Task
from src.training import checkpoint
from src.training.content import OTHER_DATA, Selected, as_content, check_weights, is_of_other_data
from src.training.evaluation import evaluate


def read_config(folder: Path) -> DictConfig:
    """The configuration of a run, checked and with the keys that were added later.

    It is read from the file that Hydra wrote; if that is missing (as in a restored run) or damaged, from the result.

    Raises:
        UserError: the folder is not the folder of a run, or its configuration is not one of this project.
    """
    try:
        return stored_config(read_yaml(folder / STORED))
    except (FileNotFoundError, UserError) as error:
        result = read_result(folder)
        if result is None:
            says = str(error) if isinstance(error, UserError) else "not the folder of a run"
            raise UserError(f"run={folder}: {says}") from None
    try:
        return stored_config(result["config"])
    except UserError as error:
        raise UserError(f"run={folder}: {error}") from None


def stored_config(settings: Any) -> DictConfig:
    """A stored configuration brought up to date: on any device, with keys added later, and with today's modules.

    Raises:
        UserError: it is not a configuration of this project.
    """
    config = checked_config(settings) | {"device": "auto"}  # the device that it was trained on may not exist here
    for group, node in config.items():
        if isinstance(node, Mapping) and "_target_" in node:
            config[group] = dict(node) | {"_target_": current_target(str(node["_target_"]), group)}
    for (group, key), neutral in later_keys(config).items():
        config[group] = {key: neutral} | dict(config[group])
    whole = OmegaConf.create(config)
    check(whole)
    return whole


def refuse_other_run(folder: Path, config: DictConfig) -> None:
    """Raise `UserError` if a folder holds a run with settings other than these."""
    result, wanted = read_result(folder), fingerprint(config)
    try:
        held = result["fingerprint"] if result and "fingerprint" in result else fingerprint(read_config(folder))
    except UserError:
        return
    if held != wanted:
        raise UserError(f"{folder} holds another run ({held}, this is {wanted}); choose another folder")


def load_model(folder: Path, config: DictConfig, device: torch.device) -> tuple[SequenceModel, int]:
    """The network of a run with the selected weights, and the update at which they were selected.

    Raises:
        UserError: there is no checkpoint of this run, on these data, that is undamaged.
    """
    task = build_task(config)
    model = build_model(config, task).to(device)

    def take(loaded: Any) -> Selected | None:
        content = as_content(loaded)
        if is_of_other_data(content, task.data_digest):
            raise UserError(f"run={folder}: {OTHER_DATA}")
        if content["fingerprint"] != fingerprint(config):
            raise UserError(f"run={folder}: its checkpoints belong to another run ({content['fingerprint']})")
        if content["selected"] is not None:
            check_weights(model, content["selected"].weights, "selected")
        return content["selected"]

    selected = checkpoint.load_newest(folder / CHECKPOINTS, device, take)
    if selected is None:
        damaged = checkpoint.newest_first(folder / CHECKPOINTS)
        raise UserError(f"run={folder}: {'none of its checkpoints can be used' if damaged else 'has no checkpoint'}")
    model.load_state_dict(selected.weights)
    return model, selected.update


class LoadedRun(NamedTuple):
    """A run that has been loaded, for inspection."""

    config: DictConfig
    model: SequenceModel
    """The network with the selected weights, in evaluation mode."""
    task: Task
    update: int
    """The update at which the weights were selected."""
    metrics: dict[str, float]
    """The metrics of the selected weights, by tag, such as "test/error"; empty if the run has no result yet."""


def load_run(folder: Path | str, device: str = "cpu") -> LoadedRun:
    """Load the network, task, configuration and metrics of a run, as in `load_run("outputs/runs/<run>")`.

    Args:
        folder: the folder of the run.
        device: the device of the network and of the batches of the task.

    Raises:
        UserError: it is not the folder of a run, or it has no undamaged checkpoint.
    """
    path, on = Path(folder).expanduser(), torch.device(device)
    config = read_config(path)
    model, update = load_model(path, config, on)
    result = read_result(path)
    return LoadedRun(config, model.eval(), build_task(config).to(on), update, result["metrics"] if result else {})


def with_changes(config: DictConfig, changes: Mapping[str, Any]) -> DictConfig:
    """The configuration of a run with some settings of its task changed.

    Raises:
        UserError: the settings are wrong.
    """
    changed = config.copy()
    OmegaConf.set_struct(changed, False)
    changed.task = OmegaConf.merge(config.task, changes)
    check(changed)
    return changed


def check_same_symbols(config: DictConfig, task: Task) -> None:
    """Raise `UserError` if the symbols of a task, and so their numbers, are not those that a run was trained on."""
    if task.vocabulary is not None and (learned := build_task(config).vocabulary) is not None:
        symbols = set(task.vocabulary) ^ set(learned)
        if symbols:
            raise UserError(
                f"the changed task has other symbols than the task of the run: only one of the two has "
                f"{', '.join(map(repr, sorted(symbols)[:5]))}{', ...' if len(symbols) > 5 else ''}"
            )


def check_fits(model: SequenceModel, task: Task) -> None:
    """Raise `UserError` if a network does not accept the inputs of a task, or does not produce its outputs."""
    for learned, changed_to in ((model.input_spec, task.input_spec), (model.output_spec, task.output_spec)):
        if learned != changed_to:
            raise UserError(f"the network was built for {learned}, the changed task has {changed_to}")


def evaluate_on(model: SequenceModel, task: Task, split: Split) -> dict[str, float]:
    """The metrics of a network on a task that need not be the one it was trained on.

    Raises:
        UserError: it does not accept the inputs of the task, or does not produce its outputs.
    """
    check_fits(model, task)
    return evaluate(model, task, split)
