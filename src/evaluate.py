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
    seed       of the data (default: that of the run)
"""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge
from omegaconf import OmegaConf

from src.config.errors import UserError, in_one_line
from src.config.schema import Seed, check_keys
from src.utils.console import printing


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """The settings of the command, except `task.*`."""

    run: str
    split: Literal["train", "val", "test"] = "test"
    examples: Annotated[int, Ge(0)] = 8
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    seed: Seed | None = None


def evaluate_run(settings: EvaluateSettings, changes: Mapping[str, Any]) -> tuple[dict[str, float], list[str]]:
    """Metrics and rendered examples of the selected weights of a run, on its task with changed settings."""
    from src.reports.tables import show_metrics
    from src.running.build import build_task, check_device, choose_device
    from src.running.examples import examples
    from src.running.load import evaluate_on, load_model, read_config, with_changes
    from src.running.sizes import check_data

    check_device(settings.device)
    folder = Path(settings.run).expanduser()
    config = read_config(folder)
    config.device = settings.device
    device = choose_device(config, to_train=False)
    changed = with_changes(config, changes, settings.seed)
    model, update = load_model(folder, config, device)
    task = build_task(changed).to(device)
    check_data(changed, task, [settings.split])
    metrics = evaluate_on(model, task, settings.split)
    lines = []
    if settings.examples:
        batch, output = examples(model, task, settings.split, settings.examples)
        lines = [task.render(batch, row, output) for row in range(len(batch.inputs))]
    show_metrics({settings.split: metrics}, task.floors, f"{folder.name}, weights of update {update}")
    return metrics, lines


@printing()
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
