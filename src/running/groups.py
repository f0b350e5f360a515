"""Determines which runs of a sweep are trained as one program: those that differ only in seeds and numbers.

A group is launched as its first run. The folder of that run lists the others, and their folders hold their
configurations, so that any launcher and any process can train them.
"""

import json
import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from pydantic import TypeAdapter

from src.config.errors import UserError, explain
from src.config.fingerprint import run_name
from src.config.jobs import Job
from src.config.paths import GROUP, OVERRIDES, STORED
from src.config.settings import resolved
from src.results.manifest import RunFolder
from src.results.stored import read_json, read_yaml
from src.running.build import build_trainer_on, check, choose_device
from src.training.population import Stacked, signature
from src.training.update import Update
from src.utils.files import write_whole

log = logging.getLogger(__name__)
MOST = 256
"""At most this many runs form a group, since each needs a few open files."""
MOST_BYTES = 2**18
OF_EACH_RUN = frozenset(
    {
        "max_updates", "eval_every", "log_every", "checkpoint_every", "stop_at", "patience", "clip_norm",
        "norm_stabilizer",
    }
)  # fmt: skip
"""Settings of the trainer in which the runs of a group may differ."""
_NAMES = TypeAdapter(list[RunFolder])


def group(configs: Mapping[str, DictConfig]) -> list[list[str]]:
    """Divide runs into groups of at most `run.together`, in the order of their first runs."""
    alike: dict[Hashable, list[str]] = {}
    stackable: dict[Hashable, bool] = {}
    with torch.random.fork_rng(devices=[]):
        for name, config in configs.items():
            kind: Hashable = name
            if _most(config) > 1 and (update := _update_of(config)) is not None:
                kind = _kind(config, update)
                if kind not in stackable:
                    stackable[kind] = _is_stackable(update, name)
            alike.setdefault(kind if stackable.get(kind) else name, []).append(name)
    most = max(map(_most, configs.values()), default=1)
    return [names[start : start + most] for names in alike.values() for start in range(0, len(names), most)]


def _most(config: DictConfig) -> int:
    together = config.run.together
    if together != "auto":
        return int(together)
    return MOST if choose_device(config).type == "cuda" else 1


def _update_of(config: DictConfig) -> Update | None:
    """The `Update` of a run, on the CPU; None if the run has to be trained alone.

    That is the case if it adds weight noise, is profiled, or cannot be built: then it fails by itself, and the others
    continue.
    """
    if config.trainer.weight_noise or config.trainer.profile_updates:
        return None
    try:
        return build_trainer_on(torch.device("cpu"), config, Path(), "").update
    except Exception:
        return None


def _kind(config: DictConfig, update: Update) -> Hashable:
    """What has to be equal in all runs of a group."""
    whole: Any = OmegaConf.to_container(config, resolve=True)
    trainer = {key: value for key, value in whole["trainer"].items() if key not in OF_EACH_RUN}
    settings = json.dumps([whole["device"], whole["task"], trainer], sort_keys=True)
    return settings, config.trainer.norm_stabilizer > 0, signature(update)


def _is_stackable(update: Update, name: str) -> bool:
    """Whether one program can do such updates, tried on an example; it cannot draw random numbers, for instance."""
    update.state.model.train()
    try:
        stacked = Stacked([update])
        example = update.task.example()
        batch = example.map(lambda tensor: tensor[None])
        state: Any = stacked.gradients(batch, []).output.state
        if update.carries_state:
            stacked.gradients(batch, [tensor.detach() for tensor in state])
    except Exception as error:  # such as an operation that torch.func.vmap lacks
        log.info("%s, and runs like it, are trained one by one: %s", name, explain(error).splitlines()[0])
        return False
    return True


def write_config(folder: Path, config: DictConfig, overrides: Sequence[str]) -> None:
    """Write the files that Hydra would write into the folder of a run."""
    (folder / STORED).parent.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(resolved(config), folder / STORED)
    OmegaConf.save(OmegaConf.create(list(overrides)), folder / OVERRIDES)


def write_group(folder: Path, runs: Mapping[str, tuple[Job, DictConfig]]) -> None:
    """List the other runs, if any, in the folder of the first, and write their configurations as Hydra does."""
    first, *others = runs
    path = folder / first / GROUP
    if not others:
        path.unlink(missing_ok=True)
        return
    for name in others:
        overrides, config = runs[name]
        write_config(folder / name, config, overrides)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(others).encode())


def others_of_group(folder: Path) -> dict[Path, DictConfig]:
    """The other runs in the group of a run, with their configurations; damaged ones are left out, with a warning."""
    found = {}
    for name in read_json(folder / GROUP, _NAMES, MOST_BYTES) or []:
        other = folder.parent / name
        try:
            config = OmegaConf.create(read_yaml(other / STORED))
            check(config, to_run=True)
            if run_name(config) != name:
                raise UserError(f"its configuration is that of {run_name(config)}")
        except (OSError, UserError) as error:
            log.warning("%s is skipped: %s; run the same command again to train it", other, explain(error))
        else:
            found[other] = config
    return found
