"""Adapts the launchers of Hydra's plugins to this machine and to the threads of a run."""

import os

from omegaconf import DictConfig, open_dict


def num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def outlives_the_sweep(launcher: DictConfig) -> bool:
    """Whether the jobs belong to a queue, and continue when the sweep is stopped."""
    return _kind(launcher) == "SlurmLauncher"


def fit(launcher: DictConfig, threads: int) -> int | None:
    """Keep the processes of a launcher, times the threads of a run, within the cores.

    Args:
        launcher: its settings, modified in place.
        threads: of one run.

    Returns:
        How many jobs to submit at a time; None for all, if the launcher limits them itself.
    """
    at_once = max(1, num_cores() // threads)
    with open_dict(launcher):
        match _kind(launcher):
            case "JoblibLauncher":
                launcher.n_jobs = min(launcher.n_jobs, at_once) if launcher.n_jobs > 0 else at_once
            case "LocalLauncher":
                return at_once
            case "SlurmLauncher":
                launcher.cpus_per_task = launcher.cpus_per_task or threads
            case "RayLauncher":
                launcher.ray.remote.setdefault("num_cpus", threads)
                if launcher.ray.init.get("address"):  # a cluster sets the size of its own store
                    launcher.ray.init.setdefault("object_store_memory", None)
                else:  # it would start a dozen processes
                    launcher.ray.init.setdefault("include_dashboard", False)
    return None


def _kind(launcher: DictConfig) -> str:
    return str(launcher.get("_target_", "")).rpartition(".")[2]
