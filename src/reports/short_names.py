"""Short names for the runs of a folder in TensorBoard, which names a run by its path.

The folder name of a run lists its main settings, whether or not they vary. Links with shorter names, in a separate
folder, lead to the same event files.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from src.config.paths import FLOORS, SUMMARY
from src.config.settings import label_of
from src.results.runs import Run, load_runs, varied_settings

LONGEST = 60
"""Maximum length of a short name in characters; a run that would need more keeps the name of its folder."""


def link_runs(folder: Path, links: Path) -> int:
    """Link the runs of a folder, its floors and its summary into another folder, and return how many runs there are.

    Existing links are kept. Runs of a sweep that have not started are linked as well, so that TensorBoard finds them
    later.
    """
    runs = load_runs(folder)
    targets = {name: folder / run for run, name in short_names(runs).items()}
    tasks = [path for path in (folder / FLOORS).glob("*") if path.is_dir()]
    targets |= {FLOORS: tasks[0] if len(tasks) == 1 else folder / FLOORS, SUMMARY: folder / SUMMARY}
    linked = {link.readlink() for link in links.iterdir()}
    for name, target in targets.items():
        if target.absolute() not in linked and not (links / name).is_symlink():
            (links / name).symlink_to(target.absolute(), target_is_directory=True)
    return len(runs)


def short_names(runs: Sequence[Run]) -> dict[str, str]:
    """{folder: name}: names from the settings that vary, model first and seed last, as in "lstm, lr 0.001, seed 0"."""
    order = {"model": -1, "seed": 1}
    keys = sorted(varied_settings(runs) or ["model"], key=lambda key: order.get(key, 0))
    labels = {
        run.name: label_of([(key, run.settings[key]) for key in keys if key in run.settings], keys) for run in runs
    }
    count = Counter(labels.values())
    return {
        folder: label.replace("/", "_") if 0 < len(label) <= LONGEST and count[label] == 1 else folder.replace("/", "_")
        for folder, label in labels.items()
    }
