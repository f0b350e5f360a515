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
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge
from omegaconf import DictConfig, OmegaConf

from src.errors import UserError, in_one_line
from src.schema import Seed, check, check_keys


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """What the command takes beside `task.*`."""

    run: str
    split: Literal["train", "val", "test"] = "test"
    examples: Annotated[int, Ge(0)] = 8
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    seed: Seed | None = None


def evaluate_run(settings: EvaluateSettings, changes: dict[str, Any]) -> tuple[dict[str, float], list[str]]:
    """Metrics and rendered examples of a run's selected weights on its task with some settings changed."""

    from src.experiment import build_model, build_task, choose_device, examples
    from src.reports.tables import show_metrics
    from src.trainer import evaluate
    from src.utils import checkpoint

    folder = Path(settings.run)
    try:
        config = OmegaConf.load(folder / ".hydra" / "config.yaml")
    except OSError:
        raise UserError(f"run={settings.run}: not the folder of a run") from None
    assert isinstance(config, DictConfig)
    changed = config.copy()
    OmegaConf.set_struct(changed, False)
    changed.task = OmegaConf.merge(config.task, changes)
    changed.device = settings.device
    changed.seed = config.seed if settings.seed is None else settings.seed
    check(changed)
    device = choose_device(settings.device)
    content = checkpoint.load_newest(folder / "checkpoints", device)
    if content is None or content["selected"] is None:
        raise UserError(f"run={settings.run}: has no checkpoint yet")

    trained_on = build_task(config)
    model = build_model(config, trained_on).to(device)
    update, _, weights = content["selected"]
    model.load_state_dict(weights)

    task = build_task(changed).to(device)
    for learned, changed_to in ((trained_on.input_spec, task.input_spec), (trained_on.output_spec, task.output_spec)):
        if learned != changed_to:
            raise UserError(f"the network was built for {learned}, the changed task has {changed_to}")

    metrics = evaluate(model, task, settings.split)
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
        settings = EvaluateSettings(**OmegaConf.to_container(given))  # type: ignore[arg-type]
        _, examples = evaluate_run(settings, changes)
        print("\n".join(examples))


if __name__ == "__main__":
    main()
