"""What a sweep adds to its runs: all are known and checked before the first starts, and a table ends it."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from src.errors import exit_on_user_error
from src.identity import decisive_settings, flat, run_name, varied
from src.schema import check

log = logging.getLogger(__name__)


@dataclass
class _Sweep:
    """The runs of the sweep that this process has started."""

    folder: Path | None = None
    configurations: dict[str, dict[str, Any]] = field(default_factory=dict)


_sweep = _Sweep()


class Checks(Callback):
    """Checks every run before the first folder is made."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """A run that stands alone."""
        exit_on_user_error(lambda: check(config))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """All runs of a sweep."""
        exit_on_user_error(lambda: _prepare(config))


def _prepare(config: DictConfig) -> None:
    jobs = {}
    for job in _expand(config):
        check(job)
        jobs[run_name(job)] = flat(decisive_settings(job))
    _sweep.folder = Path(config.hydra.sweep.dir)
    _sweep.configurations = jobs


def _expand(config: DictConfig) -> Iterator[DictConfig]:
    """The configuration of every job that Hydra's basic sweeper will launch."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    loader = GlobalHydra.instance().config_loader()
    parameters = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    arguments = parameters + list(config.hydra.overrides.task)
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(arguments)
    for batch in BasicSweeper.split_arguments(overrides, None):
        for job in batch:
            yield loader.load_sweep_config(config, job)


@contextmanager
def ending_in_a_table() -> Iterator[None]:
    """After Hydra has returned or raised: the table of the sweep, if there was one, and the exit status."""
    _sweep.folder = None
    _sweep.configurations = {}
    status: Any = 0
    try:
        yield
    except SystemExit as ended:
        status = ended.code
    except KeyboardInterrupt:
        status = 130
    if _sweep.folder is not None and _sweep.folder.exists():
        rows = _rows(_sweep.folder)
        _report(_sweep.folder, rows)
        if not status and any(row["status"] not in ("finished", "diverged") for row in rows):
            status = 1
    if status:
        sys.exit(status)


def _rows(folder: Path) -> list[dict[str, Any]]:
    """One row per run: the settings that vary, how it ended, and its metrics."""
    from src.experiment import read_result

    keys = varied(list(_sweep.configurations.values()))
    rows = []
    for name, configuration in _sweep.configurations.items():
        result = read_result(folder / name) or {"status": "missing"}
        row = {key: configuration.get(key) for key in keys}
        row |= {"status": result["status"]}
        row |= result.get("metrics", {})
        row |= {"updates": result.get("updates"), "seconds": f"{result.get('seconds', 0):.1f}"}
        if result["status"] != "finished":
            row["reason"] = result.get("reason")
        rows.append(row | {"run": name})
    return rows


def _report(folder: Path, rows: list[dict[str, Any]]) -> None:
    from rich import get_console

    from src.reports.hparams import update_hparams_page
    from src.reports.tables import sweep_table, to_csv, to_markdown
    from src.utils.files import write_whole

    console = get_console()
    hidden = {"run"} if len({row["updates"] for row in rows}) > 1 else {"run", "updates"}
    console.print(sweep_table([{key: value for key, value in row.items() if key not in hidden} for row in rows]))
    update_hparams_page(folder)
    write_whole(folder / "summary.csv", to_csv(rows).encode())
    write_whole(folder / "summary.md", to_markdown(rows).encode())
    console.print(f"{folder}/summary.csv\ntensorboard --logdir {folder}", markup=False, highlight=False, soft_wrap=True)
