"""Run a reproduction and gather what its runs show."""

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from src.errors import CONFIGS, UserError, choose
from src.experiment import ENDED
from src.identity import register_resolvers
from src.papers.base import Evidence, Reproduction
from src.reports.cells import select
from src.reports.curves import read_scalars
from src.reports.runs import load_runs

PROJECT = CONFIGS.parent
Budget = Literal["quick", "full"]
METRICS = ("val/error", "val/nll")
ALWAYS_KEPT = ("model", "model.hidden_size", "optimizer.lr", "trainer.max_updates", "seed")
"""Settings that evidence has a column for even where they do not vary."""


def reproductions() -> dict[str, Reproduction]:
    """Every table and figure by its name: "ba2016/table1"."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*/*.py")):
        if path.stem != "__init__":
            name = f"{path.parent.name}/{path.stem}"
            found[name] = importlib.import_module(f"src.papers.{name.replace('/', '.')}").REPRODUCTION
    return found


def find(name: str) -> Reproduction:
    """The reproduction of this name.

    Raises:
        UserError: there is none.
    """
    known = reproductions()
    if name not in known:
        raise UserError(f"{name} is not a table or figure{choose(name, known)}")
    return known[name]


def configuration(experiment: str, overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration of an experiment; settings that it varies are at their defaults."""
    single = [override for override in overrides if "," not in override]
    register_resolvers()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", [f"experiment={experiment}", *single])


def experiments_of(reproduction: Reproduction, budget: Budget) -> list[str]:
    """The experiments of a budget."""
    left_out = reproduction.only_in_full if budget == "quick" else ()
    return [experiment for experiment in reproduction.experiments if experiment not in left_out]


def overrides_of(reproduction: Reproduction, experiment: str, budget: Budget) -> list[str]:
    """What a budget changes; the quick one keeps its runs in folders of its own."""
    if budget == "full":
        return []
    return [f"name={configuration(experiment).name}-quick", *reproduction.quick]


def folders_of(reproduction: Reproduction, budget: Budget) -> dict[str, Path]:
    """Where the runs of each experiment are."""
    folders = {}
    for experiment in experiments_of(reproduction, budget):
        config = configuration(experiment, overrides_of(reproduction, experiment, budget))
        folders[experiment] = Path(config.run.root) / config.name
    return folders


def run(name: str, budget: Budget, further: Sequence[str] = ()) -> int:
    """Launch the runs that are missing, several at a time if joblib's launcher is installed; the exit status."""
    reproduction = find(name)
    parallel = ["hydra/launcher=joblib"] if importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") else []
    status = 0
    experiments = experiments_of(reproduction, budget)
    for number, experiment in enumerate(experiments, start=1):
        print(f"{experiment} ({number} of {len(experiments)})", flush=True)
        overrides = [*overrides_of(reproduction, experiment, budget), *parallel, *further]
        command = [sys.executable, "-m", "src.train", "-m", f"experiment={experiment}", *overrides]
        ended = subprocess.run(command, check=False).returncode
        if ended in (130, -2):
            return 130
        status = status or ended
    return status


def evidence_of_runs(name: str, budget: Budget) -> Evidence:
    """What the runs in the output folder show so far.

    Raises:
        UserError: there are none.
    """
    reproduction = find(name)
    rows: list[dict[str, Any]] = []
    curves, measured = [], [pd.DataFrame()]
    for experiment, folder in folders_of(reproduction, budget).items():
        wanted = configuration(experiment)
        search = OmegaConf.to_container(wanted.search, resolve=True)
        chosen = _chosen(folder, search, reproduction.settings)  # type: ignore[arg-type]
        for row in chosen:
            rows.append({"name": wanted.name} | row)
            curve = read_scalars(folder / row["run"], METRICS)
            curves.append(pd.DataFrame(curve).rename_axis("update").reset_index().assign(run=row["run"]))
        if chosen and reproduction.measure is not None:
            measured.append(reproduction.measure(folder, pd.DataFrame(chosen)))
    if not rows:
        raise UserError(f"{name}: no run has finished; start them with: python scripts/reproduce.py run {name}")
    points = pd.concat(curves, ignore_index=True)[["run", "update", *METRICS]]
    return Evidence(pd.DataFrame(rows), points, pd.concat(measured, ignore_index=True))


def _chosen(folder: Path, search: dict[str, Any], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The runs of a folder with these settings, at the point of the grid chosen on the validation set.

    These are the finished ones, and those that diverged, whose metrics are of the best weights before. Where no run of
    a cell has finished, there is no choice, and all its runs that diverged stand for it.
    """
    runs = load_runs(folder)
    runs = runs[[settings.items() <= found.items() for found in runs["settings"]]]
    if runs.empty:
        return []
    cells = select(runs, search)
    measured = []
    for cell in cells:
        of_choice = cell.grid if cell.choice is None else cell.chosen
        ended = of_choice[of_choice["status"].isin(ENDED)]
        num_points = cell.searched.loc[cell.searched["status"].isin(ENDED), "point"].nunique()
        measured += [(row, num_points) for _, row in ended.iterrows()]
    varied = list(runs.columns[: runs.columns.get_loc("status")])
    kept = [*dict.fromkeys([*ALWAYS_KEPT, *varied])]
    metrics = [column for column in runs.columns if column.startswith(("val/", "test/"))]
    numbers = [*metrics, "selected_update", "updates", "seconds", "num_parameters", "state_size"]
    return [
        {"run": row["run"], "status": row["status"], "grid_points": num_points}
        | {key: row["settings"].get(key) for key in kept}
        | {key: row[key] for key in numbers}
        for row, num_points in measured
    ]
