"""Runs a reproduction and gathers its evidence."""

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from omegaconf import DictConfig

from src.config.compose import compose, with_one_value
from src.config.errors import UserError, choose
from src.config.fingerprint import run_name
from src.config.jobs import jobs_of
from src.config.paths import CHECKPOINTS, PROJECT, REFERENCE, folder_of_runs
from src.config.schema import SearchSettings
from src.config.settings import spelled
from src.reproduction.base import MEASURED, Evidence, Reproduction
from src.results.curves import read_curves
from src.results.runs import Run, load_runs, varied_settings
from src.results.selection import cells
from src.utils.machine import num_cores

Budget = Literal["quick", "full"]
ALWAYS_KEPT = ("model", "model.hidden_size", "optimizer.lr", "trainer.max_updates", "seed")
"""Settings with a column in the evidence even if they do not vary."""
PAPERS = PROJECT / "src" / "papers"
OF_QUICK = "-quick"
"""Suffix of the names of quick runs."""
NUMBERS = ("selected_update", "updates", "seconds", "num_parameters", "state_size")


def reproductions() -> dict[str, Reproduction]:
    """Every reproduction by name, such as "ba2016/table1"."""
    found = {}
    for path in sorted(PAPERS.glob("*/*.py")):
        if path.stem != "__init__":
            name = f"{path.parent.name}/{path.stem}"
            found[name] = importlib.import_module(f"src.papers.{name.replace('/', '.')}").REPRODUCTION
    return found


def find(name: str) -> Reproduction:
    """The reproduction with this name.

    Raises:
        UserError: there is none.
    """
    known = reproductions()
    if name not in known:
        raise UserError(f"{name} is not a table or figure{choose(name, known)}")
    return known[name]


def configuration(experiment: str, overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration of an experiment, with the settings that it varies at their defaults."""
    return compose(f"experiment={experiment}", *with_one_value(overrides))


def experiments_of(reproduction: Reproduction, budget: Budget) -> list[str]:
    """The experiments of a budget."""
    left_out = reproduction.only_in_full if budget == "quick" else ()
    return [experiment for experiment in reproduction.experiments if experiment not in left_out]


def overrides_of(reproduction: Reproduction, experiment: str, budget: Budget) -> list[str]:
    """The overrides of a budget; quick runs have separate folders."""
    if budget == "full":
        return []
    return [f"name={configuration(experiment).name}{OF_QUICK}", *reproduction.quick]


def folders_of(reproduction: Reproduction, budget: Budget, further: Sequence[str] = ()) -> dict[str, Path]:
    """The folder of the runs of each experiment; `further` overrides may change where it is."""
    folders = {}
    for experiment in experiments_of(reproduction, budget):
        config = configuration(experiment, [*launcher(), *overrides_of(reproduction, experiment, budget), *further])
        folders[experiment] = folder_of_runs(config)
    return folders


def run(name: str, budget: Budget, further: Sequence[str] = ()) -> int:
    """Launch missing runs, several at a time if the joblib launcher is installed; return the exit status."""
    reproduction = find(name)
    this_clone = os.environ | {"PYTHONPATH": str(PROJECT)}  # whichever clone is installed or current
    status = 0
    folders = folders_of(reproduction, budget, further)
    for number, (experiment, folder) in enumerate(folders.items(), start=1):
        print(f"{experiment} ({number} of {len(folders)})", flush=True)
        for command in commands_of(reproduction, experiment, budget, further):
            ended = subprocess.run(command, check=False, env=this_clone).returncode
            if ended in (130, -2):
                return 130
            status = status or ended
        for line in edges_of(reproduction, experiment, budget, folder):
            print(line, flush=True)
    return status


def commands_of(
    reproduction: Reproduction, experiment: str, budget: Budget, further: Sequence[str] = ()
) -> list[list[str]]:
    """The commands that launch the runs of an experiment: a sweep, or a search for each study."""
    overrides = [f"experiment={experiment}", *overrides_of(reproduction, experiment, budget), *further]
    searches = reproduction.searches
    if searches is None or experiment not in searches.studies:
        return [[sys.executable, "-P", "-m", "src.train", "-m", overrides[0], *launcher(), *overrides[1:]]]
    trials = searches.trials if budget == "full" else searches.quick_trials
    search = [sys.executable, str(PROJECT / "scripts" / "search.py"), "--trials", str(trials)]
    workers = max(1, num_cores() // configuration(experiment, overrides[1:]).trainer.threads)
    search += ["--workers", str(workers)]
    return [[*search, *overrides, *study.fixed, *study.ranges] for study in searches.studies[experiment]]


def launcher() -> list[str]:
    """The override that makes a sweep launch several runs at a time, if the joblib launcher is installed."""
    return ["hydra/launcher=joblib"] if importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") else []


def edges_of(reproduction: Reproduction, experiment: str, budget: Budget, folder: Path) -> list[str]:
    """For each value chosen from the runs in a folder that is at an edge, a line that says what to add to the grid."""
    runs, _ = runs_of(reproduction, experiment, budget, folder)
    where = f"configs/experiment/{experiment}.yaml" if budget == "full" else "the grid"
    lines = []
    for cell in cells(runs, SearchSettings.of(configuration(experiment))):
        for edge in cell.edges:
            offer = "" if edge.beyond is None else f"; add it to {edge.key} in {where} and run this again"
            lines.append(f"{spelled(cell.settings) or experiment}: {edge}{offer}")
    return lines


def evidence_of_runs(name: str, budget: Budget, further: Sequence[str] = ()) -> Evidence:
    """The evidence from the runs so far, in the folders to which a command with `further` overrides writes them.

    Raises:
        UserError: no run has ended.
    """
    reproduction = find(name)
    rows: list[dict[str, Any]] = []
    curves, measured = [], [pd.DataFrame()]
    folders, found = folders_of(reproduction, budget, further), {}
    for experiment, folder in folders.items():
        found[experiment], others = runs_of(reproduction, experiment, budget, folder)
        if others:
            print(f"{experiment}: runs with other settings do not count: {', '.join(others)}", flush=True)
    homes = _homes(found, folders)
    seen: set[str] = set()
    keys = [*dict.fromkeys([*ALWAYS_KEPT, *sorted(varied_settings([*chain.from_iterable(found.values())]))])]
    for experiment in folders:
        wanted = configuration(experiment)
        counting = runs_that_count([homes[run.name][0] for run in found[experiment]], SearchSettings.of(wanted), keys)
        rows += [{"name": wanted.name} | row for row in counting]
        by_home: dict[Path, list[dict[str, Any]]] = {}
        for row in counting:
            if row["run"] not in seen:
                by_home.setdefault(homes[row["run"]][1], []).append(row)
        seen |= {row["run"] for row in counting}
        for home, at_home in by_home.items():
            for row in at_home:
                curve = read_curves(home / row["run"], reproduction.curves)
                curves.append(pd.DataFrame(curve).rename_axis("update").reset_index().assign(run=row["run"]))
            if reproduction.measure is not None:
                measured.append(_measured(name, reproduction, home, pd.DataFrame(at_home)))
    if not rows:
        command = " ".join([f"python scripts/reproduce.py run {name} --budget {budget}", *further])
        raise UserError(f"{name}: no run has finished; start them with: {command}")
    points = pd.concat(curves, ignore_index=True)[["run", "update", *reproduction.curves]]
    return Evidence(pd.DataFrame(rows), points, pd.concat(measured, ignore_index=True))


def _homes(found: Mapping[str, Sequence[Run]], folders: Mapping[str, Path]) -> dict[str, tuple[Run, Path]]:
    """The copy of each run that counts (the first one that has ended) and its folder, by the name of the run.

    A run that belongs to several experiments is one run, whichever of them trained it.
    """
    copies = [(run, folders[experiment]) for experiment, runs in found.items() for run in runs]
    copies.sort(key=lambda copy: not copy[0].ended)
    return {run.name: (run, folder) for run, folder in reversed(copies)}


def _measured(name: str, reproduction: Reproduction, folder: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Measure runs; for restored ones, which have no weights, take the committed measurements."""
    assert reproduction.measure is not None
    if not reproduction.measure_needs_weights:
        return reproduction.measure(folder, runs)
    path = REFERENCE / name / MEASURED
    committed = pd.read_csv(path) if path.exists() else pd.DataFrame({"run": []})
    trained = pd.Series([(folder / run / CHECKPOINTS).exists() for run in runs["run"]], runs.index)
    restored = runs.loc[~trained, "run"]
    if num_unknown := int((~restored.isin(committed["run"])).sum()):
        print(f"{name}: not measured for lack of weights: {num_unknown} restored runs", flush=True)
    tables = [committed[committed["run"].isin(restored)]]
    if trained.any():
        tables.append(reproduction.measure(folder, runs[trained]))
    return pd.concat(tables, ignore_index=True)


def runs_of(reproduction: Reproduction, experiment: str, budget: Budget, folder: Path) -> tuple[list[Run], list[str]]:
    """The runs in a folder that belong to an experiment, and the names of others with the reproduction's settings."""
    found = {run.name: run for run in load_runs(folder) if reproduction.settings.items() <= run.settings.items()}
    if reproduction.searches is not None and experiment in reproduction.searches.studies:
        return list(found.values()), []
    jobs = jobs_of([f"experiment={experiment}", *overrides_of(reproduction, experiment, budget)])
    wanted = [run_name(config) for _, config in jobs]
    return [found[name] for name in wanted if name in found], [name for name in found if name not in set(wanted)]


def runs_that_count(runs: Sequence[Run], search: SearchSettings, keys: Sequence[str]) -> list[dict[str, Any]]:
    """The runs at the grid point chosen on the validation set, as rows of evidence with the settings `keys`.

    Only runs that finished or diverged count; a diverged run has the metrics of its best weights before it diverged.
    In a cell without a finished run nothing can be chosen, and the diverged runs at its first grid point count.
    """
    tags = dict.fromkeys(tag for run in runs for tag in run.metrics)
    rows = []
    for cell in cells(runs, search):
        tried = [of_point for of_point in cell.searched.values() if any(run.ended for run in of_point)]
        for run in cell.chosen if cell.choice else next(iter(tried), ()):
            if run.ended:
                row: dict[str, Any] = {"run": run.name, "status": run.status, "grid_points": len(tried)}
                row["edge"] = " ".join(edge.key for edge in cell.edges)
                row |= {key: run.settings.get(key) for key in keys} | {tag: run.metrics.get(tag) for tag in tags}
                rows.append(row | {name: getattr(run, name) for name in NUMBERS})
    return rows
