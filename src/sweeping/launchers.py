"""Adapts the launchers of Hydra's plugins to this machine and to the threads of a run."""

from omegaconf import DictConfig, OmegaConf, open_dict

from src.config.errors import UserError
from src.utils.machine import num_cores


def outlives_the_sweep(launcher: DictConfig) -> bool:
    """Whether the jobs belong to a queue, and continue when the sweep is stopped."""
    return _kind(launcher) == "SlurmLauncher"


def runs_here(launcher: DictConfig) -> bool:
    """Whether the runs share this machine, rather than use the machines of a queue or a cluster."""
    return not (outlives_the_sweep(launcher) or OmegaConf.select(launcher, "ray.init.address"))


def fit(launcher: DictConfig, threads: int) -> int | None:
    """Limit the processes of a launcher, so that with the threads of each run they do not exceed the cores.

    Args:
        launcher: the settings of the launcher, modified in place.
        threads: number of threads of one run.

    Returns:
        How many jobs to submit at a time; None for all, if the launcher limits them itself.
    """
    at_once = max(1, num_cores() // threads)
    with open_dict(launcher):
        match _kind(launcher):
            case "JoblibLauncher":
                if launcher.n_jobs < 1 and launcher.n_jobs != -1:
                    raise UserError(f"hydra.launcher.n_jobs={launcher.n_jobs}: must be at least 1, or -1 for all cores")
                launcher.n_jobs = min(launcher.n_jobs, at_once) if launcher.n_jobs > 0 else at_once
            case "LocalLauncher":
                return at_once
            case "SlurmLauncher":
                launcher.cpus_per_task = launcher.cpus_per_task or threads
            case "RayLauncher":
                launcher.ray.remote.setdefault("num_cpus", threads)
                if launcher.ray.init.get("address"):  # a cluster sets the size of its own store
                    launcher.ray.init.setdefault("object_store_memory", None)
                else:  # the dashboard would start a dozen processes
                    launcher.ray.init.setdefault("include_dashboard", False)
    return None


def _kind(launcher: DictConfig) -> str:
    return str(launcher.get("_target_", "")).rpartition(".")[2]
