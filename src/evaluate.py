"""Evaluate runs on any split, or on changed task settings.

    python -m src.evaluate run=outputs/runs/<run>
    python -m src.evaluate run=outputs/runs/<run> split=val examples=20
    python -m src.evaluate run=outputs/runs/<run> task.num_pairs=6
    python -m src.evaluate run=outputs/runs/<run> generate=500
    python -m src.evaluate 'run=outputs/compare/*' task.num_pairs=6 to=six_pairs.csv

Settings:
    run        the folder of a run, or of several, with *, ? and [...] as in the shell
    split      train, val or test (default test)
    examples   how many examples to show of a single run (default 8)
    to         a file ending in .json or .csv for the metrics, besides the table
    generate   how many steps of text or music to generate, instead of evaluating; music is also written to the run's
               folder, as generated.png and generated.mid
    temperature  of what is generated: log-probabilities are divided by it; above 0 (default 1)
    device     auto, cpu, cuda (default auto)
    task.*     any setting of the run's task
    seed       seed of the examples or of what is generated (default: that of the run); what a task draws once from
               the seed of its run, such as a permutation, stays the same
"""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, MinLen
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from src.config.errors import UserError, choose, in_one_line
from src.config.paths import RESULT, STORED
from src.config.schema import Seed, check_keys
from src.data.files import expanded
from src.utils.console import printing

COLDEST = 1e-30
"""Lower temperatures are raised to this one: quotients stay finite in float32, and the likeliest symbol is certain."""

if TYPE_CHECKING:
    from src.models.sequence import SequenceModel
    from src.tasks.base import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """The settings of the command, except `task.*`."""

    run: Annotated[str, MinLen(1)]
    split: Literal["train", "val", "test"] = "test"
    examples: Annotated[int, Ge(0)] = 8
    to: Annotated[str, MinLen(1)] | None = None
    generate: Annotated[int, Ge(1)] | None = None
    temperature: Annotated[float, Gt(0)] = 1.0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: Seed | None = None


def _loaded(settings: EvaluateSettings, changes: Mapping[str, Any]) -> tuple[DictConfig, "SequenceModel", int, "Task"]:
    """The changed configuration, the model of a run with its selected weights, their update, and the changed task."""
    from src.running.build import build_task, check_device, choose_device
    from src.running.load import check_same_symbols, load_model, read_config, with_changes

    check_device(settings.device)
    folder = Path(settings.run)
    config = read_config(folder)
    config.device = settings.device
    device = choose_device(config, to_train=False)
    changed = with_changes(config, changes)
    model, update = load_model(folder, config, device)
    task = build_task(changed).to(device)
    if settings.seed is not None:
        task.seed = settings.seed  # only of the examples: the constructor has already drawn what defines the task
    if changes:
        check_same_symbols(config, task)
    return changed, model, update, task


def generate(settings: EvaluateSettings, changes: Mapping[str, Any]) -> list[str]:
    """Lines of text generated with the selected weights of a run; music is also drawn, and written as MIDI."""
    import torch

    from src.running.load import check_fits

    assert settings.generate is not None
    _, model, _, task = _loaded(settings, changes)
    check_fits(model, task)
    generator = torch.Generator().manual_seed(task.seed)
    made = task.sample(model.eval(), settings.generate, generator, max(settings.temperature, COLDEST))
    if made.roll_TK is None:
        return made.text.splitlines()
    from src.reports.music import piano_roll_figure, write_midi

    folder = Path(settings.run)
    piano_roll_figure(made.roll_TK).savefig(folder / "generated.png", dpi=150)
    return [*made.text.splitlines(), f"{folder}/generated.png", write_midi(made.roll_TK, folder / "generated.mid")]


def evaluate_run(settings: EvaluateSettings, changes: Mapping[str, Any]) -> tuple[dict[str, float], list[str]]:
    """Metrics and rendered examples of the selected weights of a run, on its task with changed settings."""
    from src.reports.tables import show_metrics
    from src.running.examples import examples
    from src.running.load import evaluate_on
    from src.running.sizes import check_data

    changed, model, update, task = _loaded(settings, changes)
    check_data(changed, task, [settings.split])
    metrics = evaluate_on(model, task, settings.split)
    lines = []
    if settings.examples:
        batch, output = examples(model, task, settings.split, settings.examples)
        lines = [task.render(batch, row, output) for row in range(len(batch.inputs))]
    name = Path(settings.run).absolute().name
    show_metrics({settings.split: metrics}, task.floors, f"{name}, weights of update {update}")
    _write([{"run": name, "update": update} | {f"{settings.split}/{k}": v for k, v in metrics.items()}], settings.to)
    return metrics, lines


def evaluate_all(folders: Sequence[Path], settings: EvaluateSettings, changes: Mapping[str, Any]) -> list[str]:
    """Print and write the metrics of several runs, and return a line for each that cannot be evaluated."""
    from src.reports.tables import sweep_table
    from src.running.load import evaluate_on
    from src.running.sizes import check_data
    from src.utils.console import print_table

    rows, failures = [], []
    for folder in folders:
        try:
            changed, model, update, task = _loaded(dataclasses.replace(settings, run=str(folder)), changes)
            check_data(changed, task, [settings.split])
            metrics = evaluate_on(model, task, settings.split)
        except UserError as error:
            where = "" if str(folder) in str(error) else f"{folder}: "
            failures.append(f"error: {where}{error}")
            continue
        rows.append({"run": folder.name, "update": update} | {f"{settings.split}/{k}": v for k, v in metrics.items()})
    if rows:
        print_table(sweep_table(rows))
        _write(rows, settings.to)
    return failures


def folders_of(pattern: str) -> list[Path]:
    """The folders of runs that match a pattern, sorted by name.

    Raises:
        UserError: there is none.
    """
    found = sorted(map(Path, glob(pattern)))
    runs = [path for path in found if (path / RESULT).exists() or (path / STORED).exists()]
    if not runs:
        raise UserError(f"run={pattern}: matches no run")
    return runs


def _write(rows: Sequence[dict[str, Any]], to: str | None) -> None:
    """Write the metrics of runs with all digits, in the format given by the name of the file."""
    from src.reports.tables import to_csv
    from src.utils.files import write_whole
    from src.utils.jsonl import for_json

    if to is not None:
        text = to_csv(rows) if to.endswith(".csv") else json.dumps(for_json(rows), indent=2) + "\n"
        write_whole(Path(to), text.encode())


def _given(arguments: Sequence[str]) -> DictConfig:
    """The settings on the command line. Paths are not parsed as YAML, where `*` would begin an alias."""
    pairs = [argument.removeprefix("+").partition("=") for argument in arguments]
    names = [*(field.name for field in dataclasses.fields(EvaluateSettings)), "task"]
    keys = [key for key, *_ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"{key} is given twice")
        if key.partition(".")[0] not in names:
            raise UserError(f"{key} is not a setting{choose(key, [*names[:-1], 'task.*'])}")
    given = OmegaConf.create()
    for key, equals, value in pairs:
        if equals and key in ("run", "to"):
            path = str(expanded(value, f"{key}=")) if value.startswith("~") else value
            given[key] = path.replace("${", r"\${")  # which is not an interpolation here
            continue
        try:
            given.merge_with_dotlist([f"{key}{equals}{value}"])
        except YAMLError:
            raise UserError(f"{key}={value}: not a value; one with special characters needs quotes") from None
    return given


def _check_used(given: Mapping[Any, Any], settings: EvaluateSettings, number: int) -> None:
    """Raise `UserError` if a given setting has no effect for this number of runs, or does not support so many."""
    if settings.generate is not None:
        if number > 1:
            raise UserError(f"run={settings.run}: matches {number} runs, but generate takes only one")
        without_effect = dict.fromkeys(("split", "examples", "to"), "with generate")
    else:
        without_effect = {"temperature": "without generate"} | ({"examples": "with several runs"} if number > 1 else {})
    for key, when in without_effect.items():
        if key in given:
            raise UserError(f"{key}={given[key]}: has no effect {when}")


def _check_file(to: str | None) -> None:
    """Raise `UserError` if metrics cannot be written to a file; called before anything is evaluated."""
    if to is None:
        return
    if not to.endswith((".json", ".csv")):
        raise UserError(f"to={to}: must end in .json or .csv")
    if Path(to).is_dir():
        raise UserError(f"to={to}: is a folder")
    if not Path(to).parent.is_dir():
        raise UserError(f"to={to}: there is no folder {Path(to).parent}")


@printing()
def main() -> None:
    """The command."""
    arguments = sys.argv[1:]
    if not arguments or any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return
    with in_one_line():
        given = _given(arguments)
        changes = given.pop("task", OmegaConf.create())
        if not OmegaConf.is_dict(changes):
            raise UserError(f"task={changes}: only settings of the task can be changed: task.<key>=<value>")
        check_keys(given, EvaluateSettings, "")
        settings = EvaluateSettings(**OmegaConf.to_container(given, resolve=True))  # type: ignore[arg-type]
        is_pattern = any(sign in settings.run for sign in "*?[") and not Path(settings.run).expanduser().exists()
        folders = folders_of(settings.run) if is_pattern else [Path(settings.run)]
        _check_used(given, settings, len(folders))
        _check_file(settings.to)
        if len(folders) > 1:
            failures = evaluate_all(folders, settings, changes)
            sys.exit("\n".join(failures) or None)
        settings = dataclasses.replace(settings, run=str(folders[0]))
        lines = evaluate_run(settings, changes)[1] if settings.generate is None else generate(settings, changes)
        print("\n".join(lines))


if __name__ == "__main__":
    main()
