"""Evaluate a run on any split, or on changed task settings.

    python -m src.evaluate run=outputs/runs/<run>
    python -m src.evaluate run=outputs/runs/<run> split=val examples=20
    python -m src.evaluate run=outputs/runs/<run> task.num_pairs=6

Settings:
    run        the folder of a run
    split      train, val or test (default test)
    examples   how many examples to show (default 8)
    device     auto, cpu, cuda, mps (default auto)
    task.*     any setting of the run's task
    seed       of the data (default: the run's own)
"""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge
from omegaconf import DictConfig, OmegaConf

from src.errors import UserError, in_one_line
from src.identity import register_resolvers
from src.schema import Seed, check, check_device, check_keys

if TYPE_CHECKING:
    import torch

    from src.models.sequence import SequenceModel
    from src.tasks.base import Split, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """What the command takes beside `task.*`."""

    run: str
    split: Literal["train", "val", "test"] = "test"
    examples: Annotated[int, Ge(0)] = 8
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    seed: Seed | None = None


def read_config(folder: Path) -> DictConfig:
    """The configuration of a run.

    Raises:
        UserError: the folder is not that of a run.
    """
    register_resolvers()
    try:
        config = OmegaConf.load(folder / ".hydra" / "config.yaml")
    except OSError:
        raise UserError(f"run={folder}: not the folder of a run") from None
    assert isinstance(config, DictConfig)
    return config


def load_model(folder: Path, config: DictConfig, device: "torch.device") -> tuple["SequenceModel", int]:
    """The network of a run with the selected weights, and the update that they are of.

    Raises:
        UserError: there is no checkpoint yet.
    """
    from src.experiment import build_model, build_task
    from src.utils import checkpoint

    content = checkpoint.load_newest(folder / "checkpoints", device)
    if content is None or content["selected"] is None:
        raise UserError(f"run={folder}: has no checkpoint yet")
    model = build_model(config, build_task(config)).to(device)
    update, _, weights = content["selected"]
    model.load_state_dict(weights)
    return model, update


def with_changes(config: DictConfig, changes: Mapping[str, Any], seed: int | None = None) -> DictConfig:
    """The configuration of a run with some settings of its task changed, and another seed if there is one.

    Raises:
        UserError: the settings are wrong.
    """
    changed = config.copy()
    OmegaConf.set_struct(changed, False)
    changed.task = OmegaConf.merge(config.task, changes)
    changed.device = "auto"
    changed.seed = config.seed if seed is None else seed
    check(changed)
    return changed


def evaluate_on(model: "SequenceModel", task: "Task", split: "Split") -> dict[str, float]:
    """The metrics of a network on a task that need not be the one it was trained on.

    Raises:
        UserError: it does not take the inputs of the task, or give its outputs.
    """
    from src.trainer import evaluate

    for learned, changed_to in ((model.input_spec, task.input_spec), (model.output_spec, task.output_spec)):
        if learned != changed_to:
            raise UserError(f"the network was built for {learned}, the changed task has {changed_to}")
    return evaluate(model, task, split)


def evaluate_run(settings: EvaluateSettings, changes: Mapping[str, Any]) -> tuple[dict[str, float], list[str]]:
    """Metrics and rendered examples of a run's selected weights on its task with some settings changed."""
    from src.experiment import build_task, choose_device, examples
    from src.reports.tables import show_metrics

    check_device(settings.device)
    folder = Path(settings.run)
    device = choose_device(settings.device)
    config = read_config(folder)
    changed = with_changes(config, changes, settings.seed)
    model, update = load_model(folder, config, device)
    task = build_task(changed).to(device)
    metrics = evaluate_on(model, task, settings.split)
    lines = []
    if settings.examples:
        batch, output = examples(model, task, settings.split, settings.examples)
        lines = [task.render(batch, row, output) for row in range(len(batch.inputs))]
    show_metrics({settings.split: metrics}, task.floors, f"{folder.name}, weights of update {update}")
    return metrics, lines


def main() -> None:
    """The command."""
    arguments = sys.argv[1:]
    if not arguments or any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return
    with in_one_line():
        given = OmegaConf.from_dotlist([argument.removeprefix("+") for argument in arguments])
        changes = given.pop("task", OmegaConf.create())
        if not OmegaConf.is_dict(changes):
            raise UserError(f"task={changes}: must be a group of settings")
        check_keys(given, EvaluateSettings, "")
        settings = EvaluateSettings(**OmegaConf.to_container(given, resolve=True))  # type: ignore[arg-type]
        _, examples = evaluate_run(settings, changes)
        print("\n".join(examples))


if __name__ == "__main__":
    main()
