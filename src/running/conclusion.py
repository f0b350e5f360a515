"""How a command says how its run ended: a table or a line, and the exit status."""

import logging
import re
import sys
from pathlib import Path
from typing import Any

from src.config.paths import LOG, PROJECT
from src.reports.hparams import update_hparams_page
from src.reports.tables import one_line, show_run
from src.results.result import ENDED
from src.training.signals import exit_status

log = logging.getLogger(__name__)


def conclude(result: dict[str, Any], folder: Path, in_sweep: bool) -> float:
    """Say how the run ended, and end the command unless the run is part of a sweep."""
    status = result["status"]
    if status == "interrupted":
        log.info("%s; the same command resumes it", result["reason"])
        raise KeyboardInterrupt(exit_status())
    if status not in ENDED:
        if in_sweep:
            log.error("%s", one_line(result, folder))
            return float("nan")
        place = f" ({_line(result['traceback'])}see {folder}/{LOG})" if "traceback" in result else ""
        sys.exit(f"error: {result['reason']}{place}")
    if in_sweep:
        log.info("%s", one_line(result, folder))
    else:
        update_hparams_page(folder.parent)
        show_run(result, folder)
    return next((value for tag, value in result["metrics"].items() if tag.startswith("test/")), float("nan"))


def _line(traceback: str) -> str:
    """The last line of the project in a traceback: "src/models/mine.py:27, "."""
    places = re.findall(r'File "(.+?)", line (\d+)', traceback)
    own = [(Path(file), line) for file, line in places if Path(file).is_relative_to(PROJECT / "src")]
    return f"{own[-1][0].relative_to(PROJECT)}:{own[-1][1]}, " if own else ""
