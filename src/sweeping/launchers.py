"""What the launchers of Hydra's plugins need to know of this machine and of these runs."""

import os

from omegaconf import DictConfig, open_dict


def num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def outlives_the_sweep(launcher: DictConfig) -> bool:
    """Whether the jobs belong to a queue, which goes on when the sweep is stopped."""
    return _kind(launcher) == "SlurmLauncher"


def fit(launcher: DictConfig, threads: int) -> int | None:
    """Keep the processes of a launcher, times the threads of a run, within the cores.

    Args:
        launcher: the launcher's settings, which are changed.
        threads: of one run.

    Returns:
        How many jobs to hand over at a time; None for all, where the launcher keeps to the limit by itself.
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
                if launcher.ray.init.get("address"):  # the size of a cluster's store is not the sweep's to say
                    launcher.ray.init.setdefault("object_store_memory", None)
                else:  # a dozen processes
                    launcher.ray.init.setdefault("include_dashboard", False)
    return None


def _kind(launcher: DictConfig) -> str:
    return str(launcher.get("_target_", "")).rpartition(".")[2]
